"""`ggn`: methods, likelihoods, selections, compiled functions, and what it refuses."""

import copy

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

from pae_zoo import curvature, likelihoods
from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices import gauss_newton, hessians
from pae_zoo.curvature.network import pieces
from pae_zoo.curvature.rules import registry

L = keras.layers


def ggn(model, x, *args, **options):
    """Uncompiled, which is faster for one call."""
    return curvature.ggn_fn(curvature.read(model), x, *args, **options)


@pytest.fixture(autouse=True)
def double_precision():
    with reference.double_precision():
        yield


@pytest.fixture
def network():
    return reference.dense_autoencoder()


@pytest.fixture
def pair():
    encoder = reference.sequential((5,), L.Dense(4, activation="tanh", name="first"), L.Dense(2, name="code"))
    decoder = reference.sequential((2,), L.Dense(4, activation="tanh", name="back"), L.Dense(5, name="out"), seed=1)
    return encoder, decoder


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "categorical"])
def test_hessians_by_name(network, likelihood):
    x = reference.data(network)
    explicit = reference.gauss_newton(network, x, likelihood)
    np.testing.assert_allclose(ggn(network, x, likelihood=likelihood), np.diag(explicit), rtol=1e-8)
    blocks = ggn(network, x, "block", likelihood=likelihood)
    for block, found in zip(curvature.read(network).blocks, blocks):
        wanted = explicit[block.start : block.stop, block.start : block.stop]
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-12)


def test_categorical_has_one_class_for_each_position():
    network = reference.sequential((4,), L.Dense(6, activation="tanh"), L.Dense(6), L.Reshape((2, 3)))
    x = reference.data(network)
    explicit = reference.gauss_newton(network, x, "categorical")
    found = ggn(network, x, likelihood="categorical")
    np.testing.assert_allclose(found, np.diag(explicit), rtol=1e-8)


@pytest.mark.parametrize("name", ["gaussian", "bernoulli", "categorical"])
def test_forms_of_a_hessian_agree(name):
    hessian, output = hessians.resolve(name), tf.constant(np.random.default_rng(0).normal(size=(2, 2, 3)))
    explicit = reference.output_hessian(name, output.numpy())
    root = tf.reshape(hessian.root_rows(output, tf.constant(0), 8), (8, 2, 6)).numpy()
    assert not root[6:].any()
    np.testing.assert_allclose(np.einsum("rbi,rbj->bij", root, root), explicit, atol=1e-14)
    later = hessian.root_rows(output, tf.constant(4), 2)
    np.testing.assert_allclose(tf.reshape(later, (2, 2, 6)), root[4:6])
    noise = np.random.default_rng(1).normal(size=(3, 2, 2, 3))
    wanted = np.einsum("rbi,qbr->qbi", root[:6], noise.reshape(3, 2, 6))
    np.testing.assert_allclose(tf.reshape(hessian.probe(output, tf.constant(noise)), (3, 2, 6)), wanted, atol=1e-14)
    product = tf.reshape(hessian.apply(output, tf.constant(noise)), (3, 2, 6))
    np.testing.assert_allclose(product, np.einsum("bij,rbj->rbi", explicit, noise.reshape(3, 2, 6)), atol=1e-14)


def test_a_likelihood_layer_brings_its_precision(network):
    x = reference.data(network)
    scale = np.linspace(0.3, 1.2, 6)
    pixel = likelihoods.build("gaussian_pixel", (6,))
    pixel.assign_scale(scale)
    explicit = reference.gauss_newton(network, x, hessian=np.tile(np.diag(scale**-2), (3, 1, 1)))
    np.testing.assert_allclose(ggn(network, x, likelihood=pixel), np.diag(explicit), rtol=1e-6)
    assert not hessians.resolve(pixel).is_shared
    shared = likelihoods.build("gaussian_learned", (6,), scale=0.5)
    assert hessians.resolve(shared).is_shared
    found = ggn(network, x, likelihood=shared)
    np.testing.assert_allclose(found, 4 * ggn(network, x), rtol=1e-6)
    found = ggn(network, x, likelihood=likelihoods.build("bernoulli", (6,)))
    np.testing.assert_allclose(found, ggn(network, x, likelihood="bernoulli"), rtol=1e-8)
    # A decoder that gives the variances too.
    double = likelihoods.build("gaussian_decoder", (3,))
    fisher = double.score_and_fisher(network(x), tf.zeros((3, 3), tf.float64))[1].numpy()
    explicit = reference.gauss_newton(network, x, hessian=np.stack([np.diag(one) for one in fisher]))
    np.testing.assert_allclose(ggn(network, x, likelihood=double), np.diag(explicit), rtol=1e-8)


