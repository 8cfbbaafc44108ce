"""Devices and machines that one training shares: which there are, and that all of them do the same."""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional

import tensorflow as tf

from pae_zoo.core import hparams as hp
from pae_zoo.core import replicas
from pae_zoo.core.errors import UserError
from pae_zoo.core.records import STRATEGIES
from pae_zoo.experiment import workdir as workdirs

AUTO, ONE, MIRRORED, MULTI_WORKER = STRATEGIES
VARIABLE = "TF_CONFIG"
FORM = ('{"cluster": {"worker": ["host0:port", "host1:port"]}, "task": {"type": "worker", "index": 0}}, with the '
        "index of each process in turn")


class Task(NamedTuple):
    """The place of this process among `size` that train together; the first one is the chief, who alone writes."""

    number: int = 0
    size: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes."""
        return self.number == 0


class Shared(NamedTuple):
    """What a training is shared by: a strategy of TensorFlow, None for one device, and this process's task."""

    strategy: Optional[tf.distribute.Strategy] = None
    task: Task = Task()

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns the scope in which models are made."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    @property
    def replicas(self) -> int:
        """How many parts a batch is taken in."""
        return 1 if self.strategy is None else self.strategy.num_replicas_in_sync

    def __str__(self) -> str:
        if self.strategy is None:
            return ""
        processes = f" in {self.task.size} processes" if self.task.size > 1 else ""
        return f", {self.replicas} replicas{processes}"


class WorkerLost(UserError):
    """Another process of the cluster has gone."""


