"""Posteriors over weights: samples have the covariance they state, files come back, bad input is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import some

from pae_zoo import curvature
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices.kron import Kron, KronDiagonal
from pae_zoo.curvature.matrices.last_layer import LastLayer
from pae_zoo.curvature.matrices.low_rank import Sketch, _column
from pae_zoo.curvature.network import graph as graphs
from pae_zoo.curvature.posteriors import build as posteriors

STRUCTURES = list(posteriors.STRUCTURES)
SEED = (3, 4)


def network(widths=(3, 2), size=2, activation="tanh", name=None):
    """A small dense network with PReLU, whose weights are no matrix, in front of the last layer."""
    layers = [keras.layers.Dense(widths[0], activation=activation), keras.layers.PReLU()]
    model = keras.Sequential([keras.Input((size,)), *layers, keras.layers.Dense(widths[1])], name=name)
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=weight.shape) for weight in model.get_weights()])
    return model


def psd(generator, size, scale=3.0):
    root = generator.normal(size=(size, size))
    return scale * root @ root.T / size


def curvature_of(structure, model, seed=0):
    """A made-up curvature of `network()`, and as one matrix (P, P), of the chosen weights (P_c, P_c)."""
    generator = np.random.default_rng(seed)
    sizes = [block.size for block in graphs.read(model).blocks]
    if structure == "diag":
        diagonal = generator.uniform(0, 5, sum(sizes))
        return diagonal, np.diag(diagonal)
    if structure == "block":
        blocks = [psd(generator, size) for size in sizes]
        return blocks, block_diagonal(blocks)
    if structure == "kron":
        first, last = ((psd(generator, 3), psd(generator, 3)), (psd(generator, 4), psd(generator, 2)))
        middle = generator.uniform(0, 3, 3)
        result = [Kron(*first, np.float64(5)), KronDiagonal(middle), Kron(*last, np.float64(5))]
        return result, block_diagonal([np.kron(*first) / 5, np.diag(middle), np.kron(*last) / 5])
    if structure == "low_rank":
        root = generator.normal(size=(sum(sizes), 3))
        matrix, rest = root @ root.T, generator.uniform(0, 2, sum(sizes))
        omega = np.stack([_column(SEED, index, len(root), tf.float64) for index in range(5)], axis=1)
        return Sketch(matrix @ omega, tf.constant(SEED), np.diag(matrix) + rest), matrix + np.diag(rest)
    matrices = np.stack([psd(generator, 4), psd(generator, 4)])
    # Weights of the last layer are (4, 2) by rows: those of one output are two apart.
    return LastLayer(tf.constant(matrices)), sum(np.kron(m, np.diag(unit)) for m, unit in zip(matrices, np.eye(2)))


def block_diagonal(blocks):
    from scipy import linalg

    return linalg.block_diag(*blocks)


def build(structure, model, dtype="float64", **kwargs):
    curvature, matrix = curvature_of(structure, model)
    posterior = posteriors.build(structure, model, curvature, dtype=dtype, **kwargs)
    priors = np.linspace(0.5, 2.0, len(posterior.layout.sizes))
    posterior.assign_scales(priors, 0.7, 1.3)
    precision = 1.3 * matrix / 0.7 + np.diag(np.repeat(priors, posterior.layout.sizes))
    return posterior, precision


def explicit(posterior):
    """The posterior's precision (P_c, P_c)."""
    found = posterior.precision()
    return np.diag(found) if posterior.structure == "diag" else found