@pytest.mark.parametrize(
    "name", ["dense_tanh_relu_sigmoid_softplus_elu", "conv2d_strided", "transposed", "upsampling", "max_pooling",
             "batch_norm", "layer_norm", "prelu", "spectral", "concatenated", "added", "residual", "shared_line",
             "shared_crossing"])
def test_sampled_diagonals_are_unbiased(name):
    network = reference.NETWORKS[name]()
    x, num = reference.data(network, 2), 2000
    found = curvature.ggn_fn(curvature.read(network), x, method="mc", num_probes=num, seed=(3, 4))
    exact = np.stack([np.diag(one) for one in reference.per_datum(network, x)])
    # Of a datum's (J^T r)^2 with normal noise, which is its mean times a chi^2; that with signs is at most as large.
    error = np.sqrt(2 * (exact**2).sum(0) / num)
    assert (np.abs(found - exact.sum(0)) <= 4 * error + 1e-12).mean() > 0.999
    assert np.abs((found - exact.sum(0)) / (error + 1e-12)).mean() < 1.3


def conv_pair():
    convolution = L.Conv2D(2, 3, padding="same", activation="tanh")
    encoder = reference.sequential((4, 4, 1), convolution, L.Flatten(), L.Dense(2))
    decoder = reference.sequential((2,), L.Dense(16, activation="tanh"), L.Reshape((4, 4, 1)),
                                   L.Conv2D(1, 3, padding="same"), seed=1)
    return [encoder, decoder]


@pytest.mark.parametrize("method", ["mc", "hybrid"])
@pytest.mark.parametrize("make, likelihood", [
    (conv_pair, "gaussian"), (conv_pair, "bernoulli"), (reference.dense_autoencoder, "categorical"),
    (lambda: reference.sequential((4, 4, 1), L.Conv2D(2, 3), L.Flatten(), L.Dense(3)), "categorical"),
])
def test_sampled_diagonals_of_other_ends_and_likelihoods(make, likelihood, method):
    models = make()
    x, num = reference.data(models, 2), 3000
    found = ggn(models, x, method=method, likelihood=likelihood, num_probes=num, seed=(3, 4)).numpy()
    exact = ggn(models, x, likelihood=likelihood).numpy()
    assert np.abs(found - exact).sum() < 0.1 * exact.sum()


def test_the_last_dense_layer_needs_no_probes(network):
    x, graph = reference.data(network), curvature.read(network)
    last = graph.blocks[-1]
    for likelihood in ("gaussian", "bernoulli"):
        found = ggn(network, x, method="mc", likelihood=likelihood, seed=(0, 1))
        exact = ggn(network, x, likelihood=likelihood)
        np.testing.assert_allclose(found[last.start :], exact[last.start :], rtol=1e-10)


def test_methods_that_propagate(network):
    x = reference.data(network)
    exact, approx = ggn(network, x), ggn(network, x, method="approx")
    np.testing.assert_allclose(ggn(network, x, method="mix"), exact, rtol=1e-8)
    np.testing.assert_allclose(ggn(network, x, method="mix", mix_width=0), approx, rtol=1e-10)
    assert np.abs(approx / exact - 1).max() > 0.01


def test_matrices_of_classes_below_a_convolution_stay_finite():
    for seed in range(6):
        net = reference.sequential((4, 4, 1), L.Conv2D(2, 3, padding="same", activation="tanh"),
                                   L.Conv2D(3, 3, padding="same"), L.Flatten(), L.Dense(3), seed=seed)
        x = reference.data(net, 2)
        found = ggn(net, x, method="mix", likelihood="categorical")
        np.testing.assert_allclose(found, ggn(net, x, likelihood="categorical"), rtol=1e-6, atol=1e-9)


def test_twice_the_data_have_twice_the_curvature(network):
    x = reference.data(network)
    np.testing.assert_allclose(ggn(network, np.concatenate([x, x])), 2 * ggn(network, x), rtol=1e-10)


