"""A Dask scheduler and its workers as processes on loopback, which a test may kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class DaskCluster:
    address: str
    scheduler: subprocess.Popen[bytes]
    workers: tuple[subprocess.Popen[bytes], ...]


def python(*arguments: str | Path, **options: object) -> subprocess.Popen[bytes]:
    """A Python process that can import the tests, in a session of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, start_new_session=True, **options
    )


def client(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """A search of toys in a process of its own; its output can be read."""
    return python("-m", "tests.codesign.toys", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@contextmanager
def dask_cluster(folder: Path, num_workers: int = 2, port: int = 0) -> Iterator[DaskCluster]:
    """A scheduler on loopback and workers of one thread without nannies: what is killed stays dead."""
    file = folder / f"scheduler-{time.monotonic_ns()}.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = ("-m", "distributed.cli.dask_scheduler")
    # where the tests themselves are killed, the scheduler ends too, and its workers with it
    options = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--idle-timeout", "2 minutes")
    scheduler = python(*dask, *options, "--scheduler-file", file, **quiet)
    workers: list[subprocess.Popen[bytes]] = []
    try:
        wait_for(lambda: file.exists() and file.read_text().endswith("}"))  # there, and written whole
        options = (
            "--no-nanny",
            "--nthreads",
            "1",
            "--no-dashboard",
            "--local-directory",
            str(folder),
            "--death-timeout",
            "60",
        )
        for _ in range(num_workers):
            workers.append(python("-m", "distributed.cli.dask_worker", "--scheduler-file", file, *options, **quiet))
        yield DaskCluster(json.loads(file.read_text())["address"], scheduler, tuple(workers))
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def wait_for(happened: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"nothing after {seconds:g} s"
        time.sleep(0.02)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@contextmanager
def meanwhile(do: Callable[[], None]) -> Iterator[None]:
    """Do something from another thread; what it raised is raised at the end."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            do()
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if raised:
        raise raised[0]
