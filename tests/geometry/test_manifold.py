"""Metrics and segments of decoders, against closed forms, draws and finite differences."""

import numpy as np
import pytest
import surfaces
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo import geometry
from pae_zoo.core.errors import UserError
from pae_zoo.geometry import sampled


class MeanStd:
    latent_dim = 2

    def mean_and_std(self, z):
        return surfaces.sphere(z), tf.exp(0.3 * z)


def jacobian(fn, z):
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = fn(z)
    return tape.batch_jacobian(value, z)


Z = tf.constant(np.random.default_rng(0).normal(size=(5, 2)), tf.float32)
NETWORK = surfaces.random_network((2, 16, 16, 6), 4)


def test_metric_of_a_decoder_is_that_of_its_jacobian():
    found = geometry.as_manifold(surfaces.sphere, 2).metric(Z)
    slopes = jacobian(surfaces.sphere, Z)
    np.testing.assert_allclose(found, tf.einsum("npi,npj->nij", slopes, slopes), atol=1e-5)


def test_expected_metric_is_the_members_mean_and_mean_plus_covariance():
    manifold = geometry.as_manifold(NETWORK, 2)
    found = manifold.metric(Z).numpy()
    slopes = np.stack([jacobian(lambda z, s=s: NETWORK.mean_and_members(z)[1][s], Z) for s in range(4)])
    np.testing.assert_allclose(found, np.einsum("snpi,snpj->nij", slopes, slopes) / 4, rtol=1e-5, atol=1e-5)
    centred = slopes - slopes.mean(axis=0)
    covariance = np.einsum("snpi,snpj->nij", centred, centred) / 4
    mean = np.einsum("npi,npj->nij", slopes.mean(axis=0), slopes.mean(axis=0))
    np.testing.assert_allclose(found, mean + covariance, rtol=1e-5, atol=1e-5)
    assert (np.linalg.eigvalsh(found) > -1e-5).all() and np.allclose(found, np.swapaxes(found, 1, 2))


def test_metric_matches_finite_differences():
    manifold, step = geometry.as_manifold(NETWORK, 2), 1e-2
    for direction in (np.array([1.0, 0.0]), np.array([0.6, 0.8])):
        u = tf.constant(direction, tf.float32)
        ends = tf.stack([Z - 0.5 * step * u, Z + 0.5 * step * u], axis=1)
        numerical = manifold.segments(ends).expected[:, 0] / step**2
        np.testing.assert_allclose(tf.einsum("i,nij,j->n", u, manifold.metric(Z), u), numerical, rtol=1e-2)


def test_metric_of_many_latents_is_the_one_of_few():
    # Above four latents the directions run in a loop.
    network = surfaces.random_network((6, 8, 5), 3)
    z = tf.constant(np.random.default_rng(1).normal(size=(3, 6)), tf.float32)
    slopes = np.stack([jacobian(lambda z, s=s: network.mean_and_members(z)[1][s], z) for s in range(3)])
    expected = np.einsum("snpi,snpj->nij", slopes, slopes) / 3
    np.testing.assert_allclose(geometry.as_manifold(network, 6).metric(z), expected, rtol=1e-5, atol=1e-5)
    one = geometry.as_manifold(lambda z: network.mean_and_members(z)[0], 6)
    mean = slopes.mean(axis=0)
    np.testing.assert_allclose(one.metric(z), np.einsum("npi,npj->nij", mean, mean), rtol=1e-5, atol=1e-5)


def test_metric_of_mean_and_std_has_both():
    slopes, stds = jacobian(surfaces.sphere, Z), jacobian(lambda z: tf.exp(0.3 * z), Z)
    expected = tf.einsum("npi,npj->nij", slopes, slopes) + tf.einsum("npi,npj->nij", stds, stds)
    manifold = geometry.as_manifold(MeanStd())
    np.testing.assert_allclose(manifold.metric(Z), expected, atol=1e-5)
    np.testing.assert_allclose(manifold.uncertainty(Z), tf.reduce_mean(tf.exp(0.3 * Z), axis=-1), rtol=1e-5)


def test_drawn_pairs_of_members_give_the_decorrelated_segment():
    pair = tf.constant([[[0.1, 0.2], [0.5, -0.4]]], tf.float32)
    found = geometry.as_manifold(NETWORK, 2).segments(pair)
    wanted = float(found.mean[0, 0] + found.variance[0, 0] + found.variance[0, 1])
    first, last = (NETWORK.mean_and_members(pair[:, k])[1][:, 0].numpy() for k in (0, 1))
    table = np.sum((first[:, None] - last[None]) ** 2, axis=-1)
    assert table.mean() == pytest.approx(wanted, rel=1e-5)
    drawn = table[tuple(np.random.default_rng(0).integers(0, 4, (2, 20_000)))]
    assert abs(drawn.mean() - wanted) < 4 * drawn.std() / np.sqrt(20_000)