def test_a_subclass_with_a_call_of_its_own_is_not_its_layers():
    class Twice(keras.Sequential):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs)

    net = Twice([keras.Input((3,)), L.Dense(2)])
    with pytest.raises(UserError, match="no layers of class Twice"):
        ggn(net, np.zeros((1, 3)))


def test_a_rule_that_is_replaced_counts_at_once(monkeypatch):
    class Scaled(L.Layer):
        def call(self, inputs):
            return 3.0 * inputs

    net = reference.sequential((3,), L.Dense(2), Scaled())
    x = reference.data(net)
    monkeypatch.setattr("pae_zoo.curvature.rules.registry._RULES", dict(registry._RULES))
    curvature.register_rule(Scaled, vjp=lambda layer, a, delta: delta)
    first = curvature.ggn(net, x, structure="block")[0]
    curvature.register_rule(Scaled, vjp=lambda layer, a, delta: 3.0 * delta)
    np.testing.assert_allclose(curvature.ggn(net, x, structure="block")[0], 9.0 * first, rtol=1e-8)


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical"])
def test_sampled_blocks_of_other_likelihoods(network, likelihood):
    x, num = reference.data(network), 4000
    explicit = reference.gauss_newton(network, x, likelihood)
    blocks = ggn(network, x, "block", "mc", likelihood, seed=(0, 1), num_probes=num)
    for block, found in zip(curvature.read(network).blocks, blocks):
        wanted = explicit[block.start : block.stop, block.start : block.stop]
        assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(wanted)


def test_the_error_of_sampling_falls_with_the_root_of_the_number_of_probes(network):
    x = reference.data(network)
    exact = ggn(network, x).numpy()

    def error(num):
        found = [ggn(network, x, method="mc", num_probes=num, seed=(7, index)) for index in range(8)]
        return np.sqrt(np.mean((np.stack(found) / exact - 1) ** 2))

    assert 6 < error(10) / error(1000) < 16


def test_hybrid_is_exact_above_and_sampled_below(network):
    x, graph = reference.data(network), curvature.read(network)
    options = {"seed": (0, 1), "num_probes": 3}
    hybrid = ggn(network, x, method="hybrid", hybrid_layers=2, **options)
    border = graph.blocks[-2].start
    np.testing.assert_allclose(hybrid[border:], ggn(network, x)[border:], rtol=1e-8)
    np.testing.assert_allclose(hybrid[:border], ggn(network, x, method="mc", **options)[:border], rtol=1e-8)


@pytest.mark.parametrize("name", ["conv2d_same", "batch_norm", "added"])
def test_batches_add_up(name):
    network = reference.NETWORKS[name]()
    x, graph = reference.data(network, 4), curvature.read(network)
    parts = [curvature.ggn_fn(graph, part) for part in np.split(x, 2)]
    np.testing.assert_allclose(parts[0] + parts[1], curvature.ggn_fn(graph, x), rtol=1e-10)


def test_a_batch_of_unknown_size():
    network = reference.sequential((5, 6, 2), L.Conv2D(3, 3, activation="tanh"), L.Flatten(), L.Dense(3))
    x, graph = reference.data(network), curvature.read(network)
    options = {"method": "mc", "seed": (0, 1)}

    @tf.function(input_signature=[tf.TensorSpec((None, 5, 6, 2), tf.float64)], autograph=False)
    def function(x):
        return curvature.ggn_fn(graph, x, **options), curvature.ggn_fn(graph, x, "block", layers="last", **options)[0]

    diagonal, block = function(x)
    np.testing.assert_allclose(diagonal, curvature.ggn_fn(graph, x, **options), rtol=1e-10)
    np.testing.assert_allclose(block, curvature.ggn_fn(graph, x, "block", layers="last", **options)[0], rtol=1e-10)


def test_selected_layers_are_slices_of_all(pair):
    x, graph = reference.data(pair), curvature.read(pair)
    whole = curvature.ggn_fn(graph, x)
    for layers, names in [("encoder", ["first", "code"]), ("decoder", ["back", "out"]), ("last", ["out"]),
                          ("first,back", ["first", "back"]), (["code"], ["code"])]:
        blocks = [block for block in graph.blocks if block.name in names]
        wanted = np.concatenate([whole[block.start : block.stop] for block in blocks])
        for method in ("exact", "mc"):
            found = curvature.ggn_fn(graph, x, method=method, layers=layers, seed=(0, 1), num_probes=2)
            if method == "exact":
                np.testing.assert_allclose(found, wanted, rtol=1e-8)
            assert found.shape == wanted.shape
    np.testing.assert_allclose(whole, np.diag(reference.gauss_newton(pair, x)), rtol=1e-8)


