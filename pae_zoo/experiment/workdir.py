"""The work directory: everything that a run writes and reads, each file whole or not at all."""

import contextlib
import glob
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, Optional

import numpy as np

from pae_zoo.core import files, reading
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import saved

if TYPE_CHECKING:
    from pae_zoo.data import Dataset
    from pae_zoo.data.tables import Schema
    from pae_zoo.models.base import Autoencoder

PACKAGES = (
    "pae_zoo", "tensorflow", "tensorflow-probability", "keras", "numpy", "scipy", "scikit-learn", "matplotlib",
)
#: of config.json: hashes of a model's configuration compare within one format
FORMAT = 4
RESTORE = "restore the file or train anew"
#: names of labels, and what columns of a table have become
DATA = "data.json"
#: what names of the files of kept epochs begin with
EPOCH = "epoch_"


class Run:
    """One work directory.

    Files: config.json, data.json (where labels or columns have names), flags.cfg, metrics.jsonl, metrics.json,
    model.keras, checkpoints/, tensorboard/, figures/. Every write goes to a temporary neighbour first and is then
    renamed.

    Args:
      workdir: path of the folder.
      stage: name of a later stage of training, whose history and checkpoints are files of their own:
        metrics_<stage>.jsonl, checkpoints/<stage>_last.npz; empty: the first stage.
    """

    def __init__(self, workdir, stage: str = ""):
        self.workdir = Path(workdir)
        self.stage = stage
        if os.path.exists(self.workdir) and not os.path.isdir(self.workdir):
            raise UserError(f"--workdir={workdir} is a file; give the path of a folder.")

    @property
    def figures(self) -> Path:
        return self.workdir / "figures"

    @property
    def tensorboard(self) -> Path:
        return self.workdir / "tensorboard" / self.stage

    @property
    def model_path(self) -> Path:
        return self.workdir / "model.keras"

    @property
    def exists(self) -> bool:
        return os.path.lexists(self.workdir / "config.json")

    @property
    def is_finished(self) -> bool:
        """Whether the run was trained and evaluated; raises UserError for a broken metrics.json."""
        return "train/steps_asked" in self.read_metrics()

    @property
    def has_checkpoint(self) -> bool:
        return os.path.lexists(self.workdir / self.arrays_path("last"))

    @property
    def label(self) -> str:
        """What a line about a later stage starts with: 'flow: ', or nothing."""
        return f"{self.stage}: " if self.stage else ""

    @property
    def history_path(self) -> str:
        return f"metrics_{self.stage}.jsonl" if self.stage else "metrics.jsonl"

    def arrays_path(self, name: str) -> str:
        """Returns the relative path of the file of `save_arrays(name, ...)`."""
        return f"checkpoints/{self.stage}_{name}.npz" if self.stage else f"checkpoints/{name}.npz"

    # ---- writing -----------------------------------------------------------------------------------

    def save(self, relative: str, write: Callable[[str], Any]) -> Path:
        """Calls write(path) on a temporary file and renames it to `relative`; returns the final path."""
        target = self.workdir / relative
        with files.file(target) as temporary:
            write(str(temporary))
        return target

    def prepare(self) -> None:
        """Raises UserError unless the folder can be written; removes what killed commands left half written there."""
        for part in ("", "checkpoints", "figures", "tensorboard"):
            files.check_place(self.workdir / part, "workdir")
        for name in ("config.json", DATA, "flags.cfg", "metrics.json", self.history_path, "model.keras"):
            if os.path.isdir(self.workdir / name):
                raise UserError(f"{self.workdir / name} is a folder, where a file of the run belongs: move it away.")
        files.clear(self.workdir, deep=True)

    def write_text(self, relative: str, text: str) -> Path:
        """Writes a text file whole."""
        return self.save(relative, lambda path: Path(path).write_text(text, encoding="utf-8"))

    def write_json(self, relative: str, value: Any) -> Path:
        """Writes a JSON file whole; numbers that are not finite become null, as JSON has none."""
        return self.write_text(relative, json.dumps(files.plain(value), indent=1, sort_keys=False) + "\n")

    def read_json(self, relative: str) -> dict[str, Any]:
        """Reads a JSON object of the run; raises UserError if it is missing or broken."""
        path = self.workdir / relative
        if not os.path.lexists(path):
            raise UserError(f"{path} does not exist: {self.workdir} is not the work directory of a run. "
                            "Give --workdir the folder that `python -m pae_zoo.main` wrote.")
        with reading.told(path, "file of this run", RESTORE):
            return _json_object(reading.text(path, RESTORE))

    # ---- configuration -----------------------------------------------------------------------------

    def write_config(self, hparams: Any, event_shape: Optional[tuple[int, ...]] = None,
                     model: Optional["Autoencoder"] = None) -> None:
        """Writes config.json and flags.cfg; of a datum's shape and the model that is trained what is known."""
        known: dict[str, Any] = {} if event_shape is None else {"event_shape": list(event_shape)}
        if model is not None:
            known["architecture"] = saved.fingerprint(model)
        self.write_json("config.json", {
            "format": FORMAT, **hp.to_config(hparams), **known, "versions": versions(), "git_commit": git_commit(),
        })
        lines = ["# Repeats this run: python -m pae_zoo.main --flagfile=flags.cfg --workdir=NEW"]
        self.write_text("flags.cfg", "\n".join(lines + hp.flagfile_lines(hparams)) + "\n")

    def write_table(self, dataset: "Dataset") -> None:
        """Writes data.json, names of labels and what columns of a table have become, for a data set that has some."""
        if dataset.table is not None or dataset.label_names:
            table = dataset.table and dataset.table.to_json()
            self.write_json(DATA, {"label_names": list(dataset.label_names), "table": table})

    def read_table(self) -> Optional["Schema"]:
        """Returns what the columns of the table have become that the run was trained on; None for other data."""
        if not os.path.lexists(self.workdir / DATA):
            return None
        from pae_zoo.data.tables import Schema

        found = self.read_json(DATA).get("table")
        with _named(self.workdir / DATA, "description of a table", RESTORE):
            return None if found is None else Schema.from_json(found)

    def as_trained(self, dataset: "Dataset") -> "Dataset":
        """Returns the data set as the run was trained on it: with windows of a series flattened, where they were then.

        Raises UserError unless a table has become what it was.
        """
        before = self.read_table()
        if before is not None and before.flat:
            dataset = dataset.flattened()
        if before is not None and before != dataset.table:
            was, now = set(before.outputs), set(dataset.table.outputs if dataset.table else ())
            changed = reading.shown(", ".join(sorted(was ^ now)) or "their order, labels or window")
            raise UserError(f"{dataset.name} has changed since {self.workdir} was trained on it: {changed}. Restore "
                            "the file, or train anew in another --workdir.")
        return dataset

    def read_hparams(self) -> Any:
        """Returns the hyper-parameters in config.json; raises UserError."""
        from pae_zoo.experiment import record

        whole = self.read_json("config.json")
        config, tasks = whole.get("hparams"), whole.get("evaluation")
        with _named(self.workdir / "config.json", "configuration", RESTORE):
            if not isinstance(config, dict) or not isinstance(config.get("model"), str):
                raise ValueError("it names no model and its hyper-parameters")
            if not isinstance(tasks, (dict, type(None))):
                raise ValueError("its flags of evaluation are no object")
            return record.read(config, tasks)

    def load_model(self) -> "Autoencoder":
        """Returns the trained model of the run; raises UserError if there is none, or another's."""
        if not os.path.lexists(self.model_path):
            raise UserError(f"{self.model_path} does not exist: the training is not finished. "
                            f"Start the same `python -m pae_zoo.main` command again to finish it.")
        self.read_hparams(), self.read_metrics()  # what is wrong in them is told of them
        with _named(self.model_path, "model of this run", "restore it, or train anew"):
            model = saved.load(self.model_path)
            self._check_own(model)
        return model

    def _check_own(self, model) -> None:
        """Raises ValueError unless `model` is what config.json and metrics.json say that this run trained."""
        from pae_zoo import models

        hparams, shape = self.read_hparams(), self.read_json("config.json").get("event_shape")
        expected = models.find(hparams.model).MODEL
        if type(model) is not expected:
            raise ValueError(f"it holds a {type(model).__name__}, but config.json names the model {hparams.model}")
        config = self.read_json("config.json")
        # Models of another version may have had other weights and settings.
        same = config.get("format") == FORMAT
        weights = self.read_metrics().get("train/num_weights") if same else None
        pairs = [
            ("data of shape", tuple(model.event_shape), shape and tuple(shape)),
            ("latents", model.latent_dim, hparams.latent_dim),
            ("weights", model.count_params(), weights),
            ("the seed", model.seed, hparams.seed),
        ]
        for what, found, recorded in pairs:
            if recorded is not None and found != recorded:
                raise ValueError(f"its model has {what} {found}, that of this run {recorded}")
        recorded = config.get("architecture") if same else None
        if recorded is not None and saved.fingerprint(model) != recorded:
            raise ValueError("its model has other networks or settings than the one of this run")

    # ---- metrics -----------------------------------------------------------------------------------

    def write_history(self, lines: list[dict]) -> None:
        """Writes metrics.jsonl: one line per epoch."""
        self.write_text(self.history_path, "".join(json.dumps(files.plain(line)) + "\n" for line in lines))

    def read_history(self) -> list[dict]:
        """Returns the lines of metrics.jsonl, [] if there are none yet; raises UserError for a broken file."""
        path = self.workdir / self.history_path
        if not os.path.lexists(path):
            return []
        remedy = "restore it, or delete it to go on without the record of the epochs so far"
        with reading.told(path, "history", remedy):
            lines = [_json_object(line) for line in reading.text(path, remedy).splitlines() if line.strip()]
            for number, line in enumerate(lines, start=1):
                if not all(type(line.get(key)) is int and line[key] > 0 for key in ("epoch", "step")):
                    raise ValueError(f"line {number} has no epoch and step")
                if not all(_is_number(value) for value in line.values()) or line.get("seconds") is None:
                    raise ValueError(f"line {number} has values that are no numbers, or no seconds")
            return lines

    def read_metrics(self) -> dict[str, Any]:
        """Returns metrics.json, {} if there is none yet; raises UserError for a broken file."""
        if not os.path.lexists(self.workdir / "metrics.json"):
            return {}
        found = self.read_json("metrics.json")
        for key, value in found.items():
            if not _is_number(value) and not isinstance(value, str):
                raise UserError(f"{self.workdir / 'metrics.json'}: {key} is {value!r}, neither a number nor a word. "
                                "Delete the file and evaluate again.")
        return found

    def merge_metrics(self, values: dict) -> dict:
        """Adds keys to metrics.json and returns all of them."""
        merged = {**self.read_metrics(), **values}
        self.write_json("metrics.json", merged)
        return merged

    # ---- checkpoints -------------------------------------------------------------------------------

    def save_arrays(self, name: str, arrays: list[np.ndarray], meta: dict) -> None:
        """Writes checkpoints/<name>.npz: arrays in order, and a JSON note."""

        def write(path):
            named: dict[str, Any] = {f"{i:05d}": a for i, a in enumerate(arrays)}
            named["meta"] = np.frombuffer(json.dumps(files.plain(meta)).encode(), np.uint8)
            with open(path, "wb") as file:
                np.savez(file, **named)

        self.save(self.arrays_path(name), write)

    def kept_epochs(self) -> dict[int, str]:
        """Returns {epoch: name for `load_arrays`} of the epochs whose weights were kept, in order."""
        found = {}
        for path in (self.workdir / "checkpoints").glob(f"{EPOCH}*.npz"):
            number = path.stem.removeprefix(EPOCH)
            if number.isascii() and number.isdecimal():
                found[int(number)] = path.stem
        return dict(sorted(found.items()))

    def keep_epoch(self, epoch: int, arrays: list[np.ndarray], most: int) -> None:
        """Writes the weights after an epoch, and removes those of epochs before the last `most`."""
        self.save_arrays(f"{EPOCH}{epoch:05d}", arrays, {"epoch": epoch})
        for number, name in self.kept_epochs().items():
            if number <= epoch - most:
                (self.workdir / self.arrays_path(name)).unlink(missing_ok=True)

    def load_arrays(self, name: str) -> Optional[tuple[list[np.ndarray], dict]]:
        """Returns (arrays, note) of checkpoints/<name>.npz, None if there is no such file."""
        path = self.workdir / self.arrays_path(name)
        if not os.path.lexists(path):
            return None
        remedy = f"restore the file, or delete the folder {self.workdir} to start anew"
        arrays = reading.npz(path, "checkpoint", remedy)
        with reading.told(path, "checkpoint", remedy):
            note = _json_object(bytes(arrays.pop("meta")).decode())
            return [arrays[name] for name in sorted(arrays)], note


