"""Geodesics: known ones, what every estimator promises, and independence of batch, start and coordinates."""

import numpy as np
import pytest
import surfaces
import tensorflow as tf

from pae_zoo import geometry
from pae_zoo.core.errors import UserError

ENERGIES = ("mean", "coupled", "decorrelated", "interpolated")
NETWORK = surfaces.random_network((2, 16, 16, 6), 4)


@pytest.fixture(scope="module")
def pairs():
    return surfaces.disk(32), surfaces.disk(32, seed=1)


@pytest.fixture(scope="module")
def on_sphere(pairs):
    return surfaces.solver(surfaces.sphere, 2, num_points=128).solve(*pairs)


@pytest.mark.parametrize("method", ["gauss_newton", "adam"])
@pytest.mark.parametrize("members", [1, 4])
def test_geodesics_of_affine_decoders_are_straight(method, members):
    affine = surfaces.Affine(num_members=1)
    affine.weights, affine.biases = (np.repeat(v, members, axis=0) for v in (affine.weights, affine.biases))
    start, end = surfaces.disk(6, seed=2), surfaces.disk(6, seed=3)
    found = surfaces.solver(affine, init="random", method=method, tolerance=1e-9).solve(start, end)
    t = np.linspace(0, 1, 50)
    assert np.abs(found.curves(t) - geometry.straight(start, end)(t)).max() <= 2e-3
    chords = np.linalg.norm((end - start) @ affine.weights[0], axis=1)
    np.testing.assert_allclose(found.lengths["rms"], chords, rtol=1e-3)


def test_great_circles(pairs, on_sphere):
    truth = surfaces.great_circles(*pairs)
    np.testing.assert_allclose(on_sphere.lengths["rms"], truth, rtol=5e-3)
    np.testing.assert_allclose(on_sphere.energy, on_sphere.lengths["rms"] ** 2, rtol=5e-3)
    assert on_sphere.converged.all() and on_sphere.finite.all()
    straight = surfaces.solver(surfaces.sphere, 2).straight(*pairs)
    assert straight.lengths["rms"].max() > truth.max() and (straight.lengths["rms"] / truth).max() > 1.03
    assert not straight.converged.any()


@pytest.mark.parametrize("options", [
    dict(method="adam", learning_rate=0.03), dict(init="random"),
    pytest.param(dict(method="adam", steps=60, polish=40), marks=pytest.mark.full),
    dict(curve="polyline", num_pieces=32),
    pytest.param(dict(energy="coupled", jit_compile=True, steps=20), marks=pytest.mark.full)], ids=str)  # fmt: skip
def test_other_methods_starts_and_curves_agree_on_the_sphere(pairs, on_sphere, options):
    start, end = (points[:8] for points in pairs)
    found = surfaces.solver(surfaces.sphere, 2, num_points=128, **options).solve(start, end)
    np.testing.assert_allclose(found.lengths["rms"], on_sphere.lengths["rms"][:8], rtol=1e-3)


@pytest.mark.parametrize("method", ["gauss_newton", "adam"])
@pytest.mark.parametrize("kind", ENERGIES)
def test_energy_falls_and_is_that_of_the_returned_curve(kind, method):
    start, end = surfaces.disk(5, 2.0), surfaces.disk(5, 2.0, seed=1)
    solver = surfaces.solver(NETWORK, 2, energy=kind, method=method, steps=60)
    found = solver.solve(start, end)
    assert (found.energy <= found.initial_energy).all() and (found.energy < found.initial_energy).any()
    np.testing.assert_allclose(solver.energy(found.curves), found.energy, rtol=1e-4)
    np.testing.assert_allclose(found.trace[-1], found.energy, rtol=1e-6)
    np.testing.assert_allclose(found.trace[0], found.initial_energy, rtol=1e-6)
    assert (np.diff(found.trace, axis=0) <= 0).all()
    if kind in ("mean", "coupled"):
        points = surfaces.solver(NETWORK, 2, length_points=64).lengths(found.curves)
        assert (found.energy * (1 + 1e-5) >= points["mean" if kind == "mean" else "rms"] ** 2).all()


def test_gauss_newton_reaches_what_adam_reaches():
    start, end = surfaces.disk(6, 2.0), surfaces.disk(6, 2.0, seed=1)
    slow = surfaces.solver(NETWORK, 2, method="adam", steps=1500).solve(start, end)
    fast = surfaces.solver(NETWORK, 2).solve(start, end)
    assert (fast.energy <= slow.energy * 1.01).all()
    assert fast.steps.max() < 101