def test_frozen_weights_are_left_out():
    network = reference.sequential((4,), L.Dense(3, activation="tanh"), L.Dense(3, activation="tanh"), L.Dense(2))
    x = reference.data(network)
    whole = reference.gauss_newton(network, x)
    network.layers[1].trainable = False
    network.layers[2].bias.trainable = False
    kept = np.r_[0:15, 27:33]
    np.testing.assert_allclose(ggn(network, x), np.diag(whole)[kept], rtol=1e-8)
    assert len(ggn(network, x, "block")) == 2


def test_weights_of_a_scope(network):
    x, options = reference.data(network), {"method": "mc", "seed": (0, 1)}
    before = [variable.numpy() for variable in network.variables]
    values = [tf.constant(value * 1.5) for value in before]
    plain = curvature.ggn(network, x, **options)
    with keras.StatelessScope(state_mapping=list(zip(network.trainable_variables, values))):
        scoped = curvature.ggn(network, x, **options)
        uncompiled = ggn(network, x, **options)
    cache = network.__dict__[gauss_newton._CACHE]
    assert len(cache) == 1
    # Once for variables, once for the values of a scope.
    assert all(function.experimental_get_tracing_count() == 2 for function in cache.values())
    for variable, value in zip(network.variables, before):
        np.testing.assert_array_equal(variable, value)
        variable.assign(1.5 * value)
    np.testing.assert_allclose(scoped, curvature.ggn(network, x, **options), rtol=1e-12)
    np.testing.assert_allclose(uncompiled, scoped, rtol=1e-8)
    assert np.abs(scoped / plain - 1).max() > 0.1


def test_a_model_with_compiled_curvature_can_be_saved_and_copied(network, tmp_path):
    x, options = reference.data(network), {"method": "mc", "seed": (0, 1), "jit_compile": False}
    found = curvature.ggn(network, x, **options)
    network.save(tmp_path / "model.keras")
    for again in (keras.models.load_model(tmp_path / "model.keras"), copy.deepcopy(network)):
        assert gauss_newton._CACHE not in again.__dict__ or not again.__dict__[gauss_newton._CACHE]
        np.testing.assert_allclose(curvature.ggn(again, x, **options), found)


@pytest.mark.parametrize("structure, method", [("diag", "hybrid"), ("block", "exact")])
def test_single_precision_compiled_or_not(structure, method):
    keras.config.set_dtype_policy("float32")
    network = reference.randomised(keras.Sequential(
        [keras.Input((4,), dtype="float32"), L.Dense(5, activation="tanh"), L.Dense(2), L.Dense(5, activation="relu"),
         L.Dense(4)]))
    x = reference.data(network).astype("float32")
    found = [tf.nest.flatten(curvature.ggn(network, x, structure, method, seed=(0, 1), jit_compile=jit))
             for jit in (False, True)]
    for one, other in zip(*found):
        assert one.dtype == tf.float32
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(one).max())


def test_convolutions_under_xla():
    network = reference.NETWORKS["conv2d_strided"]()
    x = reference.data(network)
    wanted = np.diag(reference.gauss_newton(network, x))
    np.testing.assert_allclose(curvature.ggn(network, x, jit_compile=True), wanted, rtol=1e-8, atol=1e-12)


