"""Inception features, for Frechet distances that compare with others' FID, from weights that are at hand.

Two files are read: Keras' InceptionV3 without its top (`.h5`, trained by Keras) and the frozen graph of 2015-12-05
(`.pb`), whose `pool_3` is what FID is defined with (Heusel et al., arXiv 1706.08500). Their numbers differ.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.features.extractor import Extractor, check_file

NUM_FEATURES = 2048
ROWS = 50  # images of 299x299 at a time
INPUT, OUTPUT = "ExpandDims:0", "pool_3:0"
GREY = "grey repeated as RGB, "


def load(path: str) -> Extractor:
    """Returns the extractor of a file of Inception weights, .h5 or .pb; raises UserError for any other."""
    check_file(path)
    file = Path(path).expanduser()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    name, preparation, apply = _frozen_graph(file) if file.suffix == ".pb" else _keras(file)
    return Extractor(name, digest, GREY + preparation, _in_parts(apply), costly=True)


def _in_parts(apply):
    """Returns `apply` on RGB images, fed with few rows at a time."""

    def features(x: np.ndarray) -> np.ndarray:
        x = np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x
        parts = [np.asarray(apply(x[i : i + ROWS])) for i in range(0, len(x), ROWS)]
        return np.concatenate(parts).reshape(len(x), -1)

    return features


def _keras(file: Path):
    import keras

    try:
        options: dict[str, Any] = dict(include_top=False, weights=None, pooling="avg")
        network = keras.applications.InceptionV3(**options)
        network.load_weights(str(file))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _foreign(file, "Keras' InceptionV3 without top (..._tf_kernels_notop.h5)", error)

    def apply(x):
        return network(tf.image.resize(x, (299, 299)) * 2.0 - 1.0, training=False)

    signature = [tf.TensorSpec((None, None, None, 3), tf.float32)]
    compiled = tf.function(apply, input_signature=signature, autograph=False)
    return "inception-v3-keras", "resized to 299x299 (bilinear), scaled to [-1, 1]", compiled


def _frozen_graph(file: Path):
    from google.protobuf.message import DecodeError

    try:
        definition = tf.compat.v1.GraphDef.FromString(file.read_bytes())
        # A graph and a session of version 1: this graph has an operation that functions no longer take.
        graph = tf.Graph()
        with graph.as_default():
            images = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3))
            (pooled,) = tf.graph_util.import_graph_def(
                definition, input_map={INPUT: images}, return_elements=[OUTPUT], name=""
            )
        session = tf.compat.v1.Session(graph=graph)
        width = session.run(pooled, {images: np.zeros((1, 299, 299, 3), np.float32)}).size
    except (DecodeError, ValueError, KeyError, tf.errors.OpError) as error:
        raise _foreign(file, f"the 2015-12-05 Inception graph with {INPUT} and {OUTPUT}", error)
    if width != NUM_FEATURES:
        raise UserError(f"{file}: {OUTPUT} has {width} numbers an image; the 2015-12-05 graph has {NUM_FEATURES}.")

    def apply(x):
        return session.run(pooled, {images: 255.0 * x})

    return "inception-2015-12-05-pool_3", "scaled to [0, 255], resized by the graph", apply


def _foreign(file: Path, expected: str, error: Exception) -> UserError:
    words = " ".join(str(error).split())[:120]
    return UserError(f"--fid_weights={file} is not {expected}: {words or type(error).__name__}.")