def test_the_sampled_energy_is_judged_by_its_expectation():
    start, end = surfaces.disk(4, 2.0), surfaces.disk(4, 2.0, seed=1)
    solver = surfaces.solver(NETWORK, 2, energy="sampled", steps=150, learning_rate=0.02, cosine=False)
    found = solver.solve(start, end)
    closed = surfaces.solver(NETWORK, 2, reference_points=None)
    np.testing.assert_allclose(found.energy, closed.energy(found.curves), rtol=1e-4)
    assert (found.energy < found.initial_energy).all()
    assert (closed.solve(start, end).energy <= found.energy * (1 + 1e-4)).all()


@pytest.mark.parametrize("energy", ["coupled", "decorrelated"])
@pytest.mark.parametrize("method", ["gauss_newton", "adam"])
def test_a_batch_gives_what_single_pairs_give(method, energy):
    start, end = surfaces.disk(5, 2.0), surfaces.disk(5, 2.0, seed=1)
    options = dict(method=method, energy=energy, steps=40)
    together = surfaces.solver(NETWORK, 2, **options).solve(start, end)
    single = surfaces.solver(NETWORK, 2, memory_mib=0.01, **options).solve(start, end)
    # Around its minimum the decorrelated energy is so flat in the length that rounding decides more digits of that.
    for name in ("mean", "rms"):
        tolerance = 1e-4 if energy == "coupled" else 2e-3
        np.testing.assert_allclose(together.lengths[name], single.lengths[name], rtol=tolerance)
    np.testing.assert_allclose(together.energy, single.energy, rtol=1e-5)


@pytest.mark.parametrize("init, energy", [("random", "decorrelated"), ("line", "sampled")])
def test_noise_belongs_to_a_pair_and_its_seed(init, energy):
    start, end = surfaces.disk(3, 2.0), surfaces.disk(3, 2.0, seed=1)
    options = dict(init=init, energy=energy, method="adam", steps=15)
    first, again = (surfaces.solver(NETWORK, 2, **options).solve(start, end).curves.weights for _ in range(2))
    np.testing.assert_array_equal(first, again)
    alone = surfaces.solver(NETWORK, 2, **options).solve(start[:1], end[:1]).curves.weights
    np.testing.assert_allclose(first[:1], alone, atol=1e-4)
    other = surfaces.solver(NETWORK, 2, seed=1, **options).solve(start, end).curves.weights
    assert np.abs(first - other).max() > 1e-3


def test_distances_are_symmetric():
    start, end = surfaces.disk(6, 2.0), surfaces.disk(6, 2.0, seed=1)
    solver = surfaces.solver(NETWORK, 2, energy="coupled")
    there, back = solver.solve(start, end).lengths["rms"], solver.solve(end, start).lengths["rms"]
    np.testing.assert_allclose(there, back, rtol=1e-3)


def test_distances_do_not_depend_on_the_coordinates_of_the_latent_space():
    # h(z) = z + 0.4 sin(z reversed) is a diffeomorphism: its derivative I + 0.4 diag(cos) P is invertible.
    def h(z):
        return z + 0.4 * np.sin(z[:, ::-1])

    def inverse(u):
        z = u
        for _ in range(30):  # a contraction of factor 0.4
            z = u - 0.4 * tf.sin(tf.reverse(z, [-1]))
        return z

    class Moved:
        def mean_and_members(self, u):
            return NETWORK.mean_and_members(inverse(u))

    start, end = surfaces.disk(6, 1.5), surfaces.disk(6, 1.5, seed=1)
    options = dict(energy="coupled", num_points=128)
    own = surfaces.solver(NETWORK, 2, **options).solve(start, end).lengths["rms"]
    moved = surfaces.solver(Moved(), 2, **options).solve(h(start), h(end)).lengths["rms"]
    np.testing.assert_allclose(own, moved, rtol=5e-3)
    euclidean = [np.linalg.norm(b - a, axis=1) for a, b in ((start, end), (h(start), h(end)))]
    assert np.abs(euclidean[1] / euclidean[0] - 1).max() > 0.1


@pytest.mark.parametrize("method", ["gauss_newton", "adam"])
def test_identical_ends_are_at_distance_0(method):
    point = np.array([[0.3, 0.2]])
    found = surfaces.solver(surfaces.sphere, 2, method=method, steps=5).solve(point, point)
    assert found.energy[0] == 0 and found.lengths["rms"][0] == 0 and found.converged[0] and found.finite[0]


