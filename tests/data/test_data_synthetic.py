"""Synthetic densities against closed forms."""

import numpy as np
import pytest

from pae_zoo import data
from pae_zoo.data import synthetic

ENTROPY = {  # nats, from closed forms
    "banana": 16 - 16 * np.log(1 / (np.pi * 0.1)),
    "lognormal4": 4 * 1.4189385,
}


@pytest.mark.parametrize("name", list(synthetic.SYNTHETIC))
def test_shapes_splits_and_seeds(name):
    one, two, other = data.load(name), data.load(name), data.load(name, seed=1)
    assert one.event_shape == synthetic.SYNTHETIC[name].info.shape
    assert one.train.x.dtype == np.float32 and one.train.y is None
    assert (len(one.train), len(one.valid), len(one.test)) == (11000, 1000, 2000)
    np.testing.assert_array_equal(one.train.x, two.train.x)
    assert not np.array_equal(one.train.x, other.train.x)
    log_prob = one.log_prob(one.test.x)
    assert log_prob.shape == (2000,) and log_prob.dtype == np.float64 and np.isfinite(log_prob).all()


@pytest.mark.parametrize("name", list(ENTROPY))
def test_mean_log_density_is_minus_the_entropy(name):
    density = synthetic.SYNTHETIC[name]
    values = density.log_prob(density.sample(np.random.default_rng(3), 20000))
    assert abs(values.mean() + ENTROPY[name]) < 5 * values.std() / np.sqrt(len(values))


def test_constants_of_the_specification():
    assert ENTROPY["lognormal4"] == pytest.approx(5.6758, abs=1e-4)
    rotation = synthetic.banana_rotation()
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(32), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    mode = np.ones((1, 32)) @ rotation.T  # a = b = 1
    assert synthetic.SYNTHETIC["banana"].log_prob(mode)[0] == pytest.approx(18.5257, abs=1e-4)


# The wide spiral would need a large grid; it has the formula of the small one, tested below.
@pytest.mark.parametrize("name", [name for name in synthetic.SYNTHETIC if name != "swissroll_lae"])
def test_densities_are_normalised(name):
    """A grid in the plane; elsewhere an independent form of the same density."""
    density, rng = synthetic.SYNTHETIC[name], np.random.default_rng(5)
    if density.info.shape == (2,):  # a grid
        grid = np.arange(-2, 2, 0.025)  # half the noise: the sum is exact to many digits
        points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
        total = np.exp(density.log_prob(points)).sum() * 0.025**2
        assert total == pytest.approx(1, abs=1e-6)
    elif name == "banana":  # the known change of variables: rotate, undo b - a^2, then it is a Gaussian
        x = density.sample(rng, 500)
        pairs = (x @ synthetic.banana_rotation()).reshape(500, 16, 2)
        a, rest = pairs[..., 0], pairs[..., 1] - pairs[..., 0] ** 2
        gaussian = lambda v, mean, var: -0.5 * (v - mean) ** 2 / var - 0.5 * np.log(2 * np.pi * var)  # noqa: E731
        expected = (gaussian(a, 1, 0.5) + gaussian(rest, 0, 0.005)).sum(1)
        np.testing.assert_allclose(density.log_prob(x), expected, rtol=1e-9)
    elif name == "lognormal4":
        from scipy import stats

        x = density.sample(rng, 500)
        np.testing.assert_allclose(density.log_prob(x), stats.lognorm(1).logpdf(x).sum(1), rtol=1e-9)
        assert density.log_prob(np.array([[1, 1, 1, -1.0]]))[0] == -np.inf
    elif name == "waves":  # a Gaussian for each frequency, in the whole covariance, on an even grid
        from scipy import stats

        waves, x = synthetic.WAVES, density.sample(rng, 3)[..., 0]
        grid = waves.low + (waves.high - waves.low) * (np.arange(3000) + 0.5) / 3000
        covariances = np.einsum("mti,msi->mts", *[waves.basis(grid)] * 2) + waves.noise**2 * np.eye(waves.length)
        each = [stats.multivariate_normal(np.zeros(waves.length), one).pdf(x) for one in covariances]
        np.testing.assert_allclose(density.log_prob(x[..., None]), np.log(np.mean(each, axis=0)), atol=1e-4)
    else:
        from scipy import stats

        weight, bias, sigma = synthetic.linear_gaussian_parameters()
        x = density.sample(rng, 500)
        oracle = stats.multivariate_normal(bias, weight @ weight.T + sigma**2 * np.eye(10))
        np.testing.assert_allclose(density.log_prob(x), oracle.logpdf(x), rtol=1e-9)


@pytest.mark.parametrize("spiral", [synthetic.SWISSROLL, synthetic.SWISSROLL_LAE])
def test_the_quadrature_of_the_spirals_is_converged(spiral):
    x = spiral.sample(np.random.default_rng(2), 100)
    x[:2] = spiral.curve(np.array([0.0, 1.0]))  # the ends, where a rule is at its worst
    nodes = spiral.curve((np.arange(200_000) + 0.5) / 200_000)
    variance = spiral.noise**2
    kernel = np.array([np.exp(-((row - nodes) ** 2).sum(1) / (2 * variance)).mean() for row in x])
    np.testing.assert_allclose(spiral.log_prob(x), np.log(kernel / (2 * np.pi * variance)), atol=1e-6)


def test_the_wide_spiral_is_the_published_one():
    u = np.array([0.0, 0.3, 1.0])
    z = 2 * np.pi * (1 + 2 * u)
    np.testing.assert_allclose(synthetic.SWISSROLL_LAE.curve(u).T, [z * np.cos(z), z * np.sin(z)])
    assert synthetic.SWISSROLL_LAE.noise == 0.2