@pytest.mark.parametrize("copies", [1, 4])
def test_identical_members_are_one_decoder(copies):
    affine = surfaces.Affine(num_members=1)
    affine.weights, affine.biases = (np.repeat(v, copies, axis=0) for v in (affine.weights, affine.biases))
    manifold = geometry.as_manifold(affine)
    curves = geometry.straight([[0.0, 0.0]], [[1.0, 2.0]], geometry.CubicSpline(3))
    curves = curves.with_weights(0.3 * np.random.default_rng(0).normal(size=curves.weights.shape))
    z = tf.constant(curves(np.linspace(0, 1, 33)), tf.float32)
    energies = [float(geometry.energy(manifold.segments(z), kind)[0]) for kind in ("mean", "coupled", "decorrelated")]
    np.testing.assert_allclose(energies, energies[0], rtol=1e-5)
    found = geometry.lengths(manifold, curves)
    published = geometry.published_length(manifold, curves, 256)
    np.testing.assert_allclose([found["expected"][0], found["rms"][0], published[0]], found["mean"][0], rtol=1e-5)


def test_lengths_are_ordered_and_grow_with_nested_points():
    manifold = geometry.as_manifold(NETWORK, 2)
    curves = geometry.straight([[-1.0, 0.0], [0.5, 1.0]], [[1.0, 2.0], [0.0, -2.0]])
    found = geometry.lengths(manifold, curves)
    chord = np.linalg.norm(manifold.mean(tf.constant(curves.end, tf.float32))
                           - manifold.mean(tf.constant(curves.start, tf.float32)), axis=1)
    assert (chord <= found["mean"] + 1e-5).all()
    assert (found["mean"] <= found["expected"] + 1e-5).all() and (found["expected"] <= found["rms"] + 1e-5).all()
    nested = [geometry.lengths(manifold, curves, num)["rms"] for num in (5, 9, 17, 33)]
    assert (np.diff(nested, axis=0) >= -1e-5).all()


def test_the_published_length_has_no_limit():
    manifold = geometry.as_manifold(NETWORK, 2)
    curves = geometry.straight([[-1.0, 0.0]], [[1.0, 2.0]])
    few, many = (geometry.published_length(manifold, curves, num)[0] for num in (129, 1025))
    assert 5 < many / few < 10
    rms = [geometry.lengths(manifold, curves, num)["rms"][0] for num in (129, 1025)]
    assert rms[1] == pytest.approx(rms[0], rel=1e-3)


def test_the_published_length_of_mean_and_std_is_the_sum_of_two_lengths():
    manifold = geometry.as_manifold(MeanStd())
    curves = geometry.straight([[-1.0, 0.0]], [[1.0, 2.0]])
    published, rms = geometry.published_length(manifold, curves, 256)[0], geometry.lengths(manifold, curves)["rms"][0]
    assert rms < published <= np.sqrt(2) * rms * (1 + 1e-5)


def test_times_at_equal_lengths_cut_a_curve_into_equal_pieces():
    manifold = geometry.as_manifold(surfaces.sphere, 2)
    curves = geometry.straight([[0.0, 0.0]], [[3.0, 1.0]])
    lengths = geometry.Lengths(manifold, 512)
    times = lengths.at_equal_lengths(curves, 9)
    points = manifold.mean(tf.constant(curves(times), tf.float32)).numpy()[0]
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.01)
    assert times[0, 0] == 0 and times[0, -1] == 1


def test_batches_give_what_single_curves_give():
    manifold = geometry.as_manifold(NETWORK, 2)
    curves = geometry.straight(surfaces.disk(7), surfaces.disk(7, seed=1))
    all_ = geometry.lengths(manifold, curves, memory_mib=256)["rms"]
    cut = geometry.lengths(manifold, curves, memory_mib=0.05)["rms"]
    np.testing.assert_allclose(all_, cut, rtol=1e-5)


def test_conformal_metric_scales_lengths():
    base = geometry.as_manifold(surfaces.sphere, 2)
    scaled = geometry.conformal(base, lambda z: 4.0 * tf.ones_like(z[:, 0]))
    curves = geometry.straight([[0.0, 0.0]], [[0.5, 0.5]])
    ratio = geometry.lengths(scaled, curves)["rms"] / geometry.lengths(base, curves)["rms"]
    np.testing.assert_allclose(ratio, 2.0, rtol=1e-3)


def test_batches_are_cut_by_what_a_metric_keeps_alive():
    base = geometry.as_manifold(NETWORK, 2)
    assert geometry.conformal(base, lambda z: tf.ones_like(z[:, 0])).size == 3 * base.size
    assert geometry.local_variance(np.zeros((200, 2), np.float32), 0.5, 0.01).size >= 200 * 2
    assert geometry.MetricField(lambda z: tf.eye(2, batch_shape=[z.shape[0]]), 2).size == 4