def test_from_a_point_to_itself_the_way_is_to_stay_though_elsewhere_is_more_certain():
    point = np.array([[1.5, 1.5]])
    found = surfaces.solver(NETWORK, 2, steps=5).solve(point, point)
    assert found.lengths["rms"][0] == 0 and found.converged[0] and (found.curves.weights == 0).all()
    assert found.energy[0] == found.initial_energy[0] > 0


@pytest.mark.parametrize("method", ["gauss_newton", "adam"])
def test_a_decoder_that_fails_is_flagged_for_its_pairs_alone(method):
    def broken(z):
        return tf.where(z[:, :1] > 1.0, np.nan, 1.0) * surfaces.sphere(z)

    start = np.array([[0.0, 0.0], [0.0, 0.0]])
    end = np.array([[0.5, 0.2], [2.0, 0.2]])
    found = surfaces.solver(broken, 2, method=method, steps=20).solve(start, end)
    assert found.finite.tolist() == [True, False] and not found.converged[1]
    assert np.isnan(found.energy[1]) and np.isnan(found.lengths["rms"][1])
    np.testing.assert_allclose(found.lengths["rms"][0], surfaces.great_circles(start[:1], end[:1])[0], rtol=5e-3)


@pytest.mark.parametrize("method", ["gauss_newton", "adam"])
def test_where_derivatives_are_no_numbers_a_curve_has_not_converged(method):
    def dome(z):  # the root has a value beside the dome, and no derivative
        return tf.concat([z, tf.sqrt(tf.nn.relu(1.0 - tf.reduce_sum(z**2, axis=1, keepdims=True)))], axis=1)

    start, end = np.array([[-1.2, 0.1], [-0.2, 0.1]]), np.array([[1.2, 0.1], [0.2, 0.1]])
    found = surfaces.solver(dome, 2, method=method).solve(start, end)
    assert found.finite.all() and found.converged.tolist() == [False, True]


@pytest.mark.parametrize("method", ["gauss_newton", "adam"])
def test_a_std_that_is_the_same_everywhere_changes_no_geodesic(method):
    """The energy is then nearly all constant: R^2 times the variance, beside which the rest is below float32."""

    class Noisy:
        def mean_and_std(self, z):
            mean = surfaces.sphere(z)
            return mean, tf.ones_like(mean)

    start, end = surfaces.disk(4), surfaces.disk(4, seed=1)
    found = surfaces.solver(Noisy(), 2, energy="decorrelated", method=method, num_points=128).solve(start, end)
    np.testing.assert_allclose(found.lengths["mean"], surfaces.great_circles(start, end), rtol=1e-3)
    assert found.converged.all()


@pytest.mark.parametrize("energy", ["coupled", "decorrelated"])
def test_a_converged_curve_has_nowhere_to_fall(energy):
    """Also behind the kinks of a relu, where steps have to be short for a while."""
    kinked = surfaces.random_network((2, 16, 16, 6), 4, activation=tf.nn.relu)
    start, end = surfaces.disk(12, 2.0), surfaces.disk(12, 2.0, seed=1)
    solver = surfaces.solver(kinked, 2, energy=energy)
    found = solver.solve(start, end)
    again = solver._from(found.curves, None)
    fallen = 1 - again.energy / found.energy
    assert found.converged.sum() >= 6 and fallen[found.converged].max() < 1e-5


def test_many_latents_take_fewer_steps_than_adam_and_come_further():
    network = surfaces.random_network((8, 32, 32, 12), 4)
    ends = np.random.default_rng(0).normal(size=(2, 4, 8))
    found, adam = (surfaces.solver(network, 8, method=method).solve(*ends) for method in ("auto", "adam"))
    assert found.converged.all() and found.steps.max() < adam.steps.min()
    assert (found.energy <= adam.energy * (1 + 1e-4)).all()


def test_many_latents_between_relu_kinks_come_further_than_adam():
    network = surfaces.random_network((20, 64, 32, 40), 1, activation=tf.nn.relu)
    ends = np.random.default_rng(0).normal(size=(2, 6, 20))
    found, adam = (surfaces.solver(network, 20, num_points=33, method=method).solve(*ends)
                   for method in ("auto", "adam"))  # fmt: skip
    assert found.energy.mean() < 0.98 * adam.energy.mean()


