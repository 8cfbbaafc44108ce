"""SavedModels in the layout of TensorFlow Serving: one folder for each version, written by one rename."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Collection, Iterator, Mapping, Sequence, Union

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import files
from pae_zoo.core.errors import UserError
from pae_zoo.serving import warmup
from pae_zoo.serving.table import Signature
from pae_zoo.serving.tracing import trace

LAST_VERSION = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Exported:
    """What `export` wrote: its folder, the signatures as {name: (inputs, outputs)}, and those left out."""

    path: Path
    signatures: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    left_out: dict[str, str]


def next_version(export_dir: Path) -> int:
    """Returns one more than the highest version in `export_dir`, 1 if there is none."""
    if not export_dir.is_dir():
        return 1
    names = [child.name for child in export_dir.iterdir()]
    return 1 + max((int(name) for name in names if name.isascii() and name.isdecimal()), default=0)


def check_target(export_dir: Path, version: int = 0) -> Path:
    """Returns the folder that a version goes to (0: the next free one); raises UserError if it is taken."""
    files.check_place(export_dir, "export_dir")
    files.clear(export_dir)
    target = export_dir / str(version or next_version(export_dir))
    if int(target.name) > LAST_VERSION:
        raise UserError(f"--export_dir={export_dir} has versions up to {LAST_VERSION}, the last that a model server "
                        "takes; give --version a free number.")
    if target.exists():
        raise UserError(f"--version={version}: {target} exists and a served version never changes; leave --version "
                        f"out for the next free one, {next_version(export_dir)}.")
    return target


def export(model: Any, export_dir: Union[str, Path], version: int = 0, importance_samples: int = 100,
           beside: Mapping[str, str] = {}, more: Sequence[Signature] = (), only: Collection[str] = ()) -> Exported:
    """Writes `export_dir`/<version>/ for TensorFlow Serving, by one rename, with warm-up requests.

    Args:
      model: a built model of `pae_zoo.models`.
      export_dir: what a model server calls the base path; it holds one folder for each version.
      version: a positive integer, 0 for the next free one.
      importance_samples: samples per datum of the signature log_likelihood.
      more: further signatures, such as what a run knows of its data.
      only: names of the signatures that are wanted; () wants all.
      beside: texts by the names of files in assets.extra, such as what the columns of a table are.

    Raises UserError if the version exists or a signature is not known, RuntimeError if a signature has state.
    """
    target = check_target(Path(export_dir), version)
    functions: dict[str, Any]
    functions, left_out = trace(model, importance_samples, more, only)
    # Not `archive.track(model)`: the functions bring the variables they read, and tracking would save each twice.
    archive: Any = keras.export.ExportArchive()
    for name, function in functions.items():
        archive.add_endpoint(name, function)
    found, requests = {}, []
    for name, function in functions.items():
        concrete = function.get_concrete_function()
        inputs = {spec.name: spec for spec in function.input_signature}
        found[name] = (tuple(inputs), tuple(concrete.structured_outputs))
        requests.append((name, {key: _example(spec) for key, spec in inputs.items()}))
    with files.folder(target) as temporary:
        with _quiet():
            archive.write_out(str(temporary), verbose=False)
        place = temporary / warmup.WARMUP_FILE
        place.parent.mkdir()
        warmup.write_warmup(place, requests, model_name=Path(export_dir).resolve().name)
        for name, text in beside.items():
            (place.parent / name).write_text(text, encoding="utf-8")
    return Exported(target, found, left_out)


def _example(spec: tf.TensorSpec) -> np.ndarray:
    """Returns an input of the least size: one row of zeros, the number 1, the seed (0, 0)."""
    make = np.zeros if spec.shape.rank else np.ones
    return make([size or 1 for size in spec.shape.as_list()], spec.dtype.as_numpy_dtype)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TensorFlow from announcing where the assets of a temporary folder are."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)
