"""Diagonals and full matrices carried through layers, against recursions with explicit Jacobians of every layer."""


import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from tiers import some

from pae_zoo.core.errors import UserError
from pae_zoo.curvature import flatten, read
from pae_zoo.curvature.matrices import hessians, propagation, record
from pae_zoo.curvature.rules import registry

L = keras.layers
LINES = list(reference.LINES)
SLOW = ("by_autodiff", "conv3d")


@pytest.fixture(autouse=True)
def double_precision():
    with reference.double_precision():
        yield


def _found(models, width=0, likelihood="gaussian", x=None, jit_compile=False, layers="all", **options):
    graph = read(models)
    x = reference.data(models) if x is None else x
    hessian, blocks = hessians.resolve(likelihood), graph.select(layers)
    function = lambda x: flatten(propagation.diagonal(graph, x, hessian, blocks, width, **options))  # noqa: E731
    if jit_compile:
        function = tf.function(function, autograph=False, jit_compile=True)
    return function(tf.constant(x)).numpy()


def _exact(models, likelihood="gaussian"):
    return np.diag(reference.gauss_newton(models, reference.data(models), likelihood))


def _check(found, expected, tolerance=1e-8):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def _jacobians(run, step):
    """Returns d(output)/d(input) (B, n, k) and d(output)/d(weights) (B, n, P_l) of a step, from its call."""
    a, y = run.inputs[step], run.outputs[step]
    size, num = y.shape[1:].num_elements(), y.shape[0]
    unit = tf.reshape(tf.eye(size, dtype=y.dtype), (size, 1, *y.shape[1:])) * tf.ones((1, num, *y.shape[1:]), y.dtype)
    rule = run.rule(step)
    inner = tf.reshape(rule.vjp(step.layer, a, unit), (size, num, -1))
    weights = tf.transpose(rule.rows(step.layer, a, unit), (1, 0, 2)).numpy() if step.variables else None
    return np.transpose(inner.numpy(), (1, 0, 2)), weights


def _explicit(models, likelihood="gaussian", width=0):
    """Returns the recursion for a line, with M in full by what has up to `width` values and its diagonal elsewhere."""
    graph, x = read(models), tf.constant(reference.data(models))
    run = record.forward(graph, x)
    m = reference.output_hessian(likelihood, run.output.numpy())
    found, size = [], m.shape[-1]
    for step in reversed(graph.chain.steps):
        if size > width:
            m = m * np.eye(size)
        inner, weights = _jacobians(run, step)
        if weights is not None:
            found.insert(0, np.sum(weights * (m @ weights), (0, 1)))
        m = np.swapaxes(inner, 1, 2) @ m @ inner
        size = m.shape[-1]
    return np.concatenate(found)


@pytest.mark.parametrize("name", LINES)
def test_diagonals_are_those_of_the_explicit_recursion(name):
    net = reference.NETWORKS[name]()
    found = _found(net, fallback=name in SLOW)
    _check(found, _explicit(net))
    assert np.all(found >= 0)


@pytest.mark.parametrize("name", [name for name in LINES if name not in SLOW])
def test_matrices_where_layers_are_narrow(name):
    # Of every network some places are below this width and some above.
    net = reference.NETWORKS[name]()
    _check(_found(net, 12), _explicit(net, width=12))


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical"])
@pytest.mark.parametrize("width", [0, 4, 9])
def test_other_output_hessians(likelihood, width):
    net = reference.dense_autoencoder("softplus", (6, 5, 2, 5, 4))
    _check(_found(net, width, likelihood), _explicit(net, likelihood, width))


def test_hessian_of_a_likelihood_without_a_diagonal():
    class Other(hessians.Categorical):
        pass

    net, plain = reference.dense_autoencoder(), hessians.OutputHessian
    other = Other()
    _check(_found(net, 0, other), _explicit(net, "categorical"))
    assert issubclass(Other, plain)


@pytest.mark.parametrize(
    "name", ["max_pooling", "batch_norm", "transposed", "added", "concatenated_images", "spectral", "subtracted",
             "averaged", "multiplied", "largest"])
def test_full_matrices_everywhere_are_exact(name):
    net = reference.NETWORKS[name]()
    _check(_found(net, 10**4), _exact(net))


