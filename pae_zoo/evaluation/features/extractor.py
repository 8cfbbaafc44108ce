"""Feature networks: images to vectors in which distances between sets of images are measured.

A number measured with one network does not compare with a number of another, so an extractor carries a name and
the hash of its weights. The small classifiers in `extractors/` are the project's own: tools/train_features.py
made them, each on the training split of the set it is named after. Inception is in `inception.py`.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Union

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import reading, seeds
from pae_zoo.core.errors import UserError

FILTERS, STRIDES, NUM_FEATURES = (16, 32, 32), (1, 2, 2), 64
BATCH = 500
TRAIN_ONE = "Train one with `python tools/train_features.py`, or give --fid_weights=FILE"
SUFFIXES = (".npz", ".h5", ".pb")
NOTE, ARCHITECTURE = "note", ("input_shape", "num_classes", "filters", "strides", "num_features")


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
    """A feature network.

    Args:
      name: what the network is, such as fashion_mnist-cnn.
      digest: sha256 of its weights, hexadecimal.
      preparation: what is done to an image before the network, in words; "" for nothing.
      apply: maps float32 images (b, H, W, C) in [0, 1] to features (b, d); called with up to `BATCH` rows.
      costly: whether it takes tenths of a second per image on a CPU.
    """

    name: str
    digest: str
    preparation: str
    apply: Callable[[np.ndarray], Any]
    costly: bool = False

    @property
    def label(self) -> str:
        """The name and the first 12 digits of the hash: what tells two extractors apart."""
        return f"{self.name} {self.digest[:12]}"

    def features(self, x: np.ndarray) -> np.ndarray:
        """Returns the features, float64 (n, d), of images x (n, H, W, C) in [0, 1]; x is not changed.

        A row depends on its own image only, up to the rounding of float32.
        """
        parts = [np.asarray(self.apply(x[i : i + BATCH]), np.float64) for i in range(0, len(x), BATCH)]
        return np.concatenate(parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """The classifier behind a feature network.

    Args:
      label: its name and the first 12 digits of its hash.
      apply: maps float32 images (b, H, W, C) in [0, 1] to logits (b, classes).
    """

    label: str
    apply: Callable[[np.ndarray], Any]

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Returns the probabilities of the classes, float64 (n, classes), for images x (n, H, W, C) in [0, 1]."""
        logits = [np.asarray(self.apply(x[i : i + BATCH]), np.float64) for i in range(0, len(x), BATCH)]
        logits = np.concatenate(logits)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def classifier(
    input_shape: Sequence[int],
    num_classes: int,
    filters: Sequence[int] = FILTERS,
    strides: Sequence[int] = STRIDES,
    num_features: int = NUM_FEATURES,
    seed: int = 0,
) -> keras.Model:
    """Returns the convolutional classifier whose penultimate layer gives features: images -> logits.

    3x3 convolutions, a dense layer, all with ReLU, and a linear layer of classes. The dense layer is named
    "features". Takes images (b, *input_shape) in [0, 1].
    """
    layers = keras.layers
    inputs = keras.Input(tuple(input_shape), dtype="float32")
    common: dict[str, Any] = dict(activation="relu", dtype="float32")  # whatever the global policy
    hidden = inputs
    for number, (width, stride) in enumerate(zip(filters, strides)):
        initial: Any = keras.initializers.HeUniform(seed=seeds.integer(seed, number))
        convolution = layers.Conv2D(width, 3, stride, padding="same", kernel_initializer=initial, **common)
        hidden = convolution(hidden)
    initial = keras.initializers.HeUniform(seed=seeds.integer(seed, len(filters)))
    hidden = layers.Flatten(dtype="float32")(hidden)
    hidden = layers.Dense(num_features, kernel_initializer=initial, name="features", **common)(hidden)
    initial = keras.initializers.GlorotUniform(seed=seeds.integer(seed, len(filters) + 1))
    return keras.Model(inputs, layers.Dense(num_classes, kernel_initializer=initial, dtype="float32")(hidden))


def digest_of(weights: Sequence[np.ndarray]) -> str:
    """Returns the sha256 of arrays: of their dtypes, shapes and little-endian bytes, in order."""
    total = hashlib.sha256()
    for array in weights:
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def save(path: Union[str, Path], weights: Sequence[np.ndarray], note: dict[str, Any]) -> dict[str, Any]:
    """Writes weights and `note` as one .npz file and returns the note with the hash in it.

    The note says how the weights came about and needs what `classifier` takes, the keys of `ARCHITECTURE`.
    """
    note = {**note, "sha256": digest_of(weights)}
    arrays = {f"weight_{i:02d}": array for i, array in enumerate(weights)}
    with open(path, "wb") as file:
        named: dict[str, Any] = {**arrays, NOTE: np.array(json.dumps(note))}
        np.savez_compressed(file, **named)
    return note


def read(path: Union[str, Path]) -> tuple[keras.Model, dict[str, Any]]:
    """Returns (classifier, note) of a file that `save` wrote; raises UserError for any other."""
    what, remedy = "feature network of tools/train_features.py", f"{TRAIN_ONE[0].lower()}{TRAIN_ONE[1:]}"
    arrays = reading.npz(Path(path), what, remedy)
    with reading.told(path, what, remedy):
        note = json.loads(str(arrays.pop(NOTE)))
        weights = [arrays[name] for name in sorted(arrays)]
        sizes = [note[key] for key in ARCHITECTURE]
        claims = [math.prod(note["input_shape"]), note["num_classes"], *note["filters"], note["num_features"]]
        if max(claims) > sum(array.size for array in weights):
            raise ValueError("its note claims more than its weights are")
        model = classifier(*sizes)
        model.set_weights([array.astype(np.float32) for array in weights])
        expected = note["sha256"]
    if digest_of(weights) != expected:
        raise UserError(f"{path}: the weights do not have the hash in their note; the file was changed. {TRAIN_ONE}.")
    return model, note


def load(path: Union[str, Path]) -> tuple[Extractor, dict[str, Any]]:
    """Returns (extractor, note) of a file that tools/train_features.py wrote; raises UserError for any other."""
    model, note = read(path)
    network = keras.Model(model.inputs, model.get_layer("features").output)
    return Extractor(f"{note['dataset']}-cnn", note["sha256"], "", compiled(network, note)), note


def compiled(network: keras.Model, note: dict[str, Any]) -> Callable:
    # Without XLA: on a CPU it makes convolutions slower. Any number of rows is one compilation.
    signature = [tf.TensorSpec((None, *note["input_shape"]), tf.float32)]
    return tf.function(lambda x: network(x), input_signature=signature, autograph=False)


def check_file(given: str) -> None:
    """Raises UserError unless `given`, the flag --fid_weights, is empty or a file of a kind that is read."""
    if given and Path(given).suffix not in SUFFIXES:
        raise UserError(
            f"--fid_weights={given} is neither Keras' InceptionV3 without top (.h5), nor the 2015-12-05 graph (.pb), "
            "nor a file of tools/train_features.py (.npz)."
        )
    if given:
        try:
            reading.regular(Path(given), "give another file, or leave the flag out for the set's own net")
        except UserError as error:
            raise UserError(f"--fid_weights: {error}") from error
