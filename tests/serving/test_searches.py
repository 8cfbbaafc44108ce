"""Served searches against closed forms of a linear decoder: restorations, geodesics, and rows in turns."""

import numpy as np
import pytest
import tensorflow as tf
from linear_vae import linear_model

from pae_zoo import serving
from pae_zoo.core.errors import UserError
from pae_zoo.geometry import Settings, Solver, as_manifold
from pae_zoo.serving import searches

SIGMA, SEED = 0.3, tf.constant([3, 4])
KNOWN = 4  # of seven values


@pytest.fixture(scope="module")
def linear():
    """(the model, its weight and bias, its traced searches, which take two rows at a time)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searches, "RESTORED_ROWS", 2)
        patch.setattr(searches, "DRAWS", 400)
        model, weight, bias = linear_model(SIGMA)
        functions, left_out = serving.trace(model, only=("restore", "geodesic"))
    assert not left_out
    return model, weight, bias, functions


def test_the_posterior_of_a_linear_decoder_is_known(linear):
    _, weight, bias, functions = linear
    generator = np.random.default_rng(5)
    x = (generator.normal(size=(5, 3)) @ weight + bias + SIGMA * generator.normal(size=(5, 7))).astype(np.float32)
    mask = np.broadcast_to(np.arange(7) < KNOWN, x.shape).astype(np.float32)
    seen = weight[:, :KNOWN]
    covariance = np.linalg.inv(np.eye(3) + seen @ seen.T / SIGMA**2)
    mean = (x[:, :KNOWN] - bias[:KNOWN]) @ seen.T @ covariance / SIGMA**2 @ weight + bias
    std = np.sqrt(np.einsum("kp,kl,lp->p", weight, covariance, weight))
    given = x.copy()
    given[:, KNOWN:] = np.nan  # what is hidden does not matter
    found = functions["restore"](*map(tf.constant, (given, mask)), SEED)
    found = {name: value.numpy() for name, value in found.items()}
    np.testing.assert_allclose(found["map"], mean, atol=2e-3)
    np.testing.assert_allclose(found["mean"], mean, atol=0.2 * std.max())
    np.testing.assert_allclose(found["std"], np.broadcast_to(std, x.shape), rtol=0.15)
    alone = functions["restore"](*(tf.constant(one[3:4]) for one in (given, mask)), SEED)
    for name, value in found.items():
        np.testing.assert_allclose(alone[name], value[3:4], atol=1e-3, err_msg=name)
    again = functions["restore"](*map(tf.constant, (given, mask)), SEED)
    assert all(np.array_equal(again[name], found[name]) for name in found)
    given[1, 0], mask[4, 6] = np.inf, np.nan
    broken = functions["restore"](*map(tf.constant, (given, mask)), SEED)
    for name, value in broken.items():
        assert np.isnan(value.numpy()).all(axis=1).tolist() == [False, True, False, False, True]
        np.testing.assert_allclose(value.numpy()[[0, 2, 3]], found[name][[0, 2, 3]], atol=1e-3)


def test_geodesics_of_a_linear_decoder_are_straight(linear):
    model, weight, bias, functions = linear
    start, end = np.random.default_rng(6).normal(size=(2, 5, 3)).astype(np.float32)
    end[1], end[2, 1] = start[1], np.nan
    found = {name: value.numpy() for name, value in functions["geodesic"](*map(tf.constant, (start, end))).items()}
    times = np.linspace(0.0, 1.0, 16)[:, None]
    points = start[:, None] + times * (end - start)[:, None]
    sound = np.arange(5) != 2
    np.testing.assert_allclose(found["z"][sound], points[sound], atol=2e-3)
    np.testing.assert_allclose(found["x"][sound], points[sound] @ weight + bias, atol=5e-3)
    length = np.linalg.norm((end - start) @ weight, axis=1)
    np.testing.assert_allclose(found["length"][sound], length[sound], rtol=1e-4, atol=1e-6)
    assert found["converged"].tolist() == sound.tolist()
    assert all(np.isnan(found[name][2]).all() for name in ("z", "x", "length"))
    with pytest.raises(tf.errors.InvalidArgumentError):
        functions["geodesic"](tf.constant(start), tf.constant(end[:3]))


def test_a_path_is_what_solve_finds():
    def surface(z):
        return tf.stack([z[:, 0], z[:, 1], tf.reduce_sum(tf.square(z), axis=1)], axis=1)

    start, end = np.random.default_rng(7).normal(size=(2, 3, 2)).astype(np.float32)
    solver = Solver(as_manifold(surface, 2), Settings(jit_compile=False, num_points=16))
    found = solver.solve(start, end)
    points, length, converged = tf.function(lambda *ends: solver.path(*ends, 9), autograph=False)(start, end)
    np.testing.assert_allclose(length, found.lengths["rms"], rtol=1e-4)
    np.testing.assert_allclose(points, found.curves(np.linspace(0, 1, 9)), atol=2e-2)
    assert converged.numpy().all() and found.converged.all()
    with pytest.raises(UserError, match="at least 2 points; received init='line' and 1"):
        solver.path(tf.constant(start), tf.constant(end), 1)


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_rows_in_turns(count):
    seen = []

    @tf.function(input_signature=[tf.TensorSpec((None, 2)), tf.TensorSpec((None,))], autograph=False)
    def whole(x, y):
        def some(x, y):
            tf.py_function(lambda rows: seen.append(len(rows)), [y], [])
            return [x + y[:, None], tf.reduce_sum(x, axis=1)]

        return searches.in_turns(some, [x, y], 3)

    x, y = np.arange(2.0 * count).reshape(count, 2), np.arange(1.0 * count)
    found = whole(tf.constant(x, tf.float32), tf.constant(y, tf.float32))
    np.testing.assert_array_equal(found[0], x + y[:, None])
    np.testing.assert_array_equal(found[1], x.sum(axis=1))
    assert max(seen) <= 3 and sum(seen) == count
