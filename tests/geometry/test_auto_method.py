"""Which search `auto` takes: Gauss-Newton for decoders, Adam for a metric alone."""

import pytest
import surfaces
import tensorflow as tf

from pae_zoo import geometry
from pae_zoo.geometry import gauss_newton


@pytest.mark.parametrize("latents", [2, 5])
def test_decoders_have_gauss_newton(latents):
    solver = surfaces.solver(lambda z: tf.sin(z), latents)
    assert solver.uses_gauss_newton and solver.steps == {2: 200, 5: 400}[latents]
    adam = surfaces.solver(lambda z: tf.sin(z), latents, method="adam")
    assert not adam.uses_gauss_newton and adam.steps == 500


def test_a_metric_alone_is_left_to_adam():
    manifold = geometry.MetricField(lambda z: tf.eye(2, batch_shape=[z.shape[0]]), 2)
    assert not geometry.Solver(manifold).uses_gauss_newton


def test_the_metric_is_looked_at_less_and_less():
    assert gauss_newton.refresh_steps(20, 2) == (0, 1, 2, 4, 8, 16)
    assert gauss_newton.refresh_steps(20, 50) == (0, 1, 8)
    assert gauss_newton.refresh_steps(1, 2) == (0,)
