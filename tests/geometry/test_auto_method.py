"""Which search `auto` takes: Gauss-Newton for decoders of few latents, Adam for many and for a metric alone."""

import pytest
import surfaces
import tensorflow as tf

from pae_zoo import geometry


@pytest.mark.parametrize("latents, gauss_newton", [(2, True), (4, True), (5, False)])
def test_auto_goes_by_the_number_of_latents(latents, gauss_newton):
    solver = surfaces.solver(lambda z: tf.sin(z), latents)
    assert solver.uses_gauss_newton == gauss_newton
    assert solver.steps == (100 if gauss_newton else 500)
    assert surfaces.solver(lambda z: tf.sin(z), latents, method="gauss_newton").uses_gauss_newton


def test_a_metric_alone_is_left_to_adam():
    manifold = geometry.MetricField(lambda z: tf.eye(2, batch_shape=[z.shape[0]]), 2)
    assert not geometry.Solver(manifold).uses_gauss_newton