@pytest.mark.parametrize("structure", STRUCTURES)
def test_precision_is_the_scaled_curvature_plus_the_prior_exactly(structure):
    posterior, precision = build(structure, network())
    if structure == "last_layer":
        found = posterior.precision()[0].numpy()
        expected = np.stack([precision[output::2, output::2] for output in range(2)])
    else:
        found, expected = explicit(posterior), precision
        found = block_diagonal(found) if isinstance(found, list) else found
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_roots_solves_and_variances_are_those_of_the_precision(structure):
    posterior, precision = build(structure, network())
    covariance = np.linalg.inv(precision)
    eye = tf.eye(len(precision), dtype=tf.float64)
    root = posterior.root(eye).numpy()
    np.testing.assert_allclose(root.T @ root, covariance, rtol=1e-8, atol=1e-12)
    white = posterior.whiten(eye).numpy()
    np.testing.assert_allclose(white, root.T, atol=1e-12)
    np.testing.assert_allclose(posterior.solve(eye), covariance, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(posterior.variances(), np.diag(covariance), rtol=1e-8)
    everywhere = posterior.variance_diag().numpy()
    assert everywhere.shape == (posterior.layout.size,)
    np.testing.assert_allclose(everywhere[-len(covariance):], np.diag(covariance), rtol=1e-8)
    assert not everywhere[: -len(covariance)].any()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_ratio_takes_the_place_of_the_scales_for_a_while(structure):
    posterior, _ = build(structure, network())
    scales, before = [posterior.scale(), *posterior.priors()], posterior.variances().numpy()
    with posterior.at_ratio(50.0):
        found = posterior.variances().numpy()
    other, _ = build(structure, network())
    other.assign_scales(1.0, 1.0, 50.0)
    np.testing.assert_allclose(found, other.variances(), rtol=1e-10)
    assert [posterior.scale(), *posterior.priors()] == scales
    np.testing.assert_array_equal(posterior.variances(), before)
    for ratio in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UserError, match="ratio"), posterior.at_ratio(ratio):
            pass


def test_a_low_rank_posterior_of_before_has_no_rest(tmp_path):
    posterior, _ = build("low_rank", network())
    posterior.rest.assign(np.zeros(posterior.rest.shape))
    posterior.save(tmp_path / "now.npz")
    arrays = dict(np.load(tmp_path / "now.npz"))
    del arrays["rest"]
    np.savez(tmp_path / "before.npz", **arrays)
    loaded = posteriors.load(tmp_path / "before.npz")
    np.testing.assert_array_equal(loaded.variances(), posterior.variances())


