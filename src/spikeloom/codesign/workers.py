"""Who computes trials: this process, local processes, or a Dask cluster.

A worker takes a trial's parameters, computes it and appends it to the study's ``results.jsonl`` before it answers, so a
finished trial survives the death of worker, client and scheduler. Before computing it takes the trial's claim and looks
whether the line is there: a trial given twice, because its first worker only seemed dead, is computed once.

Local processes and a remote scheduler are one code path, `DaskWorkers`. Workers of a cluster need the same Spikeloom and
compute one trial at a time whatever their number of threads. They may or may not see the study's folder; what they could
not append, the client does.

Reports of a running trial (for pruning) travel as events of Dask's scheduler to the client, which answers each through a
distributed Variable; a worker that hears nothing for a minute goes on unpruned.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from spikeloom.codesign.space import Params
from spikeloom.codesign.storage import StudyFolder
from spikeloom.core.report import Trial
from spikeloom.errors import MappingError, SearchError, SpikeloomError

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

#: Told (step, figures) while a trial runs; True: stop now, the trial is pruned.
CheckpointReport: TypeAlias = Callable[[int, Mapping[str, float]], bool]
#: Told (trial number, step, figures); the same answer.
OnReport: TypeAlias = Callable[[int, int, Mapping[str, float]], bool]

#: Seconds a client tries to reach a scheduler, at the start and after losing it.
PATIENCE_S = 10.0
#: Seconds a worker waits for the answer to a report.
ANSWER_S = 60.0


class Objective(Protocol):
    """What a design is worth. Picklable; sent to workers once and kept there, so it may cache what it loads."""

    def identity(self, params: Params) -> Trial:
        """The trial that these parameters will make, without accuracy and report: cheap, and its id is final."""
        ...

    def __call__(self, params: Params, checkpoint_report: CheckpointReport | None) -> Trial | None:
        """Compute the trial. After a report answered with True, what is returned does not matter.

        Raises:
            MappingError: the machine cannot run the network; the design is then known to be unfit.
        """
        ...


@dataclass(frozen=True)
class Job:
    """A trial to be computed."""

    number: int
    params: Params
    trial_id: str


@dataclass(frozen=True)
class Answer:
    """What became of a job.

    trial: None when it was pruned. reason: why the design does not fit, empty when it does.
    recorded: whether its line stands in the results. computed: False when it was found there.
    """

    trial: Trial | None
    reason: str = ""
    pruned: bool = False
    recorded: bool = False
    computed: bool = True


def compute(objective: Objective, job: Job, folder: StudyFolder, report: CheckpointReport) -> Answer:
    """Compute one trial, or find it finished.

    Raises:
        SpikeloomError: the objective's, with the parameters in front; SearchError where its trial has another id than
            its ``identity`` said.
    """
    if not folder.is_here():
        return _computed(objective, job, report)
    with folder.claim(job.trial_id):
        found = folder.find(job.trial_id)
        if found is not None:
            return Answer(found, recorded=True, computed=False)
        answer = _computed(objective, job, report)
        if answer.trial is None:
            return answer
        folder.append(answer.trial)
    return Answer(answer.trial, answer.reason, recorded=True)


def _computed(objective: Objective, job: Job, report: CheckpointReport) -> Answer:
    stopped = False

    def told(step: int, values: Mapping[str, float]) -> bool:
        nonlocal stopped
        stopped = stopped or report(step, values)
        return stopped

    reason = ""
    try:
        trial = objective(job.params, told)
    except MappingError as error:
        trial, reason = objective.identity(job.params), str(error)
    except SpikeloomError as error:
        raise type(error)(f"trial {job.number} ({shown(job.params)}): {error}") from None
    if stopped:
        return Answer(None, pruned=True)
    if trial is None or trial.id != job.trial_id:
        got = "nothing" if trial is None else f"a trial with the id {trial.id[:12]}"
        raise SearchError(
            f"trial {job.number} ({shown(job.params)}): the objective returned {got}, its identity is "
            f"{job.trial_id[:12]}; both must be made from the same config, arch, seed and workload"
        )
    return Answer(trial, reason)


def shown(params: Params) -> str:
    return ", ".join(f"{name}={value}" for name, value in params.items())


class Workers(Protocol):
    """Computes jobs, in any order."""

    def places(self) -> int:
        """How many jobs may run at a time, at least one."""
        ...

    def start(self, job: Job) -> None: ...

    def finished(self, on_report: OnReport) -> tuple[Job, Answer]:
        """Wait for a job to end; reports of running ones are passed on meanwhile."""
        ...


@dataclass
class ThisProcess:
    """One trial after the other, here."""

    objective: Objective
    folder: StudyFolder
    _jobs: list[Job] = field(default_factory=list)

    def places(self) -> int:
        return 1

    def start(self, job: Job) -> None:
        self._jobs.append(job)

    def finished(self, on_report: OnReport) -> tuple[Job, Answer]:
        job = self._jobs.pop(0)
        return job, compute(
            self.objective, job, self.folder, lambda step, values: on_report(job.number, step, dict(values))
        )


@dataclass(frozen=True)
class _Packed:
    """An objective by value, with a name to know it again by."""

    name: str
    data: bytes

    @classmethod
    def of(cls, objective: Objective) -> _Packed:
        import cloudpickle

        return cls(uuid.uuid4().hex, cloudpickle.dumps(objective))


_UNPACKED: dict[str, Objective] = {}
_ONE_AT_A_TIME = threading.Lock()


def _remote(packed: _Packed, job: Job, folder: StudyFolder, topic: str, listened: bool) -> Answer:
    """What runs on a worker of a cluster."""
    import cloudpickle

    with _ONE_AT_A_TIME:
        if packed.name not in _UNPACKED:
            _UNPACKED.clear()
            _UNPACKED[packed.name] = cloudpickle.loads(packed.data)
        report = _asking(job.number, topic) if listened else _nobody
        return compute(_UNPACKED[packed.name], job, folder, report)


def _nobody(step: int, values: Mapping[str, float]) -> bool:
    return False


def _asking(number: int, topic: str) -> CheckpointReport:
    """A report that asks the client and waits for its answer, until one fails to come."""
    from distributed import Variable, get_client, get_worker

    heard = True

    def report(step: int, values: Mapping[str, float]) -> bool:
        nonlocal heard
        if not heard:
            return False
        name = f"{topic}-{number}-{step}-{uuid.uuid4().hex}"
        figures = {key: float(value) for key, value in values.items()}
        get_worker().log_event(topic, {"number": number, "step": int(step), "values": figures, "answer": name})
        answer = Variable(name, client=get_client())
        try:
            stop = bool(answer.get(timeout=ANSWER_S))
        except TimeoutError:
            heard = False
            return False
        answer.delete()
        return stop

    return report


def _losses() -> tuple[type[BaseException], ...]:
    """What Dask raises where the scheduler goes away in the middle of a call."""
    from distributed.client import CancelledError, ClosedClientError

    return (OSError, CancelledError, ClosedClientError)


class DaskWorkers:
    """Worker processes behind a Dask scheduler."""

    def __init__(self, client: Client, objective: Objective, folder: StudyFolder, *, listened: bool) -> None:
        self._client = client
        self._packed = _Packed.of(objective)
        self._folder = folder
        self._listened = listened
        self._topic = f"spikeloom-{uuid.uuid4().hex}"
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._running: dict[int, tuple[Job, Future]] = {}
        self._address = client.scheduler.address
        self._listen()

    def _listen(self) -> None:
        if self._listened:
            self._client.subscribe_topic(self._topic, lambda event: self._events.put(("report", event[1])))

    def places(self) -> int:
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
        except _losses():  # on the way; the next answer waited for finds that out
            return 1
        return max(1, len(workers))

    def start(self, job: Job) -> None:
        self._await_scheduler()
        try:
            future = self._client.submit(
                _remote,
                self._packed,
                job,
                self._folder,
                self._topic,
                self._listened,
                key=f"{self._topic}-{job.number}-{uuid.uuid4().hex[:8]}",
                pure=False,
            )
        except _losses():  # just now
            raise self._lost() from None
        self._running[job.number] = (job, future)
        future.add_done_callback(lambda ended: self._events.put(("ended", (job.number, ended))))

    def finished(self, on_report: OnReport) -> tuple[Job, Answer]:
        while True:
            try:
                kind, what = self._events.get(timeout=0.5)
            except queue.Empty:
                if not self._connected():
                    self._begin_again()
                continue
            if kind == "report":
                self._answer(what, on_report)
                continue
            number, future = what
            if number not in self._running or self._running[number][1] is not future:
                continue  # given again after the scheduler was lost
            if future.status in ("cancelled", "lost"):
                self._begin_again()
                continue
            job, _ = self._running[number]
            try:
                answer = self._result(job, future)
            except _losses():
                if future.status == "error":
                    raise  # the trial's own
                time.sleep(0.1)  # lost between the news and the answer itself
                self._events.put((kind, what))
                continue
            del self._running[number]
            return job, answer

    def _answer(self, report: Mapping[str, Any], on_report: OnReport) -> None:
        from distributed import Variable

        stop = report["number"] in self._running and on_report(report["number"], report["step"], report["values"])
        with contextlib.suppress(*_losses()):  # on the way: then the trial is lost, too
            Variable(report["answer"], client=self._client).set(stop)

    def _result(self, job: Job, future: Future) -> Answer:
        from distributed.scheduler import KilledWorker

        try:
            answer: Answer = future.result()
        except KilledWorker:
            raise SearchError(
                f"trial {job.number} ({shown(job.params)}): its worker died each time it was computed, which points to "
                "memory; give workers more of it or take the design out of the space, then resume"
            ) from None
        except ImportError as error:
            raise SearchError(
                f"{self._address}: a worker cannot run a trial ({error}); install the same Spikeloom, Python and extras there"
            ) from None
        return answer

    def _connected(self) -> bool:
        return bool(self._client.status == "running")

    def _await_scheduler(self) -> None:
        """Where the scheduler is gone, wait for one that takes its place. Raises SearchError where none does."""
        if self._connected():
            return
        deadline = time.monotonic() + PATIENCE_S + 5
        while self._client.status == "connecting" and time.monotonic() < deadline:
            time.sleep(0.1)
        if not self._connected():
            raise self._lost()
        self._listen()

    def _lost(self) -> SearchError:
        return SearchError(
            f"{self._address}: lost the connection to the scheduler; finished trials are kept, start it and resume"
        )

    def _begin_again(self) -> None:
        """Give every job that was lost with the scheduler to the one that takes its place."""
        self._await_scheduler()
        for job, future in list(self._running.values()):
            if future.status in ("cancelled", "lost"):
                self.start(job)

    def release(self) -> None:
        """Give up what is running."""
        if self._connected():
            with contextlib.suppress(*_losses()):  # on the way: there is nothing left to give up
                self._client.cancel([future for _, future in self._running.values()], force=True)
                if self._listened:
                    self._client.unsubscribe_topic(self._topic)
        self._running.clear()


@contextmanager
def opened(
    objective: Objective, folder: StudyFolder, *, workers: int | None, cluster: str | None, listened: bool
) -> Iterator[Workers]:
    """The workers asked for: this process, that many local ones, or those of the scheduler at an address.

    listened: whether reports are answered.

    Raises:
        SearchError: both are given, fewer than one worker, no Dask, or no scheduler at the address.
    """
    if workers is not None and cluster is not None:
        raise SearchError("workers and cluster: both are given; local processes or a cluster, not both")
    if workers is not None and workers < 1:
        raise SearchError(f"workers: got {workers}, expected at least 1")
    if cluster is None and (workers is None or workers == 1):
        yield ThisProcess(objective, folder)
        return
    with _quiet(), _client(workers, cluster) as client:
        dask = DaskWorkers(client, objective, folder, listened=listened)
        try:
            yield dask
        finally:
            dask.release()


@contextmanager
def _client(workers: int | None, cluster: str | None) -> Iterator[Client]:
    try:
        import distributed
    except ImportError:
        raise SearchError("workers: Dask is not installed; run: pip install 'spikeloom[cluster]'") from None
    if cluster is None:
        assert workers is not None
        with _unbroken():
            local = _local_cluster(workers)
        with local, distributed.Client(local, timeout=PATIENCE_S) as client:
            yield client
        return
    try:
        client = distributed.Client(cluster, timeout=PATIENCE_S, set_as_default=False)
    except (OSError, ValueError, ImportError) as error:
        raise SearchError(
            f"cluster {cluster}: no scheduler answers ({error}); expected an address such as tcp://host:8786, "
            "where 'dask scheduler' runs"
        ) from None
    try:
        yield client
    finally:
        client.close(timeout=PATIENCE_S)


def _local_cluster(workers: int) -> LocalCluster:
    """Processes of one thread each, reached over loopback with certificates made for this run.

    Without them anyone with an account on the machine could have a worker run code. A worker that dies is replaced.
    """
    import dask
    from distributed import LocalCluster

    pages: dict[str, list[str]] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
    with dask.config.set(pages):
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            security=True,
            dashboard_address="127.0.0.1:0",  # without pages; None would mean port 8787 on every address
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,  # a trial may need what it needs; the system decides
            silence_logs=logging.CRITICAL,
        )


@contextmanager
def _unbroken() -> Iterator[None]:
    """Keep Ctrl-C from threads and processes started meanwhile, for good: it is this thread's to end them in order."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # starting it later would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask logs lost workers as they happen; what matters of it becomes an error or a requeued trial."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
