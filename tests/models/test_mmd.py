"""mmd_vae and wae: the discrepancy against its value for Gaussians in closed form, and what training does with it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import LATENT_DIM, build, images
from scipy import integrate

from pae_zoo.core.errors import UserError
from pae_zoo.models.parts import mmd

SEED = tf.constant((1, 2))


def mean_kernel(mean, variance, kernel):
    """Returns E k(x, y) where x - y ~ N(mean, variance I), mean (K,)."""
    size, square = len(mean), float(np.square(mean).sum())
    found = []
    for scale in mmd.SCALES:
        width = 2 * size * scale

        def gaussian(t, width=width):  # E exp(-t |x - y|^2 / width)
            spread = 1 + 2 * t * variance / width
            return spread ** (-size / 2) * np.exp(-t * square / (width * spread))

        # C / (C + r) is the integral of exp(-t) exp(-t r / C) over t > 0.
        found.append(gaussian(1.0) if kernel == "rbf" else
                     integrate.quad(lambda t, g=gaussian: np.exp(-t) * g(t), 0, np.inf)[0])
    return np.mean(found)


@pytest.mark.parametrize("kernel", mmd.KERNELS)
@pytest.mark.parametrize(("shift", "std"), [(0.0, 1.0), (0.7, 1.0), (0.3, 0.4)])
def test_the_discrepancy_of_gaussians_is_that_in_closed_form(kernel, shift, std):
    generator = np.random.default_rng(0)
    size, rows, repeats = 3, 400, 40
    mean = shift * np.ones(size)
    values = []
    for _ in range(repeats):
        q = mean + std * generator.normal(size=(rows, size))
        values.append(float(mmd.discrepancy(tf.constant(q), tf.constant(generator.normal(size=(rows, size))), kernel)))
    wanted = (mean_kernel(0 * mean, 2 * std**2, kernel) + mean_kernel(0 * mean, 2.0, kernel)
              - 2 * mean_kernel(mean, 1 + std**2, kernel))
    error = np.std(values) / np.sqrt(repeats)
    assert abs(np.mean(values) - wanted) < 5 * error  # unbiased, at 0 too
    assert error < (1e-3 if shift == 0 else 0.02 * wanted)


@pytest.mark.parametrize("kernel", mmd.KERNELS)
def test_the_kernel_is_its_formula(kernel):
    a, b = np.array([[0.0, 1.0], [2.0, 2.0]]), np.array([[1.0, 1.0]])
    square, width = np.array([[1.0], [2.0]]), 4.0 * np.array(mmd.SCALES)
    wanted = width / (width + square) if kernel == "imq" else np.exp(-square / width)
    np.testing.assert_allclose(mmd.kernel_matrix(tf.constant(a), tf.constant(b), kernel),
                               wanted.mean(axis=1, keepdims=True), rtol=1e-12)


def test_a_single_datum_has_no_pairs():
    assert np.isfinite(mmd.discrepancy(tf.zeros((1, 3)), tf.ones((1, 3)), "imq"))


def test_the_loss_is_that_of_a_vae_and_the_weighted_discrepancy():
    x = images(32)
    mine, plain = build("mmd_vae", beta=1.0, mmd_weight=7.0), build("vae")
    terms, others = mine.objective(x, SEED, True), plain.objective(x, SEED, True)
    np.testing.assert_allclose(terms["loss"], others["loss"] + 7.0 * terms["mmd"], rtol=1e-5)
    np.testing.assert_allclose(mine.objective(x, SEED, False)["loss"], plain.objective(x, SEED, False)["loss"])
    np.testing.assert_array_equal(mine.elbo(x, (0, 1)), plain.elbo(x, (0, 1)))
    free = build("mmd_vae", mmd_weight=0.0).objective(x, SEED, True)
    np.testing.assert_allclose(free["loss"], others["reconstruction"], rtol=1e-6)  # no KL: beta is 0


def test_the_loss_of_a_wae_is_that_of_an_ae_and_the_weighted_discrepancy():
    x = images(32)
    mine, plain = build("wae", mmd_weight=7.0), build("ae")
    extra = np.asarray(mine.objective(x, SEED, True)["loss"] - plain.objective(x, SEED, True)["loss"])
    wanted = 7.0 * mmd.from_prior(mine.codes(x), "imq", SEED)
    np.testing.assert_allclose(extra, wanted, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(mine.objective(x, SEED, False)["loss"], plain.objective(x, SEED, False)["loss"])


@pytest.mark.parametrize("name", ["mmd_vae", "wae"])
@pytest.mark.parametrize("kernel", mmd.KERNELS)
def test_codes_are_drawn_to_the_prior(name, kernel):
    x = images(256)
    found = []
    for weight in (0.0, 1000.0):
        model = build(name, mmd_weight=weight, mmd_kernel=kernel)
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
        model.fit(x, epochs=15, batch_size=64, verbose=0)
        z = np.asarray(model.encode(x).sample(seed=(0, 1)), np.float32)
        found.append(float(mmd.from_prior(tf.constant(z), kernel, SEED)))
        assert model.sample(2, (0, 1)).shape[0] == 2 and model.prior().event_shape == (LATENT_DIM,)
    assert found[1] < 0.5 * found[0]


@pytest.mark.parametrize("name", ["mmd_vae", "wae"])
@pytest.mark.parametrize(("changes", "match"), [
    ({"mmd_kernel": "laplace"}, "mmd_kernel='laplace' is unknown; allowed: imq, rbf"),
    ({"mmd_weight": -1.0}, "0 or more; received -1.0"),
])
def test_what_is_refused(name, changes, match):
    model = build(name)
    config = {**model.get_config(), **changes}
    with pytest.raises(UserError, match=match):
        type(model).from_config(config)