@pytest.mark.parametrize("structure", STRUCTURES)
def test_log_determinant_and_effective_weights(structure):
    posterior, precision = build(structure, network())
    gamma = posterior.prior_precision.numpy().astype(np.float64)
    scale = 1.3 / 0.7
    spectrum = posterior.spectrum()
    np.testing.assert_allclose(spectrum.log_det(gamma, scale), np.linalg.slogdet(precision)[1], rtol=1e-9)
    left = np.split(np.diag(np.linalg.inv(precision)), np.cumsum(posterior.layout.sizes)[:-1])
    expected = [len(one) - g * one.sum() for one, g in zip(left, gamma)]
    np.testing.assert_allclose(spectrum.effective(gamma, scale), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("structure", ["diag", "block"])
def test_samples_have_the_stated_mean_and_covariance(structure):
    posterior, precision = build(structure, network(), "float32")
    covariance = np.linalg.inv(precision)
    chosen = slice(posterior.layout.size - len(covariance), None)
    draws = posterior.sample(20_000, SEED).numpy()
    mean = posterior.mean.numpy()
    assert (draws[:, : chosen.start] == mean[: chosen.start]).all()
    deviations = draws[:, chosen] - mean[chosen]
    error = np.linalg.norm(deviations.T @ deviations / len(draws) - covariance) / np.linalg.norm(covariance)
    assert error < 0.05
    assert (np.abs(deviations.mean(0)) < 4 * np.sqrt(np.diag(covariance) / len(draws))).all()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_samples_depend_on_the_seed_and_their_number_alone(structure):
    posterior, _ = build(structure, network(), "float32")
    draws = posterior.sample(5, SEED).numpy()
    np.testing.assert_array_equal(draws, posterior.sample(5, SEED))
    np.testing.assert_allclose(draws[3:], posterior.sample(2, SEED, first=3), rtol=1e-5, atol=1e-6)
    assert not np.allclose(draws, posterior.sample(5, (3, 5)))
    for prepared in (None, posterior.prepare()):
        one = posterior.sample_one(seeds.fold_in(SEED, 2), prepared)
        np.testing.assert_allclose(graphs.flatten(one), draws[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("structure", some(["diag", "low_rank"], ["diag"]))
def test_compiled_samples_are_the_eager_ones(structure):
    posterior, _ = build(structure, network(), "float32")
    compiled = tf.function(lambda seed: posterior.sample(3, seed), jit_compile=True)
    np.testing.assert_allclose(compiled(tf.constant(SEED)), posterior.sample(3, SEED), rtol=1e-4, atol=1e-5)


def test_a_draw_follows_the_mean_it_is_given():
    model = network()
    posterior, _ = build("diag", model, "float32")
    with tf.GradientTape() as tape:
        draw = posterior.sample_one(SEED, mean=model.trainable_weights)
        total = tf.add_n([tf.reduce_sum(one) for one in draw])
    for slope, weight in zip(tape.gradient(total, [w.value for w in model.trainable_weights]), model.get_weights()):
        np.testing.assert_array_equal(slope, np.ones_like(weight))
    np.testing.assert_array_equal(graphs.flatten(posterior.sample_one(SEED)), graphs.flatten(draw))


def test_chosen_layers_alone_vary():
    model = network()
    first = graphs.read(model).blocks[0]
    posterior = posteriors.build("diag", model, np.ones(first.size), layers=first.name)
    draws = posterior.sample(2, SEED).numpy()
    mean = posterior.mean.numpy()
    np.testing.assert_array_equal(mean, np.concatenate([np.ravel(weight) for weight in model.get_weights()]))
    assert (draws[:, first.stop :] == mean[first.stop :]).all() and (draws[:, : first.stop] != mean[: first.stop]).all()
    assert not posterior.variance_diag().numpy()[first.stop :].any()


def test_a_tiny_prior_beside_a_large_curvature_keeps_its_variance():
    # In float32 the rounding of the curvature is larger than the prior, and eigenvalues of it turn negative.
    generator = np.random.default_rng(1)
    root = generator.normal(size=(30, 5)) * 1e4
    posterior = posteriors.BlockPosterior([30])
    posterior.assign_curvature([tf.constant(root @ root.T, tf.float32)])
    lower = posterior.prepare()[0].numpy()
    assert np.isfinite(lower).all() and (np.diagonal(lower[0]) > 0).all()
    _, vectors = np.linalg.eigh(root @ root.T)
    deviations = posterior.sample(2000, SEED).numpy() @ vectors[:, :25]
    assert 0.9 < deviations.var() <= 1.1


@pytest.mark.parametrize("structure", STRUCTURES)
def test_files_come_back_bit_for_bit(structure, tmp_path):
    posterior, _ = build(structure, network(), "float32")
    posterior.save(tmp_path / "posterior.npz")
    loaded = posteriors.load(tmp_path / "posterior.npz", network(name="another_name"))
    assert type(loaded) is type(posterior) and loaded.dtype == posterior.dtype
    for name, value in posterior.state().items():
        np.testing.assert_array_equal(loaded.state()[name], value)
    np.testing.assert_array_equal(loaded.sample(3, SEED), posterior.sample(3, SEED))
    assert [path.name for path in tmp_path.iterdir()] == ["posterior.npz"]


@pytest.mark.parametrize("structure", some(STRUCTURES, ["kron"]))
def test_posteriors_are_saved_with_a_model(structure, tmp_path):
    class Holder(keras.Model):
        def __init__(self, posterior, **kwargs):
            super().__init__(**kwargs)
            self.posterior = posterior

        def call(self, x):
            return x

        def get_config(self):
            return {"posterior": keras.saving.serialize_keras_object(self.posterior)}

        @classmethod
        def from_config(cls, config):
            return cls(keras.saving.deserialize_keras_object(config["posterior"]))

    posterior, _ = build(structure, network(), "float32")
    holder = Holder(posterior)
    holder(np.zeros((1, 2), np.float32))
    holder.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects={"Holder": Holder}).posterior
    np.testing.assert_array_equal(loaded.sample(3, SEED), posterior.sample(3, SEED))


@pytest.mark.parametrize("other", [
    lambda: network(widths=(4, 2)), lambda: network(activation="relu"),
    lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]),
], ids=["shapes", "activation", "depth"])
def test_another_architecture_is_refused(other, tmp_path):
    posterior, _ = build("diag", network(), "float32")
    posterior.save(tmp_path / "posterior.npz")
    with pytest.raises(UserError, match="another architecture"):
        posteriors.load(tmp_path / "posterior.npz", other())


