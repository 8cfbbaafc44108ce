"""The diagonal of lines of dense layers against the Gauss-Newton matrix written out."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

from pae_zoo import likelihoods
from pae_zoo.curvature import flatten, read
from pae_zoo.curvature.matrices import dense_exact, hessians, record
from pae_zoo.curvature.matrices import dense_exact_pairs as pairs
from pae_zoo.curvature.matrices import dense_exact_plan as plans
from pae_zoo.networks import layers as zoo_layers

L = keras.layers


@pytest.fixture(autouse=True)
def double_precision():
    with reference.double_precision():
        yield


def _pair(encoder=(6, 5, 2), decoder=(4, 5, 6), size=6, activation="tanh"):
    def net(inputs, widths, seed):
        hidden = [L.Dense(width, activation=activation) for width in widths[:-1]]
        return reference.sequential((inputs,), *hidden, L.Dense(widths[-1]), seed=seed)

    return [net(size, encoder, 1), net(encoder[-1], decoder, 2)]


NETWORKS = {
    "bottleneck": lambda: reference.dense_autoencoder(),
    "wide_bottleneck": lambda: reference.dense_autoencoder("softplus", (5, 6, 7, 6, 4)),
    "deep": lambda: reference.dense_autoencoder("sigmoid", (7, 5, 3, 2, 3, 5, 7, 6)),
    "few_outputs": lambda: reference.dense_autoencoder("tanh", (6, 5, 7, 6, 2)),
    "one_layer": lambda: reference.sequential((4,), L.Dense(3)),
    "two_layers": lambda: reference.sequential((4,), L.Dense(5, activation="elu"), L.Dense(3, use_bias=False)),
    "output_activation": lambda: reference.sequential(
        (4,), L.Dense(5, activation="tanh"), L.Dense(3), L.ReLU(), L.Dense(6, activation="sigmoid")),
    "images": lambda: reference.sequential(
        (2, 3, 1), L.Dropout(0.2), L.Flatten(), L.Dense(5, activation="tanh"), zoo_layers.Dropout(0.1), L.Dense(2),
        L.Dense(4), L.BatchNormalization(), L.Activation("relu"), L.Dense(6), L.Reshape((3, 2, 1))),
    "weights_of_single_values": lambda: reference.sequential(
        (4,), zoo_layers.Affine(), L.Dense(5), L.BatchNormalization(), L.PReLU(), L.Dense(2), zoo_layers.Affine(),
        L.Dense(4), L.Activation("tanh"), L.Dense(4), L.BatchNormalization()),
    "pair": _pair,
}  # fmt: skip


def _diagonal(graph, x, hessian, blocks):
    found = dense_exact.diagonal(record.forward(graph, x), hessian, blocks)
    return flatten([one for of_block in found for one in of_block])


def _both(models, likelihood="gaussian", layers="all", num=3, jit_compile=False):
    """Returns the diagonal, and the one written out."""
    graph, x = read(models), reference.data(models, num)
    hessian, blocks = hessians.resolve(likelihood), graph.select(layers)
    function = lambda x: _diagonal(graph, x, hessian, blocks)  # noqa: E731
    found = tf.function(function, autograph=False, jit_compile=True)(x) if jit_compile else function(tf.constant(x))
    matrix = None
    if not isinstance(likelihood, str):
        _, output = reference.jacobians(models, x)
        matrix = np.stack([np.diag(np.ravel(one)) for one in hessian.diagonal(tf.constant(output)).numpy()])
    expected = np.diag(reference.gauss_newton(models, x, likelihood, matrix))
    chosen = np.concatenate([np.arange(block.start, block.stop) for block in blocks])
    return found.numpy(), expected[chosen]


def _check(found, expected, tolerance=1e-8):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * expected.max())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_equals_the_matrix_written_out(name, likelihood):
    _check(*_both(NETWORKS[name](), likelihood))


@pytest.mark.parametrize("plan", [plans.TRIANGULAR, plans.PLAIN, plans.COLUMNS])
@pytest.mark.parametrize("stops", [(), (3,), (5, 2)])
def test_every_way_down_gives_the_same(monkeypatch, plan, stops):
    net = reference.dense_autoencoder("tanh", (5, 4, 3, 4, 5, 6, 6))
    # The top level has number 6; the rows of the others start below it.
    levels = tuple(range(5, (stops or (1,))[0] - 1, -1)) if plan == plans.COLUMNS else ()
    monkeypatch.setattr(plans, "choose", lambda *args: plans.Plan(plan, levels, stops, 0.0))
    for likelihood in ("gaussian",) if plan == plans.TRIANGULAR else ("gaussian", "bernoulli"):
        _check(*_both(net, likelihood))


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("widths", [(5, 4, 2, 4, 6, 7), (9, 3, 70, 9), (9, 100, 3, 65, 9)])
def test_products_of_pairs_give_the_same(monkeypatch, num, widths):
    net = reference.dense_autoencoder("tanh", widths)
    choose, taken = plans.choose, []
    monkeypatch.setattr(plans, "pair_operations", lambda *args: -1e9)
    monkeypatch.setattr(plans, "choose", lambda *args: taken.append(choose(*args)) or taken[-1])
    for compiled in (False, True):
        _check(*_both(net, num=num, jit_compile=compiled))
    assert taken[0].is_paired


def test_forms_of_pairs():
    rng = np.random.default_rng(0)
    for values in (1, 7, 8, 65, 200):
        slopes, kernel = rng.normal(size=(3, values)), rng.normal(size=(4, values))
        root = rng.normal(size=(values, values))
        gram = root @ root.T
        expected = np.einsum("nk,jk,kl,jl,nl->nj", slopes, kernel, gram, kernel, slopes)
        for above in (np.triu(gram, 1), np.triu(np.full_like(gram, 99.0), 1)):
            lower = np.tril(gram) + above
            found = pairs.forms(tf.constant(slopes), tf.constant(kernel), tf.constant(lower)).numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("layers", ["encoder", "decoder", "last"])
def test_chosen_layers(layers):
    _check(*_both(_pair(), layers=layers))


def test_observation_models():
    event = (6,)
    for layer in (likelihoods.Gaussian(event, dtype="float64"), likelihoods.Bernoulli(event, dtype="float64")):
        layer.build((None, 6))
        reference.randomised(layer)
        _check(*_both(reference.dense_autoencoder(), layer))


def test_compiled_and_in_pieces(monkeypatch):
    net = reference.dense_autoencoder("tanh", (5, 4, 2, 4, 6, 6))
    _check(*_both(net, num=5, jit_compile=True))
    monkeypatch.setattr(dense_exact, "NEAR_BYTES", 1024)
    _check(*_both(net, num=5, jit_compile=True))
    for likelihood in ("gaussian", "bernoulli"):
        _check(*_both(net, likelihood, num=5))


def test_batch_of_unknown_size(monkeypatch):
    monkeypatch.setattr(dense_exact, "NEAR_BYTES", 1024)
    net = reference.dense_autoencoder("tanh", (5, 4, 2, 4, 6, 6))
    graph, x = read(net), reference.data(net, 5)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, 6), tf.float64)])
    def found(x):
        return _diagonal(graph, x, hessians.Gaussian(), graph.blocks)

    _check(found(x).numpy(), np.diag(reference.gauss_newton(net, x)))


def test_single_precision():
    widths = (40, 30, 3, 30, 70, 60)
    double = reference.sequential(
        (20,), *[L.Dense(width, activation="tanh") for width in widths[:-1]], L.Dense(widths[-1]))
    hidden = [L.Dense(width, activation="tanh", dtype="float32") for width in widths[:-1]]
    single = keras.Sequential(
        [keras.Input((20,), dtype="float32"), *hidden, L.Dense(widths[-1], dtype="float32")])
    single.set_weights(double.get_weights())
    x = reference.data(double, 4)

    def found(net):
        graph = read(net)
        inputs = tf.constant(x, net.layers[0].dtype)
        return _diagonal(graph, inputs, hessians.Gaussian(), graph.blocks).numpy()

    one, other = found(single), found(double)
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-7 * other.max())


def test_values_without_influence_have_no_curvature():
    net = reference.dense_autoencoder("relu", (5, 4, 2, 4, 6))
    kernel, bias = net.layers[2].get_weights()
    net.layers[2].set_weights([kernel * [1, 0], bias])
    after = net.layers[3].get_weights()
    net.layers[3].set_weights([after[0] * [[1], [0]], after[1]])
    found, expected = _both(net)
    _check(found, expected)
    assert np.all(found[expected == 0] == 0)


def test_root_of_a_singular_matrix():
    rng = np.random.default_rng(0)
    for size, dtype in ((40, np.float32), (6, np.float32), (40, np.float64), (6, np.float64)):
        tolerance = 1e-4 if dtype == np.float32 else 1e-12
        rows = rng.normal(size=(2, 4, size)).astype(dtype) * np.logspace(-3, 3, size, dtype=dtype)
        rows[..., 3] = 0
        matrix = np.einsum("brp,brq->bpq", rows, rows)
        upper, jitter = dense_exact.root(tf.constant(matrix))
        scale = np.sqrt(np.einsum("bpp->bp", matrix))
        error = np.abs(np.einsum("brp,brq->bpq", upper, upper) - matrix)
        assert np.all(error <= tolerance * scale[:, :, None] * scale[:, None])
        assert 0 < jitter < tolerance and np.all(np.tril(upper, -1) == 0)


def test_what_it_does_not_apply_to():
    def line(net, likelihood="gaussian"):
        graph = read(net)
        run = record.forward(graph, tf.constant(reference.data(net, 2)))
        return [step.layer.name for step in dense_exact.line(run, hessians.resolve(likelihood)) if step.variables]

    def number(net):
        return sum(bool(step.variables) for step in read(net).chain.flat())

    assert len(line(reference.dense_autoencoder())) == number(reference.dense_autoencoder())
    assert not line(reference.dense_autoencoder(), "categorical")
    for name in ("added", "conv2d_same", "dense_on_three_axes", "spectral_keras"):
        net = reference.NETWORKS[name]()
        assert len(line(net)) < number(net)
    # What lies above such a layer is known all the same.
    for activation, known in (("softmax", ["top"]), ("tanh", ["below", "top"])):
        net = reference.sequential((4,), L.Dense(3, activation=activation, name="below"), L.Dense(2, name="top"))
        assert line(net) == known
    shared = reference.sequential((2, 3), L.PReLU(shared_axes=[1]), L.Flatten(), L.Dense(2, name="top"))
    assert line(shared) == ["top"]


def test_symmetric_products_of_many_strips():
    # Widths from 32 on are cut into strips.
    net = reference.sequential((3,), L.Dense(6, activation="tanh"), L.Dense(70, activation="tanh"), L.Dense(5))
    for layers in ("all", [net.layers[0].name]):
        _check(*_both(net, layers=layers, num=2))
    _check(*_both(net, "bernoulli", num=2))


def test_the_plan_takes_the_fewest_operations():
    widths = (784, 512, 256, 2, 256, 512, 784)
    plan = plans.choose(widths, range(1, 5), 128, True)
    assert plan.start == plans.COLUMNS and plan.levels == (3,) and plan.stops == (3,) and plan.is_paired
    assert plan.operations < 0.8 * 128 * 512**2 * 256
    # Few data do not pay for what is put together for the units: five eighths of a square for each datum and unit.
    few = plans.choose(widths, range(1, 5), 4, True)
    assert few.levels == (4, 3) and not few.is_paired
    gram = 784 * 512**2
    assert few.operations < 1.25 * gram + 1.35 * 4 * 512**2 * 256
    assert plans.choose(widths, range(1, 5), 128, False).start == plans.PLAIN
    # Without weights above the bottleneck, its own derivatives are enough.
    encoder = plans.choose(widths, range(1, 4), 128, True)
    assert encoder.levels == (3,) and encoder.stops == (3,)
    assert encoder.operations < plan.operations / 10
    # A deep decoder's levels may share the rows of one triangular factor.
    deep = plans.choose((784, 512, 256, 256, 2, 256, 256, 512, 784), range(1, 7), 1024, True)
    assert deep.start == plans.TRIANGULAR and deep.stops == (4,)
    assert plans.choose((9, 8, 300, 300, 2), range(2), 128, True).start == plans.PLAIN
