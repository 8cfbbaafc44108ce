"""The Gaussian process as decoder: its moments against plain formulas, its metric against draws, the ring."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.geometry.gaussian_process import GaussianProcess, log_evidence
from pae_zoo.geometry.graphs import GridGraph
from pae_zoo.geometry.solver import Settings, Solver

SCALES = dict(length_scale=0.5, signal_std=1.0, noise_std=0.1)


def ring(num=100, seed=0):
    """Latents and data of the ring: whitened points of a noisy circle, and the points."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, num)
    data = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * rng.normal(size=(num, 2))
    centred = data - data.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes.T / singular * np.sqrt(num), data


@functools.lru_cache
def process(**changes):
    return GaussianProcess(*ring(), **{**SCALES, **changes})


def kernel(a, b, length_scale=0.5):
    return np.exp(-0.5 * np.sum((a[:, None] - b) ** 2, axis=-1) / length_scale**2)


def posterior(z):
    """Mean (n, D) and joint covariance (n, n) of an output at points z, by the textbook's formula."""
    latents, data = ring()
    gram = kernel(latents, latents) + 0.01 * np.eye(len(latents))
    cross, offset = kernel(z, latents), data.mean(axis=0)
    mean = offset + cross @ np.linalg.solve(gram, data - offset)
    return mean, kernel(z, z) - cross @ np.linalg.solve(gram, cross.T)


POINTS = np.random.default_rng(1).uniform(-2, 2, (12, 2))


def test_moments_are_those_of_the_textbook():
    gp, (mean, covariance) = process(), posterior(POINTS)
    z = tf.constant(POINTS)
    np.testing.assert_allclose(gp.mean(z), mean, atol=1e-9)
    np.testing.assert_allclose(gp.variance(z), np.diag(covariance), atol=1e-9)
    np.testing.assert_allclose(gp.uncertainty(z), np.sqrt(np.diag(covariance)), atol=1e-6)
    for part in gp.mean_and_std(z):
        assert part.shape == (12, 2)


def test_correlations_are_those_of_the_textbook():
    generator = np.random.default_rng(3)
    latents, z = generator.normal(size=(9, 2)), generator.normal(size=(5, 2))
    process = GaussianProcess(latents, generator.normal(size=(9, 4)), 0.7, 1.3, 0.2)

    def kernel(a, b):
        return 1.3**2 * np.exp(-0.5 * ((a[:, None] - b) ** 2).sum(-1) / 0.7**2)

    across = kernel(z, latents)
    posterior = kernel(z, z) - across @ np.linalg.solve(kernel(latents, latents) + 0.2**2 * np.eye(9), across.T)
    std = np.sqrt(np.diag(posterior))
    found = process.correlation(tf.constant(z[:4]), tf.constant(z[1:]))
    np.testing.assert_allclose(found, np.diag(posterior, 1) / (std[:4] * std[1:]), rtol=1e-6)


def test_segments_are_expected_squares_of_one_draw():
    mean, covariance = posterior(POINTS)
    found = process().segments(tf.constant(POINTS))
    square = np.sum(np.diff(mean, axis=0) ** 2, axis=1)
    spread = np.diag(covariance)[1:] + np.diag(covariance)[:-1] - 2 * np.diag(covariance, 1)
    np.testing.assert_allclose(found.mean, square, atol=1e-9)
    np.testing.assert_allclose(found.expected, square + 2 * spread, atol=1e-9)
    np.testing.assert_allclose(found.variance, 2 * np.diag(covariance), atol=1e-9)


def test_metric_is_the_mean_over_drawn_jacobians():
    """Draws of the process at points a step apart give the Jacobian by differences, no derivative of the kernel."""
    z, step, rng = np.array([[1.0, 0.9], [0.2, 0.1], [2.4, 0.3]]), 1e-4, np.random.default_rng(0)
    found = process().metric(tf.constant(z)).numpy()
    for point, metric in zip(z, found):
        near = point + step * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
        mean, covariance = posterior(near)
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0))
        draws = mean + np.einsum("ij,sjo->sio", root, rng.normal(size=(20_000, 4, 2)))
        jacobian = np.stack([draws[:, 0] - draws[:, 1], draws[:, 2] - draws[:, 3]], axis=-1) / (2 * step)
        expected = np.mean(np.einsum("soi,soj->sij", jacobian, jacobian), axis=0)
        np.testing.assert_allclose(metric, expected, atol=0.03 * np.trace(expected))
        np.testing.assert_allclose(np.trace(metric), np.trace(expected), rtol=0.03)


def test_metric_is_the_limit_of_segments():
    z, direction = tf.constant(POINTS), tf.constant([0.6, -0.8], tf.float64)
    expected = process().segments(tf.stack([z, z + 1e-4 * direction], axis=1)).expected[:, 0] / 1e-8
    found = tf.einsum("i,nij,j->n", direction, process().metric(z), direction)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    np.testing.assert_allclose(tf.add(*process().metric_parts(z)), process().metric(z), rtol=1e-6)
    mean, covariance = process().jacobian(z)
    assert mean.shape == (12, 2, 2) and covariance.shape == (12, 2, 2)


