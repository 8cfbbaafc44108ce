"""Presets: trained models by name, each a folder that is a small run: settings, weights, metrics, a card, a picture."""

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import keras
import numpy as np

import pae_zoo
from pae_zoo.core import files, reading, remote
from pae_zoo.core.errors import UserError, suggestion
from pae_zoo.experiment import preset_places, saved
from pae_zoo.experiment.workdir import Run

#: where the presets of the package lie
SHIPPED = Path(__file__).resolve().parent.parent / "presets"
MODEL, FACTS, CARD, PICTURE = "model.keras", "preset.json", "README.md", "thumbnail.png"
#: what makes a preset a run
OF_RUN = ("config.json", "data.json", "flags.cfg", "metrics.json")
# Bits of a weight's mantissa that are kept: those of float16, with the range of float32.
KEPT_BITS = 11


def presets() -> dict[str, str]:
    """Returns {name: what it is} of the trained models that the package carries."""
    return {path.parent.name: str(facts(path.parent)["title"]) for path in sorted(SHIPPED.glob(f"*/{FACTS}"))}


@contextlib.contextmanager
def folder(name: str) -> Iterator[Path]:
    """Yields the folder of a preset: one of `presets()`, the path of another, or a copy of what a URL names.

    Raises UserError where there is none.
    """
    if remote.is_elsewhere(name):
        with preset_places.fetched(name, (FACTS, MODEL, CARD, PICTURE, *OF_RUN)) as path:
            if not (path / FACTS).is_file():
                raise UserError(f"{name} has no {FACTS}: a preset is a folder with one.")
            yield path
        return
    shipped = SHIPPED / name
    if name and os.sep not in name and (shipped / FACTS).is_file():
        yield shipped
    elif (Path(name) / FACTS).is_file():
        yield Path(name)
    else:
        near = suggestion(name, list(presets())) or "."
        raise UserError(f"There is no preset {name!r}{near} There are {', '.join(presets()) or 'none'}; or give the "
                        f"path or URL of a folder with a {FACTS}.")


def facts(path: Path) -> dict[str, Any]:
    """Returns what a preset says of itself; raises UserError for a file that is broken."""
    with reading.told(path / FACTS, "description of a preset", "restore it"):
        found = json.loads(reading.text(path / FACTS, "restore it"))
        if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("title", "sha256")):
            raise ValueError("it has no title and sha256")
        return found


def from_preset(name: str) -> Any:
    """Returns the trained model of a preset: a name of `presets()`, the path of a folder, or a URL.

    URLs are those of fsspec (s3://, gs://, https://, each with its package), and hf://owner/name, a repository of
    Hugging Face. Raises UserError for a name that is unknown, and for files that are not those of the preset.
    """
    with folder(name) as path:
        return _loaded(path)


def _loaded(path: Path) -> Any:
    found, wanted = checksum(path / MODEL), facts(path)["sha256"]
    if found != wanted:
        raise UserError(f"{path / MODEL} is not the file of this preset: its SHA-256 is {found[:12]}..., recorded is "
                        f"{wanted[:12]}.... Restore it.")
    with reading.told(path / MODEL, "model of this preset", "restore it"):
        return saved.load(path / MODEL)


def save_to_preset(model: Any, directory: str, title: str = "") -> str:
    """Writes a trained model as a preset, a folder or a URL of fsspec that `from_preset` reads; returns where it lies.

    It holds the model without its optimizer, all bits of its weights, and what it is; `python -m pae_zoo.preset` makes
    one of a finished run, with a card and figures. Raises UserError where there is something of that name.
    """
    with making(directory, "directory") as inside:
        write_model(model, inside / MODEL)
        write_facts(inside, model, title or f"{type(model).__name__} for data of shape {model.event_shape}")
    return directory


