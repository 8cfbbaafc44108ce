"""The versions of a model in a folder: loaded, warmed up, watched, and changed over as TensorFlow Serving does."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from model_serving.c_api import CModel, Failed

DEFAULT = "serving_default"
WARMUP = "assets.extra/tf_serving_warmup_requests"
#: `tensorflow.error.Code` of what is refused here
INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, UNIMPLEMENTED = 3, 5, 9, 12


class State(NamedTuple):
    """What is known of a version: LOADING, AVAILABLE, UNLOADING or END, and the error that ended it."""

    name: str
    code: int = 0
    message: str = ""


class Versions:
    """All versions of one model under a base path.

    Args:
      name: of the model. base_path: holds a folder, whose name is a number, for each version.
      keep_all: whether all versions are served; else the highest alone.
      tell: is called with a line for each change.
    """

    def __init__(self, name: str, base_path: Path, keep_all: bool = False, tell: Callable[[str], Any] = print):
        self.name, self.base_path, self.keep_all, self.tell = name, base_path, keep_all, tell
        self.states: dict[int, State] = {}
        self._models: dict[int, CModel] = {}
        self._ended = threading.Event()

    def poll(self) -> None:
        """Loads what is new, and then lets go what is no longer wanted, so that some version always answers."""
        found = sorted(int(one.name) for one in self.base_path.iterdir() if one.is_dir() and one.name.isdecimal())
        wanted = found if self.keep_all else found[-1:]
        for version in wanted:
            if version not in self.states or self.states[version].name == "END" and not self.states[version].code:
                self._load(version)
        if any(version in self._models for version in wanted) or not wanted:
            for version in [one for one in self._models if one not in wanted]:
                self.states[version] = State("UNLOADING")
                self._models = {key: model for key, model in self._models.items() if key != version}
                self.states[version] = State("END")
                self.tell(f"version {version} is no longer served")

    def watch(self, seconds: float) -> threading.Thread:
        """Starts a thread that polls the folder until `stop`."""

        def loop():
            while not self._ended.wait(seconds):
                self.poll()

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Ends the watch."""
        self._ended.set()

    def _load(self, version: int) -> None:
        self.states[version] = State("LOADING")
        begin, folder = time.perf_counter(), self.base_path / str(version)
        try:
            model = CModel(str(folder))
            loaded, count = time.perf_counter(), replay(model, folder / WARMUP)
        except Failed as error:
            self.states[version] = State("END", error.code, str(error))
            self.tell(f"version {version} cannot be served: {error}")
            return
        self._models = {**self._models, version: model}  # readers hold the dictionary of before or this one
        self.states[version] = State("AVAILABLE")
        self.tell(f"version {version} is served: {len(model.signatures())} signatures, loaded in "
                  f"{loaded - begin:.2f} s, {count} warm-up requests replayed in {time.perf_counter() - loaded:.2f} s")

    def get(self, name: str, version: int | None) -> tuple[int, CModel]:
        """Returns (version, model) that answers a request, the highest for None; raises Failed for none."""
        models = self._models
        if name == self.name and models and version is None:
            version = max(models)
        if name != self.name or version not in models:
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise Failed(NOT_FOUND, f"Servable not found for request: {asked}")
        return version, models[version]

    def status(self, name: str, version: int | None) -> dict[int, State]:
        """Returns the states of a version, or of all for None, the highest first; raises Failed for none."""
        if name != self.name or not self.states:
            raise Failed(NOT_FOUND, f"Could not find any versions of model {name}")
        if version is not None and version not in self.states:
            raise Failed(NOT_FOUND, f"Could not find version {version} of model {name}")
        return {one: self.states[one] for one in sorted(self.states, reverse=True) if version in (None, one)}


def replay(model: CModel, path: Path) -> int:
    """Answers the requests of a warm-up file, where there is one, and returns their number; raises Failed."""
    if not path.is_file():
        return 0
    count = 0
    for record in tf.data.TFRecordDataset(str(path)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        predict(model, request.model_spec.signature_name, arrays(request.inputs), request.output_filter)
        count += 1
    return count


def arrays(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns tensor protos as arrays; raises Failed for what is none."""
    try:
        return {name: tf.make_ndarray(value) for name, value in inputs.items()}
    except (TypeError, ValueError) as error:
        raise Failed(INVALID_ARGUMENT, f"an input is no tensor: {error}") from error


def predict(model: CModel, signature: str, inputs: Mapping[str, np.ndarray],
            outputs: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Returns the outputs of a signature; raises Failed as TensorFlow Serving refuses, in its words."""
    definition = model.definitions.get(signature or DEFAULT)
    if definition is None:
        raise Failed(FAILED_PRECONDITION, f'Serving signature key "{signature or DEFAULT}" not found.')
    needed, given = set(definition.inputs), set(inputs)
    if needed != given:
        raise Failed(INVALID_ARGUMENT, f"input size does not match signature: {len(given)}!={len(needed)} "
                     f"len({{{_listed(given)}}}) != len({{{_listed(needed)}}}). Sent extra: "
                     f"{{{_listed(given - needed)}}}. Missing but required: {{{_listed(needed - given)}}}.")
    for name in outputs:
        if name not in definition.outputs:
            raise Failed(INVALID_ARGUMENT, f"output tensor alias not found in signature: {name} Outputs expected to be "
                         f"in the set {{{_listed(definition.outputs)}}}.")
    for name, value in inputs.items():
        if tf.as_dtype(value.dtype).as_datatype_enum != definition.inputs[name].dtype:
            wanted = tf.as_dtype(definition.inputs[name].dtype).name
            raise Failed(INVALID_ARGUMENT, f"Expects arg[{name}] to be {wanted} but {value.dtype.name} is provided")
    return model(signature or DEFAULT, inputs, outputs)


def _listed(names: Any) -> str:
    return ",".join(sorted(names))
