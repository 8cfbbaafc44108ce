"""One-pass prediction is J Lambda^-1 J^T, and what Monte Carlo tends to for narrow posteriors."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from tiers import some

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices import hessians, kron, last_layer, low_rank
from pae_zoo.curvature.network import graph as graphs
from pae_zoo.curvature.posteriors import build as posteriors
from pae_zoo.curvature.predictive import linearised, variance_propagation

L = reference.L
SEED = (1, 2)


@pytest.fixture(autouse=True)
def double_precision():
    with reference.double_precision():
        yield


def dense_pair():
    encoder = reference.sequential((4,), L.Dense(5, activation="tanh"), L.Dense(2))
    return encoder, reference.sequential((2,), L.Dense(3, activation="softplus"), L.Dense(4), seed=1)


def conv_pair():
    encoder = reference.sequential(
        (4, 4, 1), L.Conv2D(2, 3, padding="same", activation="tanh"), L.MaxPooling2D(), L.PReLU(), L.Flatten(),
        L.Dense(2))
    decoder = reference.sequential(
        (2,), L.Dense(8, activation="tanh"), L.Reshape((2, 2, 2)), L.UpSampling2D(),
        L.Conv2DTranspose(1, 3, padding="same"), seed=1)
    return encoder, decoder


def posterior_of(structure, models, x, layers="all"):
    graph = graphs.read(models)
    blocks, hessian, x = graph.select(layers), hessians.resolve("gaussian"), tf.constant(x)
    if structure in ("diag", "block"):
        matrix = reference.gauss_newton(list(models), x)
        parts = [matrix[block.start : block.stop, block.start : block.stop] for block in blocks]
        curvature = parts if structure == "block" else np.concatenate([np.diag(part) for part in parts])
    elif structure == "kron":
        curvature = kron.compute(graph, x, hessian, blocks)
    elif structure == "low_rank":
        curvature = low_rank.compute(graph, x, hessian, blocks, 7, SEED)
    else:
        curvature = last_layer.compute(graph, x, hessian, blocks)
    posterior = posteriors.build(structure, graph, curvature, layers=layers, dtype="float64")
    posterior.assign_scales(np.linspace(0.5, 2, len(posterior.layout.sizes)), 0.3)
    return posterior


def covariance_of_weights(posterior):
    """Lambda^-1 over all weights (P, P), 0 for those that are not chosen."""
    eye = tf.eye(posterior.layout.num_chosen, dtype=tf.float64)
    found = np.zeros((posterior.layout.size,) * 2)
    where = np.concatenate([np.full(part.size, part.chosen) for part in posterior.layout.parts])
    found[np.ix_(where, where)] = posterior.solve(eye)
    return found


@pytest.mark.parametrize("structure, pair", some(
    [(structure, pair) for structure in posteriors.STRUCTURES for pair in (dense_pair, conv_pair)],
    [("diag", conv_pair), *((structure, dense_pair) for structure in ("block", "kron", "last_layer"))]))
def test_covariances_are_those_by_autodiff(structure, pair):
    models = pair()
    x = reference.data(models, 3)
    posterior = posterior_of(structure, models, x)
    weights = covariance_of_weights(posterior)
    jacobian, output = reference.jacobians(list(models), x)
    expected = np.einsum("bip,pq,bjq->bij", jacobian, weights, jacobian)
    found = linearised.covariance(posterior, models, tf.constant(x))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
    found = linearised.variance(posterior, models, tf.constant(x))
    assert found.shape == output.shape
    np.testing.assert_allclose(np.reshape(found, (3, -1)), np.einsum("bii->bi", expected), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("structure", some(["diag", "block", "kron", "low_rank"], ["diag", "kron"]))
@pytest.mark.parametrize("layers", ["all", "encoder"])
def test_latent_covariance_is_that_by_autodiff(structure, layers):
    models = dense_pair()
    x = reference.data(models, 3)
    posterior = posterior_of(structure, models, x, layers)
    jacobian, _ = reference.jacobians(models[0], x)
    size = jacobian.shape[-1]
    expected = np.einsum("bip,pq,bjq->bij", jacobian, covariance_of_weights(posterior)[:size, :size], jacobian)
    found = linearised.covariance(posterior, models[0], tf.constant(x))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
    if structure == "diag":
        compiled = tf.function(lambda x: linearised.covariance(posterior, models[0], x), jit_compile=True)
        np.testing.assert_allclose(compiled(tf.constant(x)), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("structure", some(["diag", "low_rank"], ["diag"]))
def test_pieces_of_data_and_rows_give_the_same(structure, monkeypatch):
    models = conv_pair()
    x = tf.constant(reference.data(models, 5))
    posterior = posterior_of(structure, models, x)
    whole = linearised.variance(posterior, models, x), linearised.covariance(posterior, models[0], x)
    monkeypatch.setattr(linearised, "PIECE_BYTES", 20_000)
    parts = linearised.variance(posterior, models, x), linearised.covariance(posterior, models[0], x)
    for one, other in zip(whole, parts):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_latents_vary_with_the_encoder_alone():
    models = dense_pair()
    x = tf.constant(reference.data(models, 3))
    posterior = posterior_of("diag", models, x, "decoder")
    assert not linearised.covariance(posterior, models[0], x).numpy().any()


@pytest.mark.parametrize("structure", ["diag", "kron"])
def test_monte_carlo_tends_to_it_with_growing_precision(structure):
    models = dense_pair()
    x = tf.constant(reference.data(models, 2))
    posterior = posterior_of(structure, models, x)
    priors = posterior.prior_precision.numpy()
    spreads, errors = [], []
    scales = 10.0 ** np.arange(2, 6)
    for scale in scales:
        # Lambda becomes scale times what it was.
        posterior.assign_scales(scale * priors, kappa=scale)
        exact = np.einsum("bii->bi", linearised.covariance(posterior, models[0], x))
        first, bias, last, offset = (
            np.reshape(one, (-1, *shape)) for one, shape in zip(
                np.split(posterior.sample(2000, SEED).numpy()[:, :37], [20, 25, 35], axis=1),
                [(4, 5), (1, 5), (5, 2), (1, 2)]))
        found = np.var(np.tanh(x.numpy() @ first + bias) @ last + offset, axis=0)
        spreads.append(found.mean())
        errors.append(np.abs(found / exact - 1).max())
    slope = np.polyfit(np.log(1 / scales), np.log(spreads), 1)[0]
    assert abs(slope - 1) < 0.02
    assert errors[-1] < 5 * np.sqrt(2 / 2000)


PROPAGATED = {
    "dense": lambda: reference.sequential((4,), L.Dense(3, activation="tanh"), L.Dense(2)),
    "one convolution": lambda: reference.sequential((4, 4, 2), L.Conv2D(3, 2, padding="same"), L.Flatten()),
    "one transposed": lambda: reference.sequential((2, 2, 2), L.Conv2DTranspose(2, 2, strides=2), L.Activation("relu")),
    "batch norm": lambda: reference.sequential((4,), L.Dense(3), L.BatchNormalization(), L.Activation("sigmoid")),
}


@pytest.mark.parametrize("name", PROPAGATED)
def test_diagonal_propagation_is_exact_where_values_share_no_weights(name):
    model = PROPAGATED[name]()
    x = reference.data(model, 3)
    posterior = posterior_of("diag", [model], x)
    # The values of a hidden dense layer share none of their weights, nor do those of two data.
    expected = linearised.variance(posterior, model, tf.constant(x))
    found = variance_propagation.variance(posterior, model, tf.constant(x))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def jacobian_of(layer, a):
    with tf.GradientTape() as tape:
        tape.watch(a)
        y = layer(a)
    return np.einsum("bijkblmn->bijklmn", tape.jacobian(y, a))


@pytest.mark.parametrize("make", [
    lambda: L.MaxPooling2D(2), lambda: L.MaxPooling2D(3, strides=1), lambda: L.AveragePooling2D(2),
    lambda: L.AveragePooling2D(3, strides=2, padding="same"), lambda: L.UpSampling2D(2),
    lambda: L.UpSampling2D(3, interpolation="bilinear"), lambda: L.ZeroPadding2D(1), lambda: L.Cropping2D(1),
    lambda: L.Activation("tanh"), lambda: L.Permute((3, 1, 2)),
])
def test_variances_go_through_layers_without_weights_by_squared_derivatives(make):
    first, layer = L.Conv2D(2, 1), make()
    model = reference.sequential((4, 5, 2), first, layer)
    x = tf.constant(reference.data(model, 2))
    posterior = posterior_of("diag", [model], x)
    v = variance_propagation.variance(posterior, reference_part(model, first), x)
    expected = np.einsum("bijklmn,blmn->bijk", jacobian_of(layer, first(x)) ** 2, v)
    # TensorFlow interpolates in single precision.
    rtol = 1e-6 if isinstance(layer, L.UpSampling2D) else 1e-8
    np.testing.assert_allclose(variance_propagation.variance(posterior, model, x), expected, rtol=rtol, atol=1e-14)


def reference_part(model, *layers):
    return keras.Sequential([keras.Input(model.input_shape[1:], dtype="float64"), *layers])


def test_skips_add_the_variances_of_their_branches():
    inputs = keras.Input((3,), dtype="float64")
    dense = L.Dense(3)
    for merge in (L.Add(), L.Concatenate()):
        model = reference.randomised(keras.Model(inputs, merge([inputs, dense(inputs)])))
        x = tf.constant(reference.data(model, 2))
        posterior = posterior_of("diag", [model], x)
        found = variance_propagation.variance(posterior, model, x)
        np.testing.assert_allclose(found, linearised.variance(posterior, model, x), rtol=1e-9)


def test_prediction_in_one_pass():
    models = conv_pair()
    x = tf.constant(reference.data(models, 3))
    posterior = posterior_of("kron", models, x)
    exact = linearised.predict(posterior, models, x, output="exact")
    np.testing.assert_allclose(exact["mean"], models[1](models[0](x)), rtol=1e-12)
    np.testing.assert_allclose(exact["latent_mean"], models[0](x), rtol=1e-12)
    assert exact["latent_covariance"].shape == (3, 2, 2) and exact["variance"].shape == (3, 4, 4, 1)
    noisy = linearised.predict(posterior, models, x, output="exact", noise=True)
    np.testing.assert_allclose(noisy["variance"] - exact["variance"], 0.3, rtol=1e-6)
    with pytest.raises(UserError, match="allowed: exact, diagonal"):
        linearised.predict(posterior, models, x, output="best")


def test_what_does_not_fit_is_refused():
    models = dense_pair()
    x = tf.constant(reference.data(models, 3))
    posterior = posterior_of("block", models, x)
    with pytest.raises(UserError, match="first ones"):
        linearised.covariance(posterior, models[1], x)
    with pytest.raises(UserError, match="MiB"):
        linearised.covariance(posterior, models[0], x, memory=1e-5)
    model = reference.sequential((3,), L.Dense(3), L.Softmax())
    with pytest.raises(UserError, match="Softmax"):
        variance_propagation.variance(posteriors.build("diag", model), model, tf.zeros((1, 3), tf.float64))


@pytest.mark.parametrize("structure", ["diag", "block", "kron", "low_rank", "last_layer"])
def test_data_of_single_precision_are_those_of_the_network(structure):
    model = dense_pair()[1]
    x = reference.data(model).astype(np.float32)
    posterior = posterior_of(structure, [model], x.astype(np.float64))
    for output in ("exact", "diagonal"):
        found = linearised.predict(posterior, model, x, output)["variance"]
        assert found.dtype == tf.float64
        same = linearised.predict(posterior, model, x.astype(np.float64), output)["variance"]
        np.testing.assert_array_equal(found, same)


@pytest.mark.parametrize("structure", some(["diag", "kron", "block", "low_rank"], ["kron", "low_rank"]))
@pytest.mark.parametrize("name", ["shared_line", "shared_convolution", "crossing", "residual"])
def test_covariances_of_networks_with_shared_layers_and_branches(structure, name):
    model = reference.NETWORKS[name]()
    x = reference.data(model, 2)
    posterior = posterior_of(structure, [model], x)
    jacobian, _ = reference.jacobians(model, x)
    expected = np.einsum("bip,pq,bjq->bij", jacobian, covariance_of_weights(posterior), jacobian)
    found = linearised.covariance(posterior, model, tf.constant(x))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)


def test_variances_go_through_branches_that_cross():
    inputs = keras.Input((3,), dtype="float64")
    b = L.Dense(3)(inputs)
    c = L.Add()([inputs, b])
    model = reference.randomised(keras.Model(inputs, L.Average()([L.Multiply()([b, c]), b])))
    x = reference.data(model, 2)
    posterior = posterior_of("diag", [model], x)
    spread = posterior.variance_diag().numpy()
    hidden = x**2 @ spread[:9].reshape(3, 3) + spread[9:]
    b = x @ model.trainable_weights[0].numpy() + model.trainable_weights[1].numpy()
    expected = (hidden * (x + b) ** 2 + hidden * b**2 + hidden) / 4
    np.testing.assert_allclose(variance_propagation.variance(posterior, model, x), expected, rtol=1e-9)
