"""Reads .keras files that may come from anywhere: looked at as data first, so that none of them runs code."""

import hashlib
import json
from pathlib import Path
from typing import Any, Iterator

import keras

from pae_zoo.core import reading

#: members of the archive, and the most bytes of each that is text
CONFIG, WEIGHTS, MOST_TEXT = "config.json", "model.weights.h5", 1 << 26
#: packages whose classes a file may name; Keras imports none of others unless they are registered already
PACKAGES = ("keras", "pae_zoo", "builtins")
#: further packages, those of --plugin
trusted: set[str] = set()
#: what a class that carries or names code is called
CODE = ("Lambda", "__lambda__", "function_code", "__numpy__")
#: keys that Keras adds by itself: counted names, where classes stand, numbers of objects, shapes of builds, optimizers
PASSING = ("name", "module", "shared_object_id", "build_config", "compile_config")
#: parts of the keys of a config that are sizes of weights
SIZES = ("units", "filters", "dim", "width", "rank", "members", "centres", "size", "shape")


def load(path: Path) -> keras.Model:
    """Returns the model of a .keras file, after a look at what it would build.

    Raises ValueError for a file that names code, foreign classes, or layers larger than the weights that it holds, and
    what Keras raises for one that is broken.
    """
    with reading.zipped(path, "saved model", "restore it, or train anew") as archive:
        text = reading.member_bytes(archive, CONFIG, f"{path}: {CONFIG}", MOST_TEXT)
        # Read whole, so that its check sum is held against it.
        weights = reading.member_bytes(archive, WEIGHTS, f"{path}: {WEIGHTS}", reading.available_memory())
        num_bytes = len(weights)
    for word, value in _pairs(json.loads(text)):
        if word in ("class_name", "registered_name") and value in CODE:
            raise ValueError(f"it holds code ({value}), which is not run")
        if word == "module" and value is not None and str(value).split(".")[0] not in {*PACKAGES, *trusted}:
            raise ValueError(f"it names classes of {value!r}; those of {', '.join(PACKAGES[:2])} are allowed, "
                             "and of modules of --plugin")
        sizes = value if isinstance(value, list) else [value]
        if any(part in word for part in SIZES) and any(type(one) is int and one > num_bytes for one in sizes):
            raise ValueError(f"{word} is {value}, more than the {num_bytes} bytes of weights that it holds")
    found: Any = keras.saving.load_model(path)
    return found


def fingerprint(model: keras.Model) -> str:
    """Returns a hash of a model's configuration: networks, likelihood, preprocessing and settings, but no weights."""
    text = json.dumps(_plain(model.get_config()), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Returns a configuration without what depends on when it was built, or saved and loaded."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in PASSING}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields all keys with their values in nested JSON, however deep."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