def test_other_settings_of_a_layer_are_another_architecture():
    def net(strides, slope):
        return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3, strides=strides, padding="same"),
                                 keras.layers.LeakyReLU(negative_slope=slope), keras.layers.GlobalAveragePooling2D(),
                                 keras.layers.Dense(2)])

    posterior = posteriors.build("diag", net(1, 0.1))
    posterior.layout.check(net(1, 0.1))
    for other in (net(2, 0.1), net(1, 0.3)):
        with pytest.raises(UserError, match="settings"):
            posterior.layout.check(other)


def test_the_mean_goes_back_into_a_network_and_drawn_ones_are_applied(tmp_path):
    first, second = network(), network()
    posterior, _ = build("diag", first, "float32")
    posterior.assign_mean([variable * 2.0 for variable in first.trainable_variables])
    posterior.save(tmp_path / "posterior.npz")
    loaded = posteriors.load(tmp_path / "posterior.npz", second)
    loaded.assign_to(second)
    np.testing.assert_allclose(curvature.flatten(second.trainable_variables), posterior.mean, rtol=1e-6)
    x = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    found = curvature.sample_outputs(loaded, second, x, 4, SEED)
    before = second.get_weights()
    for output, flat in zip(found, posterior.sample(4, SEED)):
        for variable, value in zip(second.trainable_variables, loaded.layout.unflatten(flat)):
            variable.assign(value)
        np.testing.assert_allclose(output, second(x), rtol=1e-4, atol=1e-5)
    second.set_weights(before)
    with pytest.raises(UserError, match="at least 1"):
        curvature.sample_outputs(loaded, second, x, 0, SEED)
    with pytest.raises(UserError, match="another architecture"):
        loaded.assign_to(network(activation="relu"))
    one_pass = curvature.predict(loaded, second, x, "exact")
    assert set(one_pass) == {"mean", "variance"}
    with pytest.raises(UserError, match="not the first ones"):
        curvature.predict(loaded, network(activation="relu"), x)


def broken(path, **changes):
    with np.load(path) as file:
        state = {**file, **changes}
    np.savez(path, **{name: value for name, value in state.items() if value is not None})


@pytest.mark.parametrize("changes, message", [
    ({"prior_precision": np.array([1.0, 0.0, 1.0], np.float32)}, "prior_precision.*above 0"),
    ({"noise_variance": np.float32(-1)}, "noise_variance.*above 0"),
    ({"mean": np.full(20, np.nan, np.float32)}, "mean must be finite"),
    ({"curvature": np.full(20, -1, np.float32)}, "negative"),
    ({"kappa": None}, "arrays"),
    ({"posterior": np.array("{}")}, "not a readable file of a posterior"),
])
def test_files_with_impossible_values_are_refused(changes, message, tmp_path):
    path = tmp_path / "posterior.npz"
    build("diag", network(), "float32")[0].save(path)
    broken(path, **changes)
    with pytest.raises(UserError, match=message):
        posteriors.load(path)