def test_too_little_memory_is_told_before_it_is_taken():
    keras.config.set_dtype_policy("float32")
    network = keras.Sequential([keras.Input((300,)), L.Dense(300, activation="tanh"), L.Dense(300)])
    x = np.zeros((8, 300), "float32")
    with pytest.raises(UserError) as error:
        curvature.ggn(network, x, "block")
    message = str(error.value)
    assert "needs 124,4" in message and "memory=2048 MiB are allowed" in message
    assert "structure='diag' takes 2 MiB" in message and "structure='kron'" in message and "layers='last'" in message
    with pytest.raises(UserError, match="memory=0.5 MiB are allowed"):
        curvature.ggn(network, x, method="mc", seed=(0, 1), memory=0.5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"structure": "dag"}, "structure='dag' is unknown; allowed: diag, block.*did you mean diag"),
        ({"method": "montecarlo"}, "method='montecarlo' is unknown"),
        ({"structure": "block", "method": "approx"}, "'block' is not computed by method='approx'; allowed: exact, mc"),
        ({"method": "mc"}, "draws random numbers; give a seed"),
        ({"likelihood": "poisson"}, "likelihood='poisson' has no Hessian here; allowed: gaussian, bernoulli, categ"),
        ({"likelihood": likelihoods.Bernoulli((4,))}, r"takes outputs of shape \(4,\); the network gives \(6,\)"),
        ({"layers": "encoder"}, "needs a sequence of models"),
        ({"layers": "nowhere"}, "layers='nowhere' is unknown"),
        ({"num_probes": 0}, "num_probes=0 must be an integer of at least 1"),
        ({"memory": 0}, "memory=0 must be a number of MiB above 0"),
        ({"probes": 3}, "option='probes' is unknown; allowed: num_probes"),
        ({"training": True}, "of the network at inference"),
    ],
)
def test_options_that_are_refused(network, options, message):
    with pytest.raises(UserError, match=message):
        curvature.ggn(network, reference.data(network), **options)


def test_what_no_curvature_is_of():
    network = reference.NETWORKS["batch_norm"]()
    name = next(layer.name for layer in network.layers if isinstance(layer, L.BatchNormalization))
    with pytest.raises(UserError, match=f"batch normalisation '{name}' couples the data"):
        curvature.ggn(network, reference.data(network), training=True)
    single = reference.sequential((4,), L.Dense(1))
    with pytest.raises(UserError, match=r"two or more classes.*\(1,\).*'bernoulli'"):
        curvature.ggn(single, reference.data(single), likelihood="categorical")
    inputs = keras.Input((4,))
    product = keras.Model(inputs, L.Dot(-1, name="times")([L.Dense(3)(inputs), L.Dense(3)(inputs)]))
    with pytest.raises(UserError, match="branches at 'times'"):
        curvature.ggn(product, np.zeros((2, 4)))


@pytest.mark.parametrize("name, words", [
    ("shared_line", "several times; take method='exact'"), ("crossing", "cross. Take method='exact'"),
    ("operations", "cross"),
    ("residual", r"shapes \[\(4, 4, 3\), \(1, 1, 3\)\].*take method='exact'")])
def test_diagonals_that_are_carried_say_where_they_are_not(name, words):
    network = reference.NETWORKS[name]()
    for options in ({"method": "approx"}, {"method": "mix", "mix_width": 3}):
        with pytest.raises(UserError, match=words):
            ggn(network, reference.data(network), **options)


@pytest.mark.parametrize("name", ["shared_line", "shared_across_a_bottleneck", "shared_convolution"])
@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_uses_of_a_layer_are_summed_before_they_are_squared(name, likelihood):
    network = reference.NETWORKS[name]()
    x = reference.data(network, 4)
    explicit = reference.gauss_newton(network, x, likelihood)
    np.testing.assert_allclose(ggn(network, x, likelihood=likelihood), np.diag(explicit), rtol=1e-8, atol=1e-12)
    hybrid = ggn(network, x, method="hybrid", hybrid_layers=10, likelihood=likelihood, seed=(0, 1))
    np.testing.assert_allclose(hybrid, np.diag(explicit), rtol=1e-8, atol=1e-12)
    with pieces.work_bytes(3000):  # a few rows and data at a time
        np.testing.assert_allclose(
            ggn(network, x, likelihood=likelihood, memory=0.5), np.diag(explicit), rtol=1e-8, atol=1e-12)
    last = curvature.read(network).blocks[-1]
    found = ggn(network, x, "last_layer", likelihood=likelihood).matrices
    if likelihood == "categorical":
        np.testing.assert_allclose(found[0], explicit[last.start :, last.start :], rtol=1e-8, atol=1e-12)


def test_weights_of_two_layers_are_refused():
    class Tied(L.Layer):
        def __init__(self, other):
            super().__init__()
            self.other = other

        def call(self, inputs):
            return inputs @ tf.transpose(self.other.kernel)

    first = L.Dense(3, name="first")
    network = keras.Sequential([keras.Input((4,), dtype="float64"), first, Tied(first)])
    with pytest.raises(UserError, match="belongs to two layers, 'first'"):
        curvature.read(network)