@contextlib.contextmanager
def _named(path: Path, what: str, remedy: str) -> Iterator[None]:
    """As `reading.told`; where the values in the file are refused, the message names the file too."""
    with reading.told(path, what, remedy):
        try:
            yield
        except UserError as error:
            if str(path) in str(error):
                raise
            raise UserError(f"{path}: {error}") from error


def _json_object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"it is a JSON {type(found).__name__}, not an object")
    return found


def _is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number, or null, which stands for one that is not finite."""
    return value is None or isinstance(value, (int, float)) and not isinstance(value, bool)


def versions() -> dict[str, Optional[str]]:
    """Returns the versions of Python and of the packages that decide a result."""
    found: dict[str, Optional[str]] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_commit() -> Optional[str]:
    """Returns the commit of the source tree that this package runs from, None outside a git checkout.

    A + follows it where files of the package are not as they are in it.
    """
    here = Path(__file__).resolve().parent
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no", "."])
    try:
        done = [subprocess.run(one, cwd=here.parent, capture_output=True, text=True, timeout=10) for one in commands]
    except (OSError, subprocess.TimeoutExpired):
        return None
    if any(one.returncode for one in done):
        return None
    return done[0].stdout.strip() + ("+" if done[1].stdout.strip() else "")


def workdirs(options: Any) -> list[str]:
    """Returns the work directories that the flags name; raises UserError if there are none."""
    found = [options.workdir] if options.workdir else []
    for pattern in options.workdirs:
        matches = sorted(glob.glob(pattern))
        if not matches:
            raise UserError(f"--workdirs={pattern!r} matches no folder.")
        # What lies beside the runs, such as findings over all of them, is not meant by a pattern.
        inside = [match for match in matches if match == pattern or Path(match).is_dir() and Run(match).exists]
        found += inside or matches[:1]
    if found:
        return found
    raise UserError("--workdir is needed: the folder that `python -m pae_zoo.main` wrote.")