def read_task(text: str) -> Task:
    """Returns the task that the value of TF_CONFIG gives this process; raises UserError for one that gives none."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"{VARIABLE} is no JSON ({error}); received {text[:80]!r}. It is written {FORM}.") from error
    there: dict[str, Any] = found if isinstance(found, dict) else {}
    jobs: Any
    task: Any
    jobs, task = there.get("cluster"), there.get("task")
    known = isinstance(jobs, dict) and isinstance(task, dict) and bool(jobs) and set(jobs) <= {"chief", "worker"}
    if not known or not all(isinstance(one, list) and one for one in jobs.values()):
        raise UserError(f"{VARIABLE} describes no cluster of workers; received {text[:80]!r}. It is written {FORM}.")
    addresses = [(kind, index) for kind in ("chief", "worker") for index in range(len(jobs.get(kind, ())))]
    own: Any = (task.get("type"), task.get("index"))
    if own not in addresses:
        raise UserError(f"{VARIABLE} says that this process is task {own[0]} {own[1]}, and its cluster has "
                        f"{', '.join(f'{kind} {index}' for kind, index in addresses)}. Take one of these.")
    return Task(addresses.index(own), len(addresses))


def task_of(strategy: str) -> Task:
    """Returns the place of this process, by --strategy and TF_CONFIG; raises UserError where they do not fit."""
    text = os.environ.get(VARIABLE, "")
    if strategy not in (AUTO, MULTI_WORKER) or not text and strategy == AUTO:
        return Task()
    if not text:
        raise UserError(f"--strategy={MULTI_WORKER} needs the variable {VARIABLE} in the environment of each process: "
                        f"{FORM}.")
    return read_task(text)


@contextlib.contextmanager
def own_workdir(hparams: Any) -> Iterator[Any]:
    """Gives a process that is not the chief a copy of the work directory, thrown away at the end, and keeps it quiet.

    So it reads what the chief reads, and nothing that it writes is found by anybody. Yields the flags to go by.
    """
    task = task_of(hparams.strategy)
    if task.is_chief:
        yield hparams
        return
    with tempfile.TemporaryDirectory(prefix=f"pae_zoo-worker{task.number}-") as place, open(os.devnull, "w") as nothing:
        own = Path(place) / "run"
        if Path(hparams.workdir).is_dir():
            shutil.copytree(hparams.workdir, own, ignore=shutil.ignore_patterns("tensorboard", "figures", "*.tmp"))
        with contextlib.redirect_stdout(nothing):
            yield dataclasses.replace(hparams, workdir=str(own))


def of_the_chief(strategy: Optional[tf.distribute.Strategy], number: int) -> int:
    """Returns the number that the first of all processes has; that of this one where it is alone."""
    if strategy is None or replicas.processes(strategy) == 1:
        return number
    return replicas.gathered(strategy, [number])[0][0]


def start(strategy: str, device: str, batch_size: int) -> Shared:
    """Returns what --strategy asks for, of the devices that there are, before the first operation of TensorFlow.

    auto: several processes where TF_CONFIG names them, several GPUs where there are some, else one device. Raises
    UserError for fewer devices than asked for, or a batch that replicas do not divide.
    """
    task = task_of(strategy)
    if strategy == ONE or strategy == AUTO and task.size == 1 and (device == "cpu" or len(_devices("GPU")) < 2):
        return Shared()
    if strategy == MULTI_WORKER or task.size > 1:
        found = Shared(tf.distribute.MultiWorkerMirroredStrategy(), task)
    else:
        devices = _devices("GPU") if device != "cpu" and _devices("GPU") else _devices("CPU")
        if len(devices) < 2:
            raise UserError(f"--strategy={MIRRORED} takes two devices or more, and TensorFlow sees {devices[0]} alone. "
                            f"Take --strategy={ONE}.")
        found = Shared(tf.distribute.MirroredStrategy(devices))
    check_batch(batch_size, found)
    return found


def _devices(kind: str) -> list[str]:
    """Returns the names of the devices of a kind; those of processors only as TensorFlow was told to divide them."""
    if not tf.config.list_physical_devices(kind):
        return []
    return [device.name for device in tf.config.list_logical_devices(kind)]


def check_batch(batch_size: int, shared: Shared, name: str = "batch_size") -> None:
    """Raises UserError for a batch that the replicas do not divide."""
    if batch_size % shared.replicas:
        fitting = max(shared.replicas, batch_size - batch_size % shared.replicas)
        raise UserError(f"--{name}={batch_size} is not divided by {shared.replicas} replicas. Take a multiple of "
                        f"{shared.replicas}, such as {fitting}.")


def check_same(shared: Shared, hparams: Any, dataset: Any) -> None:
    """Raises UserError, in all processes, where one has another version, other flags, data or checkpoints."""
    if shared.strategy is None or shared.task.size == 1:
        return
    flags = {field.name: repr(getattr(hparams, field.name)) for field in hp.flag_fields(type(hparams))
             if not field.metadata["operational"]}
    what = {
        "another version of the package or of what it stands on": json.dumps(workdirs.versions()),
        "other flags": json.dumps(flags, sort_keys=True),
        "other data": _digest_of(dataset),
        "another state of the work directory, which all must see": _state_of(Path(hparams.workdir)),
    }
    numbers = [zlib.crc32(text.encode()) & 0x7FFFFFFF for text in what.values()]
    found = replicas.gathered(shared.strategy, numbers)
    for column, name in enumerate(what):
        others = [str(row) for row in range(shared.task.size) if found[row][column] != found[0][column]]
        if others:
            raise UserError(f"Process {', '.join(others)} of the cluster has {name} than process 0. Start all of them "
                            "with the same command, package and data.")


def _digest_of(dataset: Any) -> str:
    """Returns what tells the training and validation data from others: sizes, and some rows."""
    found = []
    for split in (dataset.train.x, dataset.valid.x):
        some = split[:: max(1, len(split) // 64)]
        found.append(f"{split.shape} {split.dtype} {zlib.crc32(some.tobytes())}")
    return "; ".join(found)


def _state_of(workdir: Path) -> str:
    """Returns what tells the checkpoints of a run from others."""
    paths = sorted((workdir / "checkpoints").glob("*.npz"))
    return "; ".join(f"{path.name} {zlib.crc32(path.read_bytes())}" for path in paths)


def wait(shared: Shared) -> None:
    """Returns when all processes have come here."""
    if shared.strategy is not None and shared.task.size > 1:
        replicas.gathered(shared.strategy, [shared.task.number])


def lost(error: tf.errors.OpError, strategy: Optional[tf.distribute.Strategy]) -> bool:
    """Whether an error of a training tells that another process of the cluster has gone."""
    if strategy is None or replicas.processes(strategy) == 1:
        return False
    gone = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
            tf.errors.DeadlineExceededError)
    words = ("Collective", "collective", "peer", "heartbeat", "Connection", "closed")
    return isinstance(error, gone) or any(word in str(error) for word in words)