@contextlib.contextmanager
def making(target: str, flag: str) -> Iterator[Path]:
    """Yields an empty folder that becomes the preset `target`, a path or a URL, when the block ends well.

    Raises UserError, naming `flag`, where there is something of that name, or where it cannot be written.
    """
    if remote.is_elsewhere(target):
        with tempfile.TemporaryDirectory() as place:
            yield Path(place)
            preset_places.put(Path(place), target, last=FACTS)
        return
    if Path(target).exists():
        raise UserError(f"{target} exists; give a new name, or remove it.")
    files.check_place(target, flag)
    with files.folder(Path(target)) as inside:
        yield inside


def write_model(model: Any, path: Path) -> None:
    """Writes a model without its optimizer, compressed."""
    alone = type(model).from_config(model.get_config())
    alone.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as place:
        stored = Path(place) / MODEL
        alone.save(stored)
        with zipfile.ZipFile(stored) as before, zipfile.ZipFile(path, "w") as new:
            for member in before.infolist():
                # Without the time of writing and addresses in memory the same weights are the same file.
                found = before.read(member)
                if member.filename == "metadata.json":
                    found = json.dumps({**json.loads(found), "date_saved": ""}).encode()
                if member.filename == "config.json":
                    found = json.dumps(_numbered(json.loads(found), {})).encode()
                new.writestr(zipfile.ZipInfo(member.filename), found, zipfile.ZIP_DEFLATED, compresslevel=9)


def _numbered(config: Any, known: dict[int, int]) -> Any:
    """Returns a configuration of Keras whose shared objects have numbers in place of their addresses in memory."""
    if isinstance(config, dict):
        return {key: known.setdefault(value, len(known)) if key == "shared_object_id" and isinstance(value, int)
                else _numbered(value, known) for key, value in config.items()}
    return [_numbered(one, known) for one in config] if isinstance(config, list) else config


def write_facts(path: Path, model: Any, title: str, **more: Any) -> None:
    """Writes what a preset says of itself."""
    found = {"title": title, "class": type(model).__name__, "event_shape": list(model.event_shape),
             "latent_dim": model.latent_dim, "num_weights": model.count_params(), "sha256": checksum(path / MODEL),
             "pae_zoo": pae_zoo.__version__, **more}  # fmt: skip
    (path / FACTS).write_text(json.dumps(files.plain(found), indent=1) + "\n", encoding="utf-8")


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal; raises UserError where it cannot be read."""
    with reading.told(path, "file of a preset", "restore it"):
        return hashlib.sha256(path.read_bytes()).hexdigest()


def round_weights(model: keras.Model) -> None:
    """Rounds the weights to 11 bits of mantissa, those of float16, with the range of float32: half the file."""
    for weight in model.weights:
        if weight.dtype == "float32" and weight.trainable:
            weight.assign(rounded(np.asarray(weight.value)))


def rounded(values: np.ndarray) -> np.ndarray:
    """Returns float32 values rounded to the nearest with 11 bits of mantissa."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2.0**KEPT_BITS) / 2.0**KEPT_BITS, exponent).astype(np.float32)


def copy(name: str, workdir: str) -> Run:
    """Makes a work directory of a preset of a run, which the other commands take; raises UserError."""
    if remote.is_elsewhere(workdir):
        raise UserError(f"A work directory is a folder of this machine; received {workdir}.")
    with folder(name) as path:
        if not (path / "config.json").is_file():
            raise UserError(f"The preset {name} was made of a model alone, not of a run, so that it has no settings "
                            "for a work directory. Load it in Python: pae_zoo.from_preset.")
        with making(workdir, "workdir") as inside:
            _loaded(path)
            for part in (*OF_RUN, MODEL):
                if (path / part).is_file():
                    (inside / part).write_bytes((path / part).read_bytes())
    return Run(workdir)


def first_picture(run: Run, names: Sequence[str] = ("labels", "samples", "geodesics", "reconstructions")
                  ) -> Optional[Path]:  # fmt: skip
    """Returns the picture of a run that tells most of it, None without any."""
    there = [run.figures / f"{name}.png" for name in names]
    return next((path for path in [*there, *sorted(run.figures.glob("*.png"))] if path.is_file()), None)
