"""Gradients by the kernels of convolutions against TensorFlow's own, by every way."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pae_zoo.curvature.rules import correlations

L = keras.layers
LAYERS = {
    "same": (L.Conv2D, dict(filters=4, kernel_size=(3, 2), padding="same")),
    "valid": (L.Conv2D, dict(filters=2, kernel_size=(2, 3))),
    "even_same": (L.Conv2D, dict(filters=3, kernel_size=4, padding="same")),
    "dilated": (L.Conv2D, dict(filters=3, kernel_size=(3, 2), padding="same", dilation_rate=(1, 2))),
    "dilated_valid": (L.Conv2D, dict(filters=3, kernel_size=2, dilation_rate=2)),
    "strided": (L.Conv2D, dict(filters=3, kernel_size=3, strides=2, padding="same")),
    "strided_valid": (L.Conv2D, dict(filters=3, kernel_size=3, strides=(2, 3))),
    "one_side": (L.Conv1D, dict(filters=3, kernel_size=3, padding="same")),
    "one_side_strided": (L.Conv1D, dict(filters=3, kernel_size=2, strides=2)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("channels", [1, 5])
def test_equals_automatic_differentiation(monkeypatch, name, rows, channels):
    make, options = LAYERS[name]
    layer = make(**options, dtype="float64")
    rng = np.random.default_rng(0)
    a = tf.constant(rng.normal(size=(2, 7, 6, channels) if make is L.Conv2D else (2, 7, channels)))
    out = layer(a)
    delta = tf.constant(rng.normal(size=(rows, *out.shape)))
    expected = np.zeros((rows, 2, *layer.kernel.shape))
    for row in range(rows):
        for datum in range(2):
            with tf.GradientTape() as tape:
                value = layer(a[datum : datum + 1])
            one = delta[row, datum : datum + 1]
            expected[row, datum] = tape.gradient(value, layer.kernel.value, output_gradients=one)
    window = correlations.geometry(layer, a.shape[1:-1], layer.padding)
    ways = window.copies(channels, rows)
    assert (len(ways) == 1) == ("strided" in name)
    for way in (*ways, correlations.WINDOWS):
        monkeypatch.setattr(correlations.Geometry, "copies", lambda *args, way=way: {way: 1})
        found = correlations.correlations(a[None], delta, window)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12, err_msg=way)


def test_the_way_copies_least():
    def best(image, out, size=3, stride=1):
        copies = correlations.Geometry((size, size), (stride, stride), (1, 1), ((0, 0), (0, 0))).copies(image, out)
        return min(copies, key=lambda way: copies[way])

    assert best(1, 8) == correlations.TAPS
    assert best(8, 1) == correlations.TURNED
    assert best(12, 12) == correlations.SIDES
    # Many rows are not copied: the image is.
    assert best(12, 12 * 784) == correlations.TAPS
    assert best(12, 12 * 784, size=7) == correlations.WINDOWS
    assert best(8, 1, stride=2) == correlations.TAPS
    assert best(1, 1, size=9) == correlations.SIDES
    # Long windows are not taken place by place.
    assert best(1, 1, size=20) == best(1, 1, size=9, stride=2) == correlations.WINDOWS
