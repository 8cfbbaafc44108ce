"""Inception features from files: a graph with the names of the 2015-12-05 one, Keras' net with random weights."""

import hashlib
import importlib

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.features import inception
from pae_zoo.evaluation.support import quality
from pae_zoo.experiment import launch


def old_graph(num_features=2048, output="pool_3"):
    """Returns a graph of version 8 with the old graph's names, its removed operation, and 2048 tiled features."""
    graph = tf.Graph()
    with graph.as_default():
        image = tf.compat.v1.placeholder(tf.float32, (None, None, 3), name="Cast")
        batch = tf.expand_dims(image, 0, name="ExpandDims")
        resized = tf.compat.v1.image.resize_bilinear(batch, (12, 12), name="ResizeBilinear")
        for name in ("m", "v", "beta", "gamma"):
            tf.constant([1.0 if name in ("v", "gamma") else 0.0] * 3, name=name)
        tiled = tf.tile(tf.identity(resized, name="input_of_pool"), (1, 1, 1, -(-num_features // 3)))
        tf.nn.avg_pool2d(tiled[..., :num_features], 12, 1, "VALID", name=output)
    definition = graph.as_graph_def()
    definition.versions.producer = 8
    for node in definition.node:
        if node.name == "input_of_pool":
            node.op = "BatchNormWithGlobalNormalization"
            del node.input[:]
            node.input.extend(["ResizeBilinear", "m", "v", "beta", "gamma"])
            node.attr["variance_epsilon"].f = 0.0
            node.attr["scale_after_normalization"].b = True
    return definition.SerializeToString()


def test_frozen_graph(tmp_path):
    path = tmp_path / "graph.pb"
    path.write_bytes(old_graph())
    extractor = inception.load(str(path))
    x = np.random.default_rng(0).uniform(size=(70, 8, 8, 1)).astype(np.float32)
    found = extractor.features(x)
    assert found.shape == (70, 2048) and extractor.costly
    # Grey levels of 0 to 255, averaged by the stand-in's pooling.
    means = tf.compat.v1.image.resize_bilinear(255 * x, (12, 12)).numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(found, np.repeat(means, 2048, axis=1), rtol=1e-4)
    assert extractor.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert extractor.label.startswith("inception-2015-12-05-pool_3 ")


def test_the_task_takes_a_graph(tmp_path, make_context, capsys):
    path = tmp_path / "graph.pb"
    path.write_bytes(old_graph())
    context = make_context(fid_weights=str(path), num=20)
    results = dict(quality.model_quality(context))
    assert results["generation/frechet/floor"] < 1e-3 < results["generation/frechet/samples"]
    assert results["generation/frechet/extractor"].startswith("inception-2015-12-05-pool_3 ")
    assert results["generation/frechet/preparation"].startswith("rounded to 8 bits, grey repeated as RGB, scaled to")
    assert "singular covariance of 2048 features" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("a.pb", b"no graph at all", "is not the 2015-12-05 Inception graph"),
        ("a.pb", old_graph(output="pool_4"), "is not the 2015-12-05 Inception graph with ExpandDims:0 and pool_3:0"),
        ("a.pb", old_graph(num_features=30), "has 30 numbers an image; the 2015-12-05 graph has 2048"),
        ("a.h5", b"no weights at all", "is not Keras' InceptionV3 without top"),
        ("a.txt", b"", "is neither Keras' InceptionV3 without top"),
    ],
)
def test_foreign_files_are_refused_in_one_line(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        inception.load(str(path))
    assert "\n" not in str(caught.value)


def test_the_launchers_refuse_a_missing_file_first(tmp_path, capsys):
    for name in ("evaluate", "main"):
        module = importlib.import_module(f"pae_zoo.{name}")
        flags = ["--fid_weights=none.pb", f"--workdir={tmp_path / 'run'}"]
        assert launch.run(module.main, flags) == 2
        assert "--fid_weights: none.pb does not exist" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_keras_weights(tmp_path):
    import keras

    network = keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")
    path = tmp_path / "notop.h5"
    network.save(path)
    extractor = inception.load(str(path))
    x = np.random.default_rng(0).uniform(size=(2, 28, 28, 1)).astype(np.float32)
    prepared = 2.0 * tf.image.resize(np.repeat(x, 3, axis=-1), (299, 299)) - 1.0
    np.testing.assert_allclose(extractor.features(x), network(prepared), rtol=1e-3, atol=1e-6)
    assert extractor.label.startswith("inception-v3-keras ")