def test_more_outputs_than_data_have_variance_and_no_mean():
    z, gp, wide = tf.constant(POINTS), process(), process(num_outputs=10)
    np.testing.assert_allclose(wide.segments(z).variance, 5 * gp.segments(z).variance)
    np.testing.assert_allclose(wide.segments(z).mean, gp.segments(z).mean)
    np.testing.assert_allclose(wide.metric(z) - gp.metric(z), 8 * gp.jacobian(z)[1], atol=1e-9)
    with pytest.raises(UserError, match="num_outputs=1"):
        process(num_outputs=1)


def test_float32_in_and_out_with_the_numbers_of_float64():
    z = POINTS.astype(np.float32)
    for name in ("segments", "metric", "mean", "uncertainty", "jacobian"):
        single, double = getattr(process(), name)(tf.constant(z)), getattr(process(), name)(tf.constant(z, tf.float64))
        for a, b in zip(tf.nest.flatten(single), tf.nest.flatten(double)):
            assert a.dtype == tf.float32
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_segments_compile_differentiate_and_never_fall_below_0():
    line = np.linspace([-4, -4], [4, 4], 4000).astype(np.float32)

    @tf.function(jit_compile=True)
    def compiled(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            found = process().segments(z)
            total = tf.reduce_sum(found.expected) + tf.reduce_sum(found.variance)
        return found, tape.gradient(total, z)

    found, gradient = compiled(tf.constant(line))
    assert np.isfinite(gradient).all() and min(map(np.min, found)) >= 0
    np.testing.assert_allclose(found.expected, process().segments(line).expected, rtol=1e-4, atol=1e-9)
    # The same point twice: no way at all, and no gradient that is not a number.
    found, gradient = compiled(tf.zeros((3, 2)))
    np.testing.assert_allclose(found.expected, 0, atol=1e-12)
    assert np.isfinite(gradient).all()


def test_evidence_prefers_what_closes_the_hole():
    scales = (0.3, 0.5, 0.8, 1.2, 2.0)
    found = [log_evidence(*ring(), scale, 1.0, 0.1) for scale in scales]
    assert (np.diff(found) > 0).all()
    in_the_hole = [float(process(length_scale=scale).uncertainty(tf.zeros(2))) for scale in scales]
    assert (np.diff(in_the_hole) < 0).all() and in_the_hole[1] > 0.9 and in_the_hole[-1] < 0.2


# ---- geodesics on the ring -----------------------------------------------------------------------------------


def opposite(num=6):
    """Pairs of latents on opposite sides of the ring: of 40 those whose chords come nearest to the middle."""
    latents = ring()[0]
    angle = np.arctan2(latents[:, 1], latents[:, 0])

    def nearest(wanted):
        return latents[[np.argmin(np.abs(np.angle(np.exp(1j * (angle - a))))) for a in wanted]]

    asked = np.pi * np.arange(40) / 40
    start, end = nearest(asked), nearest(asked + np.pi)
    chord = np.linalg.norm(start + np.linspace(0, 1, 200)[:, None, None] * (end - start), axis=-1).min(axis=0)
    chosen = np.sort(np.argsort(chord, kind="stable")[:num])
    return start[chosen], end[chosen]


def share_of_radius(curves):
    """The least distance from the middle over that of the ring, for each curve."""
    points = curves(np.linspace(0, 1, 200))
    return np.linalg.norm(points, axis=-1).min(axis=1) / np.linalg.norm(ring()[0], axis=1).mean()


@pytest.mark.parametrize("energy", ["coupled", "decorrelated"])
def test_geodesics_run_along_the_ring_and_chords_do_not(energy):
    solver = Solver(process(), Settings(energy=energy, jit_compile=False))
    geodesics, chords = solver.solve(*opposite()), solver.straight(*opposite())
    assert share_of_radius(geodesics.curves).min() >= 0.7 and share_of_radius(chords.curves).max() <= 0.1
    assert (geodesics.energy < chords.energy).all()
    if energy == "coupled":  # the others trade length for certainty
        assert (geodesics.lengths["rms"] <= 0.65 * chords.lengths["rms"]).all()


def test_a_graph_finds_the_ring_where_a_line_may_stay_in_the_hole():
    gp = process(length_scale=0.3)
    graph = GridGraph.around(gp, ring()[0], jit_compile=False)
    solver = Solver(gp, Settings(energy="coupled", init="graph", jit_compile=False, steps=30), graph)
    geodesics, chords = solver.solve(*opposite(3)), solver.straight(*opposite(3))
    assert share_of_radius(geodesics.curves).min() >= 0.7
    assert (geodesics.lengths["rms"] <= 0.6 * chords.lengths["rms"]).all()
    # A few steps of plain descent from the chord are stuck in the hole, those from the graph are not.
    few = [Solver(gp, Settings(energy="coupled", init=init, method="adam", steps=40, jit_compile=False), graph)
           .solve(*opposite(3)).lengths["rms"] for init in ("graph", "line")]
    assert (few[0] <= 0.6 * few[1]).all()


@pytest.mark.parametrize("changes, words", [
    (dict(length_scale=0.0), "length_scale=0.0"),
    (dict(noise_std=float("nan")), "noise_std=nan"),
    (dict(noise_std=1e-12, length_scale=3.0), "noise_std=1e-12 is too small"),
    (dict(latents=np.zeros((3, 2))), "received shapes"),
    (dict(latents=np.full((100, 2), np.nan)), "finite"),
])
def test_bad_input_is_one_clear_line(changes, words):
    latents, data = ring()
    with pytest.raises(UserError, match=words):
        GaussianProcess(**{"latents": latents, "data": data, **SCALES, **changes})
