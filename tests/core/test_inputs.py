"""x and z in the shapes that callers may give: added to, or refused, in every method of every model."""

import battery
import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import likelihoods
from pae_zoo.core import inputs
from pae_zoo.core.errors import UserError


@pytest.mark.parametrize("shape, rows", [
    ((5, 4, 3, 1), 5), ((5, 4, 3), 5), ((4, 3, 1), 1), ((4, 3), 1), ((0, 4, 3), 0)])  # fmt: skip
@pytest.mark.parametrize("kind", [np.asarray, tf.constant])
def test_a_missing_axis_is_added(shape, rows, kind):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    found = inputs.shaped(kind(x), (4, 3, 1))
    assert isinstance(found, type(kind(x))) and found.shape == (rows, 4, 3, 1)
    np.testing.assert_array_equal(np.array(found).ravel(), x.ravel())


@pytest.mark.parametrize("event, shape", [
    ((4, 3, 1), (5, 4, 3, 3)), ((4, 3, 1), (5, 4, 4)), ((4, 3, 1), (5, 12)), ((4, 3, 1), (2, 5, 4, 3, 1)),
    ((4, 3, 1), (5, 1, 1, 1)), ((4, 3, 3), (5, 4, 3)), ((7,), (5, 1)), ((7,), (5, 7, 1)), ((7,), (5,)), ((7,), ()),
])  # fmt: skip
def test_other_shapes_are_told(event, shape):
    with pytest.raises(UserError, match=r"x has shape .*; one datum is .* Give x as \(batch, "):
        inputs.shaped(np.zeros(shape), event)


def test_vectors():
    assert inputs.shaped(np.zeros(7), (7,)).shape == (1, 7)
    assert inputs.shaped(np.zeros(7), (1,)).shape == (7, 1)
    assert inputs.shaped([[1.0, 2.0]], (2,)).shape == (1, 2)


def test_unknown_sizes_are_checked_when_the_graph_runs():
    take = tf.function(lambda x: inputs.shaped(x, (4, 3, 1)), input_signature=[tf.TensorSpec(None)], autograph=False)
    assert take(tf.zeros((2, 4, 3, 1))).shape == (2, 4, 3, 1)
    with pytest.raises(tf.errors.InvalidArgumentError):
        take(tf.zeros((2, 4, 3)))
    spec = [tf.TensorSpec((None, None, None))]
    take = tf.function(lambda x: inputs.shaped(x, (4, 3, 1)), input_signature=spec, autograph=False)
    assert take(tf.zeros((2, 4, 3))).shape == (2, 4, 3, 1)
    with pytest.raises(tf.errors.InvalidArgumentError):
        take(tf.zeros((2, 4, 1)))


@pytest.mark.parametrize("name", battery.ROWS)
def test_every_method_of_x_adds_a_missing_axis_or_refuses(name):
    model = battery.built(name)
    x = battery.images(3)
    for method, function in battery.methods(model).items():
        for whole, shorts in ((x, [x[..., 0]]), (x[1:2], [x[1], x[1, ..., 0]])):
            wanted = function(whole)
            for short in shorts:
                for key, value in function(short).items():
                    np.testing.assert_allclose(value, wanted[key], rtol=1e-5, atol=1e-5, err_msg=f"{method} {key}")
        for wrong in (np.zeros((3, 6, 6, 2)), np.zeros((3, 6, 1, 1)), np.zeros((3, 1, 1, 1)), np.zeros((3, 36)),
                      np.zeros((3, 36, 1, 1)), np.zeros((2, 3, 6, 6, 1))):
            with pytest.raises(UserError, match="shape"):
                function(wrong.astype(np.float32))
                pytest.fail(f"{method} took {wrong.shape}")


@pytest.mark.parametrize("name", battery.ROWS)
def test_every_method_of_z_refuses_another_last_axis(name):
    model = battery.built(name)
    for method, function in battery.latent_methods(model).items():
        for wrong in ((4, 1), (4, 2), (4, 6), (2, 4, 6), (6,), ()):
            with pytest.raises(UserError, match="shape"):
                function(np.zeros(wrong, np.float32))
                pytest.fail(f"{method} took {wrong}")


@pytest.mark.parametrize("name", sorted(likelihoods.NAMES - {"mixed"}))  # which is for tables
def test_no_likelihood_broadcasts(name):
    model = likelihoods.build(name, (4, 3, 1))
    output = tf.zeros((2, 4, 3, model.channels_factor))
    assert model.log_prob(output, tf.zeros((2, 4, 3, 1))).shape == (2,)
    for wrong in ((2, 4, 3), (2, 4, 1, 1), (2, 1, 1, 1), (2, 4, 3, 3), (2,), ()):
        for method in (model.log_prob, model.score_and_fisher):
            with pytest.raises(UserError, match="y has shape"):
                method(output, tf.zeros(wrong))
    with pytest.raises(UserError, match="output has shape"):
        model.log_prob(output[:, :, :1], tf.zeros((2, 4, 3, 1)))
