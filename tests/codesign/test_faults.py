"""kill -9 of a worker, of the client and of the scheduler, each in the middle of a trial.

After every one of them: no finished trial is lost, none is computed twice, and the search ends where it would have ended.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spikeloom.codesign.search import SearchResult, search
from spikeloom.errors import SearchError
from spikeloom.files.results import read_trials
from tests.codesign.clusters import ROOT, client, dask_cluster, kill, meanwhile, wait_for
from tests.codesign.toys import SETTINGS, SPACE, Toy, check_undisturbed, noted

pytest.importorskip("distributed", reason="workers need Dask")
pytestmark = pytest.mark.xdist_group("dask")


def run(folder: Path, name: str, *, hang: Path | None = None, seconds: float = 0.02, **where: Any) -> SearchResult:
    return search(SPACE, Toy(folder / "diary", seconds, hang), SETTINGS[name], folder / "study", **where)


def kill_who_hangs(hang: Path) -> None:
    wait_for(lambda: hang.exists() and hang.read_text() != "")
    kill(int(hang.read_text()))


def finished(folder: Path) -> set[str]:
    return set(noted(folder / "diary", "finish"))


@pytest.mark.parametrize("name", ["nsga2", "grid"])
def test_a_killed_worker_of_a_cluster_loses_its_trial_to_another(tmp_path: Path, name: str) -> None:
    with dask_cluster(tmp_path) as cluster, meanwhile(lambda: kill_who_hangs(tmp_path / "hang")):
        result = run(tmp_path, name, hang=tmp_path / "hang", cluster=cluster.address)
        assert sum(worker.poll() is not None for worker in cluster.workers) == 1
    check_undisturbed(name, result, tmp_path / "diary")
    assert sorted(noted(tmp_path / "diary", "start").values())[-2:] == [1, 2], "the lost one was started again"


def test_a_killed_local_worker_is_replaced(tmp_path: Path) -> None:
    with meanwhile(lambda: kill_who_hangs(tmp_path / "hang")):
        result = run(tmp_path, "nsga2", hang=tmp_path / "hang", workers=4)
    check_undisturbed("nsga2", result, tmp_path / "diary")


@pytest.mark.parametrize("name", ["nsga2", "grid"])
def test_a_killed_client_of_a_cluster_resumes(tmp_path: Path, name: str) -> None:
    with dask_cluster(tmp_path) as cluster:
        wait_and_kill_client(tmp_path, "--settings", name, "--cluster", cluster.address, "--seconds", "0.2")
        kept = finished(tmp_path)
        # its workers may still be at the trials they had; those are waited for, not computed again
        result = run(tmp_path, name, cluster=cluster.address)
    assert len(kept) >= 4
    check_undisturbed(name, result, tmp_path / "diary")


def test_a_killed_client_takes_its_local_workers_along_and_resumes(tmp_path: Path) -> None:
    wait_and_kill_client(tmp_path, "--workers", "2", "--seconds", "0.2")
    result = run(tmp_path, "nsga2")
    check_undisturbed("nsga2", result, tmp_path / "diary")


def wait_and_kill_client(folder: Path, *arguments: str | Path, hang: Path | None = None) -> None:
    """Kill a client in the middle of a trial; before that, if asked, the worker of a trial that hangs."""
    process = client(folder, *arguments, *(() if hang is None else ("--hang", hang)))
    try:
        if hang is not None:
            kill_who_hangs(hang)
        wait_for(lambda: len(finished(folder)) >= 4 and len(noted(folder / "diary", "start")) > len(finished(folder)))
    finally:
        kill(process.pid)
        process.communicate()


@pytest.mark.parametrize("name", ["nsga2", "grid"])
def test_a_killed_scheduler_ends_the_search_in_one_line_and_it_resumes(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikeloom.codesign.workers.PATIENCE_S", 1.0)
    lost = r"lost the connection to the scheduler; finished trials are kept"
    with (
        dask_cluster(tmp_path) as cluster,
        meanwhile(lambda: kill_when_four(tmp_path, cluster.scheduler.pid)),
        pytest.raises(SearchError, match=lost),
    ):
        run(tmp_path, name, cluster=cluster.address, seconds=0.1)
    recorded = {trial.id for trial in read_trials(tmp_path / "study" / "results.jsonl").trials}
    assert recorded == finished(tmp_path) and len(recorded) >= 4
    result = run(tmp_path, name)
    check_undisturbed(name, result, tmp_path / "diary")


def kill_when_four(folder: Path, pid: int) -> None:
    wait_for(lambda: len(finished(folder)) >= 4)
    kill(pid)


def test_a_scheduler_that_comes_back_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikeloom.codesign.workers.PATIENCE_S", 60.0)  # a busy machine starts a scheduler slowly
    with dask_cluster(tmp_path) as first:
        port = int(first.address.rsplit(":", 1)[1])
        second = dask_cluster(tmp_path, port=port)

        def replace() -> None:
            kill_when_four(tmp_path, first.scheduler.pid)
            first.scheduler.wait()
            second.__enter__()

        try:
            with meanwhile(replace):
                result = run(tmp_path, "nsga2", cluster=first.address, seconds=0.1)
        finally:
            second.__exit__(None, None, None)
    check_undisturbed("nsga2", result, tmp_path / "diary")


def test_a_trial_that_kills_its_workers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    toy = Toy(tmp_path / "diary", die_at=1)
    named = r"trial \d+ \(arch.rows=1, .*\): its worker died each time"
    with dask_cluster(tmp_path) as cluster, pytest.raises(SearchError, match=named):
        search(SPACE, toy, SETTINGS["grid"], tmp_path / "study", cluster=cluster.address)


@pytest.fixture(scope="module")
def postgres() -> Iterator[tuple[str, str]]:
    """(folder, URL) of a PostgreSQL server."""
    script = ROOT / "scripts" / "postgres"
    started = subprocess.run([script, "start"], capture_output=True, text=True, cwd="/")
    if started.returncode == 77:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    folder, url = started.stdout.split()
    yield folder, url
    subprocess.run([script, "stop", folder], check=True, cwd="/")


@pytest.mark.parametrize("name", ["nsga2", "grid"])
def test_killed_worker_and_client_with_postgresql(tmp_path: Path, postgres: tuple[str, str], name: str) -> None:
    _, url = postgres
    hang = tmp_path / "hang"
    with dask_cluster(tmp_path, 3) as cluster:
        where = ("--cluster", cluster.address, "--storage", url, "--seconds", "0.2")
        wait_and_kill_client(tmp_path, "--settings", name, *where, hang=hang)
        assert sum(worker.poll() is not None for worker in cluster.workers) == 1
        result = run(tmp_path, name, cluster=cluster.address, storage=url)
    check_undisturbed(name, result, tmp_path / "diary")
    assert not (tmp_path / "study" / "study.db").exists()


def test_a_database_that_crashes_is_one_line_and_the_search_resumes(tmp_path: Path, postgres: tuple[str, str]) -> None:
    folder, url = postgres
    script = ROOT / "scripts" / "postgres"

    def crash() -> None:
        wait_for(lambda: len(finished(tmp_path)) >= 4)
        subprocess.run([script, "crash", folder], check=True, cwd="/")

    with meanwhile(crash), pytest.raises(SearchError, match="storage: the database failed"):
        run(tmp_path, "nsga2", storage=url, seconds=0.1)
    subprocess.run([script, "again", folder], check=True, cwd="/")
    result = run(tmp_path, "nsga2", storage=url)
    check_undisturbed("nsga2", result, tmp_path / "diary")
