"""What a server answers against what the same folder answers by `tf.saved_model.load`: values, errors, state."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from model_serving.clients import Refused, Signature, Tensor

ROWS = (1, 7, 33)
#: signatures that end where rounding lets them: a search that stops elsewhere is as good
SEARCHES = ("restore", "geodesic")


class Finding(NamedTuple):
    """One thing that was looked at; `what` says it in words, with what was found instead where it is not sound."""

    sound: bool
    what: str


class Compared(NamedTuple):
    """A signature at all numbers of rows: the largest differences by client, the first one's milliseconds by rows."""

    signature: str
    worst: dict[str, float]
    milliseconds: dict[int, float]


def example(signature: Signature, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns inputs of a signature: data and latents in [0, 1], a mask of 0 and 1, `rows` for a number."""
    generator, found = np.random.default_rng(seed), {}
    for name, (dtype, shape) in signature.inputs.items():
        sizes = tuple(rows if size is None else size for size in shape)
        if dtype.is_integer:
            values = np.full(sizes, rows if name == "n" else 1 if sizes else 0)
        else:
            values = generator.random(sizes)
            values = values > 0.5 if name == "mask" else values
        found[name] = np.asarray(values).astype(dtype.as_numpy_dtype)
    return found


def difference(found: Mapping[str, Any], expected: Mapping[str, np.ndarray]) -> float:
    """Returns the largest difference, relative to the largest value of the output where that is over 1.

    Infinite where names, shapes or the places of NaN are not the same.
    """
    if set(found) == {""} and len(expected) == 1:
        found = {next(iter(expected)): found[""]}
    if set(found) != set(expected):
        return np.inf
    worst = 0.0
    for name, value in expected.items():
        other = np.asarray(found[name])
        if other.shape != value.shape:
            return np.inf
        a, b = (np.asarray(one, np.float64) for one in (other, value))
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            return np.inf
        scale = max(1.0, float(np.nanmax(np.abs(b), initial=0.0)))
        worst = max(worst, float(np.nanmax(np.abs(a - b), initial=0.0)) / scale)
    return worst


class Checker:
    """Holds a server against a folder.

    Args:
      clients: of the server, the one over gRPC first. folder: the version that it serves.
    """

    def __init__(self, clients: list[Any], folder: Path):
        self.clients, self.folder = clients, folder
        self.loaded = tf.saved_model.load(str(folder))
        concrete = self.loaded.signatures
        self.signatures = {name: Signature(
            {key: Tensor(spec.dtype, tuple(spec.shape)) for key, spec in one.structured_input_signature[1].items()},
            {key: Tensor(spec.dtype, tuple(spec.shape)) for key, spec in one.structured_outputs.items()},
        ) for name, one in concrete.items()}  # fmt: skip

    def expected(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns what the folder answers in this process."""
        found = self.loaded.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        return {key: value.numpy() for key, value in found.items()}

    def compared(self, name: str) -> Compared:
        """Returns how far the server's answers of a signature are from the folder's."""
        signature, worst, milliseconds = self.signatures[name], {}, {}
        for rows in ROWS:
            inputs = example(signature, rows, rows)
            wanted = self.expected(name, inputs)
            for client in self.clients:
                found = [(client.name, client.predict(name, inputs))]
                if client is self.clients[0]:
                    begin = time.perf_counter()
                    client.predict(name, inputs)
                    milliseconds[rows] = 1e3 * (time.perf_counter() - begin)
                if hasattr(client, "rows") and in_rows(signature):
                    found.append((f"{client.name}, rows", client.rows(name, inputs)))
                for key, answers in found:
                    worst[key] = max(worst.get(key, 0.0), difference(answers, wanted))
        return Compared(name, worst, milliseconds)

    def findings(self) -> Iterator[Finding]:
        """Yields what does not depend on the model's numbers: names, states, and what is refused, and how."""
        version = int(self.folder.name)
        for client in self.clients:
            said = client.signatures()
            if isinstance(next(iter(said.values())), Signature):
                yield Finding(said == self.signatures, f"{client.name}: metadata have the folder's names and shapes")
            else:
                names = {name: {*one.inputs, *one.outputs} for name, one in self.signatures.items()}
                yield Finding(said == names, f"{client.name}: metadata have the folder's names")
            state = client.states(version)
            yield Finding(state == {version: "AVAILABLE"}, f"{client.name}: status of version {version}: {state}")
            yield from self._refusals(client)
            yield from self._stateless(client)

    def _refusals(self, client: Any) -> Iterator[Finding]:
        first = min(self.signatures)
        good = example(self.signatures[first], 2)

        def refused(what, codes, call, words=""):
            try:
                call()
            except Refused as error:
                sound = error.code in codes and words in error.message
                return Finding(sound, f"{client.name}: {what}: {' '.join(str(error).split())[:160]}")
            return Finding(False, f"{client.name}: {what} was answered")

        yield refused("an unknown version", (client.missing,), lambda: client.predict(first, good, 2**40))
        yield refused("an unknown signature", client.unknown, lambda: client.predict("no_such_signature", good))
        yield refused("a missing input", client.bad, lambda: client.predict(first, {}))
        model, client.model = client.model, f"{client.model}_not_there"
        yield refused("an unknown model", (client.missing,), lambda: client.predict(first, good))
        client.model = model
        if hasattr(client, "call"):
            path = f"/v1/models/{client.model}:predict"
            for what, body in (("text that is no JSON", b"{"), ("neither inputs nor instances", b"{}"),
                               ("no instances", b'{"instances": []}')):  # fmt: skip
                yield refused(what, client.bad, lambda body=body: client.call("POST", path, body))
        for name, signature in self.signatures.items():
            for key, (_, shape) in signature.inputs.items():
                inputs = example(signature, 2)
                wrong = (*shape[:-1], shape[-1] + 1) if shape and shape[-1] else (2,)
                inputs[key] = np.zeros([2 if size is None else size for size in wrong], inputs[key].dtype)
                yield refused(f"{name}: {key} of shape {inputs[key].shape}", client.bad,
                              lambda name=name, inputs=inputs: client.predict(name, inputs), key)

    def _stateless(self, client: Any) -> Iterator[Finding]:
        for name, signature in self.signatures.items():
            inputs = example(signature, 5)
            once = client.predict(name, inputs)
            client.predict(name, example(signature, 3, seed=1))
            again = client.predict(name, inputs)
            same = all(np.array_equal(once[key], again[key]) for key in once)
            yield Finding(same, f"{client.name}: {name}: the same request twice, another between, the same bits")


def in_rows(signature: Signature) -> bool:
    """Returns whether every input has a row for each datum, as row format needs."""
    return all(one.shape[:1] == (None,) for one in signature.inputs.values())