def test_dense_nets_with_wide_enough_matrices_are_exact():
    net = reference.dense_autoencoder("tanh", (7, 5, 2, 5, 6))
    exact, approx = _exact(net), _found(net)
    _check(_found(net, 7), exact)
    _check(_found(net, 0), approx)
    assert np.max(np.abs(approx - exact)[: exact.size // 2] / exact[: exact.size // 2]) > 0.05


def test_where_diagonals_are_exact():
    for layers in ([], [L.Dense(5, activation="tanh")]):
        net = reference.sequential((4,), *layers, L.Dense(3))
        _check(_found(net), _exact(net))
    deep, sizes = reference.dense_autoencoder("tanh", (7, 5, 6, 4)), read
    found, exact, blocks = _found(deep), _exact(deep), sizes(deep).blocks
    _check(found[blocks[-2].start :], exact[blocks[-2].start :])
    assert np.max(np.abs(found - exact)[: blocks[-2].start]) > 1e-2 * exact.max()
    image = reference.sequential((5, 5, 1), L.Conv2D(2, 3), L.Activation("tanh"), L.Conv2D(2, 2, name="last"))
    last = read(image).blocks[-1]
    _check(_found(image)[last.start :], _exact(image)[last.start :])


def test_upsampling_keeps_channels_apart():
    a = tf.zeros((2, 3, 2, 3), tf.float64)
    rng = np.random.default_rng(0)
    for interpolation in ("nearest", "bilinear"):
        layer = L.UpSampling2D((2, 3), interpolation=interpolation)
        y = layer(a)
        rule, m = registry.rule_of(layer), rng.random(y.shape)
        changed = m.copy()
        changed[..., 1] *= 3
        one, other = (rule.diag_input(layer, a, y, tf.constant(values)).numpy() for values in (m, changed))
        np.testing.assert_array_equal(one[..., [0, 2]], other[..., [0, 2]])
        assert np.all(one[..., 1] < other[..., 1])
        if interpolation == "nearest":
            np.testing.assert_allclose(one.sum((1, 2)), m.sum((1, 2)))


@pytest.mark.parametrize("merge", ["added", "concatenated"])
def test_skips_of_dense_layers(merge):
    net = reference.NETWORKS[merge]()
    graph = read(net)
    found, exact = _found(net), _exact(net)
    assert np.all(found >= 0)
    # Inside the branch and above, the last two dense layers that a weight sees are exact.
    after = [block for block in graph.blocks][-2:]
    _check(found[after[0].start :], exact[after[0].start :])


@pytest.mark.parametrize("branch", [[], [5], [4, 5]])
def test_a_sum_counts_what_its_branches_have_in_common(branch):
    inputs = keras.Input((5,), dtype="float64")
    start = L.Dense(5)(inputs)
    h = L.Activation("tanh")(start)
    for width in branch:
        h = L.Dense(width, activation="softplus")(h)
    net = reference.randomised(keras.Model(inputs, L.Add()([start, h])))
    graph, x = read(net), reference.data(net)
    block = next(one for one in graph.blocks if one.name == net.layers[1].name)
    m = propagation.diagonal(graph, tf.constant(x), hessians.Gaussian(), [block])[1].numpy()
    start, run = graph.step_of(block), record.forward(graph, tf.constant(x))
    expected = np.zeros(5)
    (parallel,) = [step for step in graph.chain.steps if step not in graph.chain.flat()]
    line = next(one for one in parallel.branches if one.steps)
    for b in range(len(x)):
        jacobian, own = np.eye(5), np.ones(5)
        for step in line.steps:
            jacobian = _jacobians(run, step)[0][b] @ jacobian
        for step in reversed(line.steps):
            own = own @ _jacobians(run, step)[0][b] ** 2
        expected += 1 + own + 2 * np.diag(jacobian)
    _check(m, expected)


def test_chosen_layers_and_pieces_of_the_batch():
    net = reference.dense_autoencoder("tanh", (7, 5, 2, 5, 6))
    graph = read(net)
    names = [graph.blocks[0].name, graph.blocks[3].name]
    for width in (0, 6, 9):
        whole = _found(net, width)
        some = _found(net, width, layers=names)
        parts = [whole[block.start : block.stop] for block in graph.select(names)]
        np.testing.assert_allclose(some, np.concatenate(parts), rtol=1e-12)
    one = propagation.COPIES * 8 * 7**2 / 2**20
    x = reference.data(net, 7)
    for memory in (one, 3 * one, 100 * one):
        np.testing.assert_allclose(
            _found(net, 9, x=x, memory=memory, jit_compile=memory > one), _found(net, 9, x=x), rtol=1e-9)
    with pytest.raises(UserError, match="mix_width=9"):
        _found(net, 9, memory=one / 2)


COMPILED = [("average_pooling", 0), ("upsampling", 0), ("concatenated_images", 0), ("max_pooling", 12)]


@pytest.mark.parametrize("name, width", some(COMPILED, COMPILED[:1]))
def test_compiled(name, width):
    net = reference.NETWORKS[name]()
    # TensorFlow interpolates in single precision.
    _check(_found(net, width, jit_compile=True), _found(net, width), 1e-6 if name == "upsampling" else 1e-9)


def _folded(direct=True):
    between = [] if direct else [L.Activation("tanh")]
    encoder = reference.sequential((4, 4, 1), L.Conv2D(2, 3, activation="tanh"), L.Flatten(), L.Dense(5), L.Dense(2))
    decoder = reference.sequential(
        (2,), L.Dense(5, activation="tanh"), L.Dense(8), *between, L.Reshape((2, 2, 2)),
        L.Conv2DTranspose(1, 3, activation="tanh"))
    return [encoder, decoder]


def test_the_pattern_of_the_papers_code():
    models = _folded()
    # Between the dense layer before Reshape and the one after Flatten: the same as by width, 5 at most.
    _check(_found(models, pattern="dense"), _explicit(models, width=5))
    assert not np.allclose(_found(models, pattern="dense"), _found(models))
    shaped = reference.sequential((2,), L.Dense(5, activation="tanh"), L.Dense(16), L.Reshape((4, 4, 1)))
    flat = reference.sequential((4, 4, 1), L.Flatten(), L.Dense(5, activation="tanh"), L.Dense(2))
    # A Reshape that gives the output its shape is no part of the pattern: the paper's dense networks have none.
    for other in (_folded(direct=False), reference.dense_autoencoder(), [flat, shaped]):
        with pytest.warns(UserWarning, match="that of method='approx'"):
            found = _found(other, pattern="dense")
        np.testing.assert_allclose(found, _found(other), rtol=1e-12)
    with pytest.raises(UserError, match="pattern='other' is unknown"):
        _found(models, pattern="other")


def test_same_for_all_data_is_not_repeated():
    net = reference.sequential(
        (6, 6, 1), L.Conv2D(2, 3, activation="tanh"), L.MaxPooling2D(2), L.UpSampling2D(2), L.Conv2D(2, 2),
        L.AveragePooling2D(2, padding="same"), L.BatchNormalization(), L.Conv2D(1, 2))
    graph, x = read(net), tf.constant(reference.data(net))

    class Gaussian(hessians.Gaussian):
        is_shared = False

    one, other = (
        flatten(propagation.diagonal(graph, x, hessian, graph.blocks)) for hessian in (hessians.Gaussian(), Gaussian()))
    np.testing.assert_allclose(one, other, rtol=1e-12)


def _largest(side, width):
    """Values of the largest tensor, and of all, that are made for one image of side x side pixels."""
    net = reference.sequential(
        (side, side, 1), L.Conv2D(2, 3, padding="same", activation="tanh"), L.MaxPooling2D(2), L.UpSampling2D(2),
        L.Conv2D(1, 3, padding="same"))
    graph = read(net)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((1, side, side, 1), tf.float64)])
    def found(x):
        return flatten(propagation.diagonal(graph, x, hessians.Gaussian(), graph.blocks, width, memory=2.0**40))

    operations = found.get_concrete_function().graph.get_operations()
    sizes = [tensor.shape.num_elements() or 0 for one in operations for tensor in one.outputs if tensor.shape.rank]
    return max(sizes), sum(sizes)


def test_memory_grows_with_pixels_and_that_of_full_matrices_with_their_square():
    for width, least, most in ((0, 0.9, 1.1), (10**9, 1.8, 2.2)):
        small, large = _largest(16, width), _largest(64, width)
        slopes = [np.log(one / other) / np.log(16) for one, other in zip(large, small)]
        assert all(least <= slope <= most for slope in slopes)
