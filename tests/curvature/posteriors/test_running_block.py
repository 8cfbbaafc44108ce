"""Running blocks: their recursion, the precision that draws come from, what is left after training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.curvature.posteriors.running_block import RunningBlock


def curvature_of(seed):
    generator = np.random.default_rng(seed)
    roots = [generator.normal(size=(size, size)) for size in (8, 2)]
    return [tf.constant(root @ root.T) for root in roots]


@pytest.fixture
def posterior():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.PReLU()])
    found = RunningBlock(model, dtype="float64")
    found.assign_scales(prior_precision=np.array([0.5, 2.0]), kappa=1.3)
    return found


def test_blocks_go_a_share_of_the_way(posterior):
    for seed, share in ((0, 1.0), (1, 0.25)):
        posterior.assign_factors(posterior.moved(curvature_of(seed), share, 2.0))
    for mine, first, second in zip(posterior.factors_now(), curvature_of(0), curvature_of(1)):
        np.testing.assert_allclose(mine, 1.5 * first + 0.5 * second)
    posterior.rescale(3.0)
    np.testing.assert_allclose(posterior.factors_now()[0], 4.5 * curvature_of(0)[0] + 1.5 * curvature_of(1)[0])


def test_draws_have_the_precision_and_sums_are_its(posterior):
    posterior.assign_factors(curvature_of(0))
    posterior.settle()
    noise = seeds.normal((1, 10), (0, 1), tf.float64)[0].numpy()
    for index, (prior, part) in enumerate(zip((0.5, 2.0), (slice(0, 8), slice(8, 10)))):
        precision = 1.3 * curvature_of(0)[index].numpy() + prior * np.eye(part.stop - part.start)
        np.testing.assert_allclose(posterior.precision()[index], precision)
        expected = np.linalg.solve(np.linalg.cholesky(precision).T, noise[part])
        np.testing.assert_allclose(posterior.deviation((0, 1))[index], expected)
        wanted = [np.linalg.slogdet(precision)[1], np.trace(np.linalg.inv(precision))]
        np.testing.assert_allclose(posterior.sums[index], wanted)
    posterior.assign_factors(curvature_of(1))
    posterior.factorise(False)
    np.testing.assert_allclose(posterior.deviation((0, 1))[1], expected)  # as it was