def test_batches_that_are_padded_and_compiled_give_what_one_batch_gives():
    start, end = surfaces.disk(5), surfaces.disk(5, seed=1)
    whole = surfaces.solver(surfaces.sphere, 2, energy="coupled", steps=20)
    memory = 3.5 * whole._bytes_per_curve / 2**20
    cut = surfaces.solver(surfaces.sphere, 2, energy="coupled", steps=20, jit_compile=True, memory_mib=memory)
    one, other = whole.solve(start, end), cut.solve(start, end)
    for name in ("mean", "rms"):
        np.testing.assert_allclose(one.lengths[name], other.lengths[name], rtol=1e-4)
    np.testing.assert_allclose(one.curves.weights, other.curves.weights, atol=1e-3)
    np.testing.assert_array_equal(one.converged, other.converged)


@pytest.mark.parametrize("options", [dict(method="gauss_newton", steps=1), dict(method="adam", steps=60)], ids=str)
def test_too_few_steps_are_told(options):
    start, end = surfaces.disk(4, 2.0), surfaces.disk(4, 2.0, seed=1)
    assert not surfaces.solver(NETWORK, 2, **options).solve(start, end).converged.any()


def test_progress_counts_pairs():
    counts = []
    solver = surfaces.solver(surfaces.sphere, 2, steps=2, memory_mib=0.01)
    solver.solve(surfaces.disk(7), surfaces.disk(7, seed=1), counts.append)
    assert sum(counts) == 7 and len(counts) > 1


def test_a_users_function_in_three_latents_and_double_precision():
    # The product of a sphere and a line: distances add by Pythagoras.
    def decoder(z):
        return tf.concat([surfaces.sphere(z[:, :2]), z[:, 2:]], axis=-1)

    start = np.concatenate([surfaces.disk(5), np.zeros((5, 1))], axis=1)
    end = np.concatenate([surfaces.disk(5, seed=1), np.ones((5, 1))], axis=1)
    manifold = geometry.as_manifold(decoder, 3, tf.float64)
    found = geometry.solve_geodesics(manifold, start, end, geometry.Settings(num_points=128, jit_compile=False))
    truth = np.sqrt(surfaces.great_circles(start[:, :2], end[:, :2]) ** 2 + 1.0)
    np.testing.assert_allclose(found.lengths["rms"], truth, rtol=1e-3)


def test_a_metric_field_is_solved_too():
    def metric(z):  # the upper half plane, z = (x, y): distances have a closed form
        return tf.eye(2) / z[:, 1, None, None] ** 2

    start, end = np.array([[-1.0, 1.0]]), np.array([[1.0, 1.0]])
    manifold = geometry.MetricField(metric, 2)
    found = geometry.solve_geodesics(
        manifold, start, end, geometry.Settings(num_points=128, steps=300, jit_compile=False))
    np.testing.assert_allclose(found.lengths["rms"], np.arccosh(1 + 4 / 2), rtol=5e-3)


@pytest.mark.parametrize("make, message", [
    (lambda: geometry.Settings(method="nonsense"), "allowed"),
    (lambda: geometry.Settings(energy="nonsense"), "allowed"),
    (lambda: geometry.Settings(num_points=2), "at least 3"),
    (lambda: geometry.Settings(steps=0), "at least 1"),
    (lambda: geometry.Settings(energy="interpolated", correlation=2.0), "allowed: 0 to 1"),
    (lambda: geometry.Settings(learning_rate=-1.0), "above 0"),
    (lambda: geometry.Settings(memory_mib=-1.0), "above 0"),
    (lambda: geometry.Settings(reference_points=0), "at least 1"),
    (lambda: geometry.Settings(tolerance=float("nan")), "at least 0"),
    (lambda: surfaces.solver(surfaces.sphere, 2, polish=5), "method='adam'"),
    (lambda: surfaces.solver(surfaces.sphere, 2).solve(np.zeros((0, 2)), np.zeros((0, 2))), "at least one"),
    (lambda: geometry.Settings(energy="sampled", method="gauss_newton"), "adam"),
    (lambda: surfaces.solver(surfaces.sphere, 2, init="graph"), "graph"),
    (lambda: surfaces.solver(surfaces.sphere, 2, energy="sampled"), "members"),
    (lambda: surfaces.solver(surfaces.sphere, 2).solve(np.zeros((2, 3)), np.zeros((2, 3))), r"\(B, 2\)"),
    (lambda: surfaces.solver(surfaces.sphere, 2).solve(np.zeros((2, 2)), np.zeros((3, 2))), r"\(B, 2\)"),
    (lambda: surfaces.solver(surfaces.sphere, 2).solve([[0.0, np.nan]], [[0.0, 1.0]]), "finite"),
])  # fmt: skip
def test_bad_input_is_told(make, message):
    with pytest.raises(UserError, match=message):
        make()