def test_files_that_are_no_posterior_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        posteriors.load(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match="not a readable file of a posterior"):
        posteriors.load(tmp_path / "text.npz")
    path = tmp_path / "posterior.npz"
    build("diag", network(), "float32")[0].save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="not a readable file of a posterior"):
        posteriors.load(path)
    build("diag", network(), "float32")[0].save(path)
    with pytest.raises(UserError, match="DiagPosterior"):
        posteriors.BlockPosterior.load(path)


@pytest.mark.parametrize("scales", [
    {"prior_precision": 0.0}, {"prior_precision": -1.0}, {"prior_precision": [1.0, np.nan, 1.0]},
    {"prior_precision": [1.0, 2.0]}, {"noise_variance": 0.0}, {"kappa": np.inf},
])
def test_impossible_scales_are_refused(scales):
    with pytest.raises(UserError, match=next(iter(scales))):
        posteriors.DiagPosterior(network()).assign_scales(**scales)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_curvatures_that_are_not_finite_are_refused(structure):
    curvature, _ = curvature_of(structure, network())
    curvature = tf.nest.map_structure(
        lambda one: one if one.dtype in (tf.int32, np.int32) else np.full(one.shape, np.nan), curvature)
    with pytest.raises(UserError, match="not finite"):
        posteriors.build(structure, network(), curvature)


def test_curvatures_that_do_not_fit_are_refused():
    model = network()
    with pytest.raises(UserError, match="unknown.*did you mean"):
        posteriors.build("diagonal", model)
    with pytest.raises(UserError, match="negative"):
        posteriors.build("diag", model, -np.ones(20))
    for structure in STRUCTURES:
        posterior, _ = build(structure, model)
        curvature, _ = curvature_of(structure, model)
        with pytest.raises(UserError, match="received"):
            posterior.assign_curvature(curvature[:-1] if isinstance(curvature, (list, np.ndarray)) else
                                       type(curvature)(curvature[0][:, :1], *curvature[1:]))


@pytest.mark.parametrize("structure", ["diag", "block", "kron", "low_rank"])
def test_optimise_sets_the_scales_it_returns(structure):
    posterior, _ = build(structure, network())
    before = posterior.log_evidence(sse=30.0, num_values=50)
    found = posterior.optimise(sse=30.0, num_values=50, per_layer=True)
    np.testing.assert_allclose(posterior.prior_precision.numpy(), found.prior_precision, rtol=1e-6)
    np.testing.assert_allclose(posterior.log_evidence(sse=30.0, num_values=50), found.log_evidence, rtol=1e-6)
    assert found.log_evidence > before
    other = posterior.optimise(sse=30.0, num_values=50, per_layer=True, method="gradient")
    np.testing.assert_allclose(other.prior_precision, found.prior_precision, rtol=1e-4)
    with pytest.raises(UserError, match="method"):
        posterior.optimise(sse=30.0, num_values=50, method="guess")


@pytest.mark.parametrize("structure", STRUCTURES)
def test_results_of_two_batches_add_up(structure):
    curvature, matrix = curvature_of(structure, network())
    doubled = posteriors.add(curvature, curvature)
    posterior = posteriors.build(structure, network(), doubled, dtype="float64")
    eye = tf.eye(len(matrix), dtype=tf.float64)
    np.testing.assert_allclose(posterior.solve(eye), np.linalg.inv(2 * matrix + np.eye(len(matrix))), atol=1e-8)
    if structure == "low_rank":
        with pytest.raises(UserError, match="same seed"):
            posteriors.add(curvature, Sketch(curvature.image, tf.constant((0, 1))))


def test_twice_the_data_halve_the_variance_where_there_is_no_prior():
    blocks = curvature_of("block", network())[0]
    variances = []
    for factor in (1.0, 2.0):
        posterior = posteriors.build("block", network(), [factor * one for one in blocks], dtype="float64")
        posterior.assign_scales(prior_precision=1e-9)
        variances.append(posterior.variances().numpy())
    np.testing.assert_allclose(variances[0] / variances[1], 2.0, rtol=1e-3)
