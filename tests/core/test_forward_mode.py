"""Forward mode against derivatives known in closed form, and where TensorFlow forgets shapes."""

import numpy as np
import tensorflow as tf

from pae_zoo.core.forward_mode import jvp


def pair(x):
    return {"stack": tf.stack([x, tf.sin(x)]), "concat": tf.concat([x, x**2], axis=1), "nothing": None,
            "apart": tf.ones_like(x)}


def test_derivatives_are_the_closed_form():
    x, v = tf.constant([[0.3, -1.2]]), tf.constant([[2.0, 0.5]])
    values, found = jvp(pair, x, v)
    assert values["nothing"] is None and found["nothing"] is None
    np.testing.assert_allclose(found["stack"], tf.stack([v, tf.cos(x) * v]), rtol=1e-6)
    np.testing.assert_allclose(found["concat"], tf.concat([v, 2 * x * v], axis=1), rtol=1e-6)
    np.testing.assert_array_equal(found["apart"], tf.zeros_like(x))


def test_several_points_are_one_list():
    x = [tf.constant([2.0]), tf.constant([3.0])]
    np.testing.assert_allclose(jvp(lambda p: p[0] * p[1], x, [tf.constant([1.0]), tf.constant([10.0])])[1], [23.0])


def test_shapes_that_tensorflow_forgets_are_kept(monkeypatch):
    known = tf.autodiff.ForwardAccumulator.jvp

    def forgetful(self, value, unconnected):
        return tf.compat.v1.placeholder_with_default(known(self, value, unconnected), None)

    monkeypatch.setattr(tf.autodiff.ForwardAccumulator, "jvp", forgetful)
    traced = tf.function(lambda x: jvp(lambda z: tf.sin(z), x, x)[1], autograph=False)
    assert traced.get_concrete_function(tf.TensorSpec((3, 2))).output_shapes == (3, 2)
