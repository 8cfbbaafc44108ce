"""The work directory: everything that a run writes and reads, each file whole or not at all."""

import json
import os
import platform
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from pae_zoo import atomic
from pae_zoo import hparams as hp
from pae_zoo.errors import UserError

PACKAGES = (
    "pae_zoo", "tensorflow", "tensorflow-probability", "keras", "numpy", "scipy", "scikit-learn", "matplotlib",
)


class Run:
    """One work directory.

    Files: config.json, flags.cfg, metrics.jsonl, metrics.json, model.keras, checkpoints/, tensorboard/,
    figures/. Every write goes to a temporary neighbour first and is then renamed.

    Args:
      workdir: path of the folder.
      stage: name of a later stage of training, whose history and checkpoints are files of their own:
        metrics_<stage>.jsonl, checkpoints/<stage>_last.npz; empty: the first stage.
    """

    def __init__(self, workdir, stage: str = ""):
        self.workdir = Path(workdir)
        self.stage = stage
        if self.workdir.exists() and not self.workdir.is_dir():
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
        return (self.workdir / "config.json").exists()

    @property
    def has_checkpoint(self) -> bool:
        return (self.workdir / self.arrays_path("last")).exists()

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
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".writing-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        try:
            write(temporary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)
        return target

    def write_text(self, relative: str, text: str) -> Path:
        """Writes a text file whole."""
        return self.save(relative, lambda path: Path(path).write_text(text, encoding="utf-8"))

    def write_json(self, relative: str, value: Any) -> Path:
        """Writes a JSON file whole; numbers that are not finite become null, as JSON has none."""
        return self.write_text(relative, json.dumps(atomic.plain(value), indent=1, sort_keys=False) + "\n")

    def read_json(self, relative: str) -> Any:
        """Reads a JSON file of the run; raises UserError if it is missing or broken."""
        path = self.workdir / relative
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path} does not exist: {self.workdir} is not the work directory of a run. "
                            "Give --workdir the folder that `python -m pae_zoo.main` wrote.")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}. Restore the file or train anew.")

    # ---- configuration -----------------------------------------------------------------------------

    def write_config(self, hparams) -> None:
        """Writes config.json and flags.cfg."""
        self.write_json("config.json", {
            "hparams": hp.to_config(hparams), "versions": versions(), "git_commit": git_commit(),
        })
        lines = ["# Repeats this run: python -m pae_zoo.main --flagfile=flags.cfg --workdir=NEW"]
        self.write_text("flags.cfg", "\n".join(lines + hp.flagfile_lines(hparams)) + "\n")

    def read_hparams(self):
        """Returns the hyper-parameters in config.json; raises UserError."""
        from pae_zoo import models

        config = self.read_json("config.json").get("hparams", {})
        module = models.find(config.get("model", ""))
        return hp.from_config(module.HParams, config)

    def load_model(self):
        """Returns the trained model of the run; raises UserError if there is none."""
        import keras

        if not self.model_path.exists():
            raise UserError(f"{self.model_path} does not exist: the training is not finished. "
                            f"Start the same `python -m pae_zoo.main` command again to finish it.")
        try:
            return keras.saving.load_model(self.model_path)
        except (ValueError, TypeError, OSError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{self.model_path} cannot be loaded: {reason}. It is broken or from another version.")

    # ---- metrics -----------------------------------------------------------------------------------

    def write_history(self, lines: list[dict]) -> None:
        """Writes metrics.jsonl: one line per epoch."""
        self.write_text(self.history_path, "".join(json.dumps(atomic.plain(line)) + "\n" for line in lines))

    def read_history(self) -> list[dict]:
        """Returns the lines of metrics.jsonl, [] if there are none yet."""
        path = self.workdir / self.history_path
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

    def read_metrics(self) -> dict:
        """Returns metrics.json, {} if there is none yet."""
        return self.read_json("metrics.json") if (self.workdir / "metrics.json").exists() else {}

    def merge_metrics(self, values: dict) -> dict:
        """Adds keys to metrics.json and returns all of them."""
        merged = {**self.read_metrics(), **values}
        self.write_json("metrics.json", merged)
        return merged

    # ---- checkpoints -------------------------------------------------------------------------------

    def save_arrays(self, name: str, arrays: list[np.ndarray], meta: dict) -> None:
        """Writes checkpoints/<name>.npz: arrays in order, and a JSON note."""

        def write(path):
            named = {f"{i:05d}": a for i, a in enumerate(arrays)}
            with open(path, "wb") as file:
                np.savez(file, meta=np.frombuffer(json.dumps(atomic.plain(meta)).encode(), np.uint8), **named)

        self.save(self.arrays_path(name), write)

    def load_arrays(self, name: str) -> Optional[tuple[list[np.ndarray], dict]]:
        """Returns (arrays, note) of checkpoints/<name>.npz, None if there is no such file."""
        path = self.workdir / self.arrays_path(name)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                names = sorted(key for key in file.files if key != "meta")
                return [file[key] for key in names], json.loads(bytes(file["meta"]))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} cannot be read: {error}. Delete the folder {self.workdir} to start anew.")


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
    """Returns the commit of the source tree that this package runs from, None outside a git checkout."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