def test_latents_of_another_float_type_are_taken():
    double = tf.cast(Z, tf.float64)
    for manifold in (geometry.as_manifold(NETWORK, 2), geometry.local_variance(Z, 0.5, 0.01)):
        np.testing.assert_allclose(manifold.metric(double), manifold.metric(Z), rtol=1e-6)
        np.testing.assert_allclose(manifold.segments(double).mean, manifold.segments(Z).mean, rtol=1e-6)
    manifold = geometry.as_manifold(NETWORK, 2)
    np.testing.assert_allclose(manifold.mean(double), manifold.mean(Z), rtol=1e-6)
    assert manifold.metric(double).dtype == tf.float32


def test_local_variance_metric_is_small_on_the_data():
    data = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32) * 0.3
    manifold = geometry.local_variance(data, width=0.5, floor=0.01)
    inside, outside = manifold.metric(tf.constant([[0.0, 0.0], [4.0, 4.0]]))
    assert np.linalg.det(inside) < 1e-3 * np.linalg.det(outside)
    np.testing.assert_allclose(outside, 100.0 * np.eye(2), rtol=1e-3)


def test_magnification_and_indicatrices():
    metric = np.array([[4.0, 0.0], [0.0, 1.0]])
    assert float(geometry.log_volume(tf.constant(metric))) == pytest.approx(np.log(2.0))
    ellipse = geometry.indicatrices(metric)
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", ellipse, metric, ellipse), 1.0)


def test_sampled_energies_have_the_expectation_that_they_tell():
    manifold = geometry.as_manifold(surfaces.random_network((2, 8, 5)), 2)
    z = tf.tile(tf.constant([[[0.5, -1.0], [0.2, 0.3], [1.0, 1.5]]]), (20_000, 1, 1))
    draw = tf.function(lambda: sampled.energies(manifold, z, tf.range(20_000), (0, 1)), autograph=False)
    drawn, expected = (values.numpy() for values in draw())
    np.testing.assert_allclose(expected, expected[0], rtol=1e-5)
    assert drawn.std() > 0 and abs(drawn.mean() - expected[0]) < 4 * drawn.std() / np.sqrt(len(drawn))


def test_one_bad_metric_leaves_the_others_their_magnification():
    metrics = np.stack([4.0 * np.eye(2), np.full((2, 2), np.nan), np.eye(2)])
    np.testing.assert_allclose(geometry.log_volume(tf.constant(metrics)), [np.log(4.0), np.nan, 0.0], atol=1e-12)


def test_nothing_to_compute_is_told():
    manifold = geometry.as_manifold(surfaces.sphere, 2)
    with pytest.raises(UserError, match="at least one"):
        geometry.Fields(manifold).metric(np.zeros((0, 2)))


def test_fields_are_computed_in_batches():
    manifold = geometry.as_manifold(NETWORK, 2)
    fields = geometry.Fields(manifold, memory_mib=0.01)
    np.testing.assert_allclose(fields.metric(Z.numpy()), manifold.metric(Z), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fields.uncertainty(Z.numpy()), manifold.uncertainty(Z), rtol=1e-4)


class NoMembers:
    def mean_and_members(self, z):
        return z, tf.zeros((0, *z.shape))


@pytest.mark.parametrize("make, message", [
    (lambda: geometry.as_manifold(NoMembers(), 2), "at least 1"),
    (lambda: geometry.as_manifold(surfaces.sphere), "latent_dim"),
    (lambda: geometry.as_manifold(3, 2), "callable"),
    (lambda: geometry.as_manifold(lambda z: np.sin(z), 2), "not of NumPy's"),
    (lambda: geometry.as_manifold(lambda z: (z, z), 2), "a tuple of 2"),
    (lambda: geometry.as_manifold(lambda z: tfp.distributions.Normal(z, 1.0), 2), "failed on latents of shape"),
    (lambda: geometry.as_manifold(lambda z: z[0], 2), "returned 2 rows"),
    (lambda: geometry.as_manifold(lambda z: z @ tf.eye(3), 2), r"failed on latents of shape \(7, 2\), float32"),
    (lambda: geometry.energy(geometry.Segments(*[tf.ones((1, 2))] * 3), "nonsense"), "allowed"),
    (lambda: geometry.Lengths(geometry.as_manifold(surfaces.sphere, 2), 1), "at least 2"),
])  # fmt: skip
def test_bad_input_is_told(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_certain_decoder_has_no_uncertainty():
    with pytest.raises(NotImplementedError, match="certain"):
        geometry.as_manifold(surfaces.sphere, 2).uncertainty(Z)
