"""The same study on one process, on local workers and on a Dask cluster; see test_faults.py for what is killed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from spikeloom.codesign.search import SearchSettings, search
from spikeloom.codesign.storage import StudyFolder
from spikeloom.codesign.workers import Job, compute
from spikeloom.errors import CostError, SearchError
from tests.codesign.clusters import client, dask_cluster, wait_for
from tests.codesign.toys import SETTINGS, SPACE, Toy, check_undisturbed, noted

pytest.importorskip("distributed", reason="workers need Dask")
pytestmark = pytest.mark.xdist_group("dask")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dask_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster.address


@pytest.mark.parametrize("name", SETTINGS)
def test_a_cluster_finds_what_one_process_finds(tmp_path: Path, address: str, name: str) -> None:
    toy = Toy(tmp_path / "diary", seconds=0.01)
    result = search(SPACE, toy, SETTINGS[name], tmp_path / "study", cluster=address)
    check_undisturbed(name, result, tmp_path / "diary")
    processes = {line.split()[2] for line in (tmp_path / "diary").read_text().splitlines()}
    assert len(processes) == 2, "both workers were used"


def test_four_local_workers_find_what_one_process_finds(tmp_path: Path) -> None:
    before = logging.getLogger("distributed").level
    result = search(SPACE, Toy(tmp_path / "diary", seconds=0.05), SETTINGS["nsga2"], tmp_path / "study", workers=4)
    check_undisturbed("nsga2", result, tmp_path / "diary")
    processes = {line.split()[2] for line in (tmp_path / "diary").read_text().splitlines()}
    assert len(processes) == 4
    assert logging.getLogger("distributed").level == before


def test_local_workers_leave_no_noise(tmp_path: Path) -> None:
    process = client(tmp_path, "--workers", "2", "--settings", "random")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == b"", err.decode()
    assert len(out.splitlines()) >= 1


def test_workers_that_do_not_see_the_folder_answer_and_the_client_records(tmp_path: Path, address: str) -> None:
    settings = SETTINGS["random"]
    search(SPACE, Toy(tmp_path / "diary"), settings, tmp_path / "study", cluster=address)
    elsewhere = StudyFolder(tmp_path / "study", "another study by the same path")
    toy = Toy(tmp_path / "other")
    point = next(SPACE.grid())
    answer = compute(toy, Job(0, point, toy.identity(point).id), elsewhere, lambda step, values: False)
    assert answer.trial is not None and not answer.recorded and answer.computed


def test_bad_trials_are_pruned_on_a_cluster(tmp_path: Path, address: str) -> None:
    settings = SearchSettings(("accuracy",), trials=16, sampler="random", seed=1, pruner="median")
    result = search(SPACE, Toy(tmp_path / "diary", epochs=6), settings, tmp_path / "study", cluster=address)
    pruned = [one for one in result.outcomes if one.state == "pruned"]
    assert pruned and len(noted(tmp_path / "diary", "pruned")) <= len(pruned) < 14
    other = SearchSettings(("edp",), sampler="random", pruner="median")
    with pytest.raises(SearchError, match="reports accuracy, not 'edp'"):
        search(SPACE, Toy(tmp_path / "diary", epochs=6), other, tmp_path / "other", cluster=address)


def test_errors_come_back_from_a_cluster_in_one_line(tmp_path: Path, address: str) -> None:
    with pytest.raises(CostError, match=r"trial \d \(arch.rows=1, .*\): no price for"):
        search(SPACE, Priceless(tmp_path / "diary"), SETTINGS["grid"], tmp_path / "study", cluster=address)


class Priceless(Toy):
    def __call__(self, params: object, checkpoint_report: object) -> None:
        raise CostError("no price for this")


def test_no_scheduler_at_the_address_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikeloom.codesign.workers.PATIENCE_S", 0.5)
    for address in ("tcp://127.0.0.1:1", "nonsense", "what://127.0.0.1:1"):
        with pytest.raises(SearchError, match=r"no scheduler answers .*expected an address such as tcp://"):
            search(SPACE, Toy(tmp_path / "diary"), SETTINGS["random"], tmp_path / "study", cluster=address)


def test_interruption_is_clean(tmp_path: Path) -> None:
    """Ctrl-C reaches every process of the terminal; nothing is printed, what was finished is kept."""
    process = client(tmp_path, "--workers", "2", "--seconds", "1.5")  # so long that a busy machine cannot be through
    try:
        wait_for(lambda: len(noted(tmp_path / "diary", "finish")) >= 2)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 130 and err == b"", err.decode()
    finished = set(noted(tmp_path / "diary", "finish"))
    result = search(SPACE, Toy(tmp_path / "diary"), SETTINGS["nsga2"], tmp_path / "study")
    assert finished <= {one.trial.id for one in result.outcomes if one.trial}
    assert set(noted(tmp_path / "diary", "finish").values()) == {1}
