"""The Gauss-Newton matrix written out, from the Jacobian of the whole network, and tiny networks to try it on."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.networks import layers as zoo_layers
from pae_zoo.networks import tabular

L = keras.layers


@contextlib.contextmanager
def double_precision():
    """Inside, layers and inputs are made in float64."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def sequential(shape, *layers, seed=0):
    """A built chain of layers with random weights in float64."""
    return randomised(keras.Sequential([keras.Input(shape, dtype="float64"), *layers]), seed)


def randomised(model, seed=0):
    """Gives every weight a random value, variances positive ones."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if not tf.as_dtype(variable.dtype).is_floating:
            continue
        fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 4
        value = rng.normal(size=variable.shape) / np.sqrt(fan_in) * 1.5
        variable.assign(0.5 + np.abs(value) if "variance" in variable.path else value)
    return model


def data(model, num=3, seed=1):
    """Random inputs (num, *event) of a model, or of the first of a sequence."""
    first = model[0] if isinstance(model, (list, tuple)) else model
    return np.random.default_rng(seed).normal(size=(num, *first.input_shape[1:]))


def jacobians(models, x):
    """Returns J (B, n, P) of the models applied in turn by all their trainable weights, and the output (B, *event)."""
    models = models if isinstance(models, (list, tuple)) else [models]
    weights = [weight.value for model in models for weight in model.trainable_weights]
    with tf.GradientTape(persistent=True) as tape:
        y = tf.convert_to_tensor(x)
        for model in models:
            y = model(y, training=False)
    num, size = y.shape[0], int(np.prod(y.shape[1:]))
    rows = []
    for index in range(num * size):
        unit = tf.reshape(tf.one_hot(index, num * size, dtype=y.dtype), y.shape)
        found = tape.gradient(y, weights, output_gradients=unit, unconnected_gradients="zero")
        rows.append(np.concatenate([np.ravel(one) for one in found]))
    return np.reshape(rows, (num, size, -1)), y.numpy()


def output_hessian(likelihood, output):
    """Returns H (B, n, n) of a likelihood by name."""
    num, size = len(output), output[0].size
    flat = output.reshape(num, size)
    if likelihood == "gaussian":
        return np.tile(np.eye(size), (num, 1, 1))
    if likelihood == "bernoulli":
        p = 1 / (1 + np.exp(-flat))
        return np.stack([np.diag(one * (1 - one)) for one in p])
    if likelihood != "categorical":
        raise ValueError(likelihood)
    p = np.exp(output - output.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True)).reshape(num, -1, output.shape[-1])
    hessian = np.zeros((num, size, size))
    for b in range(num):
        for position, one in enumerate(p[b]):
            here = slice(position * len(one), (position + 1) * len(one))
            hessian[b, here, here] = np.diag(one) - np.outer(one, one)
    return hessian


def per_datum(models, x, likelihood="gaussian", hessian=None):
    """Returns J_n^T H_n J_n (B, P, P)."""
    jacobian, output = jacobians(models, x)
    hessian = output_hessian(likelihood, output) if hessian is None else hessian
    return np.einsum("bip,bij,bjq->bpq", jacobian, hessian, jacobian)


def gauss_newton(models, x, likelihood="gaussian", hessian=None):
    """Returns G = sum_n J_n^T H_n J_n (P, P)."""
    return per_datum(models, x, likelihood, hessian).sum(0)


def dense_autoencoder(activation="tanh", widths=(5, 4, 2, 4, 6), size=6):
    """A chain of dense layers with a bottleneck."""
    layers = [L.Dense(width, activation=activation if width != 2 else None) for width in widths[:-1]]
    return sequential((size,), *layers, L.Dense(widths[-1]))


def _image(*layers, shape=(5, 6, 2), tail=True):
    return sequential(shape, *layers, *([L.Flatten(), L.Dense(3)] if tail else []))


def _line(*layers, shape=(7, 3)):
    return sequential(shape, *layers, L.Flatten(), L.Dense(3))


def _skip(merge, activation="tanh"):
    inputs = keras.Input((4,), dtype="float64")
    h = L.Dense(5, activation=activation)(inputs)
    branch = L.Dense(5)(L.Dense(3, activation=activation)(h))
    return randomised(keras.Model(inputs, L.Dense(3)(L.Activation("tanh")(merge([h, branch])))))


def _dense_net():
    inputs = keras.Input((4, 4, 2), dtype="float64")
    h = L.Conv2D(3, 3, padding="same", activation="relu")(inputs)
    h = L.Concatenate()([h, L.Conv2D(2, 3, padding="same", activation="tanh")(h)])
    return randomised(keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(h))))


#: {name: function that makes a network}: every layer that the curvature knows, in lines
LINES = {
    **{
        f"dense_{'_'.join(names)}": lambda names=names: sequential(
            (4,), *[L.Dense(4, activation=name) for name in names], L.Dense(3))
        for names in (
            ("tanh", "relu", "sigmoid", "softplus", "elu"),
            ("gelu", "silu", "selu", "leaky_relu", "mish"),
            ("softsign", "celu", "hard_sigmoid", "softmax", "log_softmax"),
        )
    },
    "dense_no_bias": lambda: sequential((4,), L.Dense(3, use_bias=False), L.Activation("tanh"), L.Dense(2)),
    "embedded_columns": lambda: sequential(
        (5,), tabular.ColumnEmbedding(("real", "category:3", "count"), 2), L.Dense(3, activation="tanh"), L.Dense(2)),
    "dense_on_three_axes": lambda: _line(L.Dense(4, activation="tanh"), L.Dense(2)),
    "elementwise_layers": lambda: sequential(
        (4,), L.Dense(4), L.ReLU(negative_slope=0.1, threshold=0.05), L.Dense(4), L.LeakyReLU(), L.Dense(4), L.ELU(),
        L.Dense(4), L.Rescaling(0.7, 0.1), zoo_layers.MeanSigmoid(0.2), L.Softmax(), L.Dense(3)),
    "prelu": lambda: _image(L.Conv2D(3, 3), L.PReLU(shared_axes=[1, 2]), L.Conv2D(2, 2), L.PReLU()),
    "noise": lambda: sequential(
        (4,), L.Dropout(0.3), L.Dense(4), zoo_layers.Dropout(0.3), L.GaussianNoise(1.0), L.GaussianDropout(0.2),
        L.AlphaDropout(0.1), L.Dense(3)),
    "conv2d_same": lambda: _image(L.Conv2D(3, 3, padding="same", activation="tanh"), L.Conv2D(2, (2, 3)), tail=False),
    "conv2d_strided": lambda: _image(
        L.Conv2D(3, 3, strides=2, padding="same", activation="tanh"), L.Conv2D(2, 2, use_bias=False)),
    "conv2d_strided_valid": lambda: _image(L.Conv2D(3, 2, strides=(2, 1), activation="tanh")),
    "conv2d_dilated": lambda: _image(
        L.Conv2D(3, 2, padding="same", activation="tanh"), L.Conv2D(3, 2, dilation_rate=2, activation="tanh")),
    "conv1d": lambda: _line(
        L.Conv1D(3, 2, padding="causal", activation="tanh"), L.Conv1D(3, 3, strides=2, padding="same"), L.Conv1D(2, 2)),
    "transposed": lambda: _image(
        L.Conv2DTranspose(3, 3, strides=2, padding="same", activation="tanh"),
        L.Conv2DTranspose(2, 2, activation="tanh"), shape=(2, 3, 2)),
    "transposed_valid": lambda: _image(
        L.Conv2DTranspose(2, (2, 3), strides=(3, 2), activation="tanh"), L.Conv2DTranspose(1, 2, use_bias=False),
        shape=(2, 2, 2)),
    "transposed_1d": lambda: _line(
        L.Conv1DTranspose(2, 3, strides=2, padding="same", activation="tanh"), L.Conv1DTranspose(2, 2), shape=(3, 2)),
    "transposed_output_padding": lambda: _image(
        L.Conv2DTranspose(2, 3, strides=2, padding="same", output_padding=1), shape=(2, 2, 2)),
    "upsampling": lambda: _image(
        L.Conv2D(2, 2, activation="tanh"), L.UpSampling2D(2), L.Conv2D(2, 2, activation="tanh"),
        L.UpSampling2D(2, interpolation="bilinear"), L.Conv2D(2, 2, strides=2), shape=(3, 3, 1)),
    "max_pooling": lambda: _image(
        L.Conv2D(2, 2, activation="tanh"), L.MaxPooling2D(2), L.Conv2D(2, 2, padding="same"),
        L.MaxPooling2D(2, strides=1), L.GlobalMaxPooling2D(), shape=(7, 7, 1)),
    "average_pooling": lambda: _image(
        L.Conv2D(2, 2, activation="tanh"), L.AveragePooling2D(2), L.Conv2D(2, 2, padding="same"),
        L.AveragePooling2D(3, strides=1, padding="same"), L.GlobalAveragePooling2D(), shape=(7, 7, 1)),
    "pooling_1d": lambda: _line(
        L.Conv1D(3, 2), L.MaxPooling1D(2, strides=1), L.Conv1D(2, 2), L.AveragePooling1D(2), L.UpSampling1D(2)),
    "shapes": lambda: _image(
        L.ZeroPadding2D(((1, 0), (0, 2))), L.Conv2D(2, 3, activation="tanh"), L.Cropping2D(((0, 1), (1, 0))),
        L.Permute((3, 1, 2)), L.Reshape((-1, 2)), L.Dense(2, activation="tanh"), L.ZeroPadding1D(1),
        L.Cropping1D((1, 0))),
    "batch_norm": lambda: _image(
        L.Conv2D(3, 2, use_bias=False), L.BatchNormalization(), L.Activation("relu"), L.Conv2D(2, 2),
        L.BatchNormalization(axis=1, scale=False)),
    "layer_norm": lambda: _image(
        L.Conv2D(3, 2), L.LayerNormalization(), L.Activation("tanh"), L.LayerNormalization(axis=[1, 2], center=False)),
    "unit_norm": lambda: sequential((4,), L.Dense(4, activation="tanh"), L.UnitNormalization(), L.Dense(3)),
    "affine": lambda: _image(L.Conv2D(3, 2), zoo_layers.Affine(), L.Activation("tanh")),
    "spectral": lambda: _image(
        zoo_layers.SpectralNorm(L.Conv2D(3, 2, strides=2, activation="tanh")), L.Flatten(),
        zoo_layers.SpectralNorm(L.Dense(4, activation="relu", use_bias=False))),
    "spectral_transposed": lambda: _image(
        zoo_layers.SpectralNorm(L.Conv2DTranspose(2, 3, strides=2, padding="same", activation="tanh")),
        L.Conv2D(2, 2, strides=2), shape=(2, 3, 2)),
    "spectral_keras": lambda: sequential((4,), L.SpectralNormalization(L.Dense(5, activation="tanh")), L.Dense(3)),
    "spectral_keras_transposed": lambda: _image(
        L.SpectralNormalization(L.Conv2D(2, 2, activation="tanh")),
        L.SpectralNormalization(L.Conv2DTranspose(2, 3, strides=2, padding="same", activation="tanh")),
        shape=(3, 3, 1)),
    "classifier": lambda: _image(
        L.Conv2D(3, 2), L.BatchNormalization(), L.ReLU(), L.Dropout(0.3), L.MaxPooling2D(2), L.SpatialDropout2D(0.2),
        L.Conv2D(2, 2, padding="same"), L.BatchNormalization(), L.Activation("relu"), L.GlobalAveragePooling2D(),
        L.BatchNormalization(), L.Dropout(0.5), L.Dense(3), tail=False),
    "by_autodiff": lambda: _image(
        L.DepthwiseConv2D(2, depth_multiplier=2, activation="tanh"), L.SeparableConv2D(2, 2, activation="tanh")),
    "conv3d": lambda: _image(L.Conv3D(2, 2, activation="tanh"), shape=(2, 3, 3, 1)),
}
#: networks with branches, of layers that are used once
BRANCHED = {
    "added": lambda: _skip(L.Add()),
    "concatenated": lambda: _skip(L.Concatenate()),
    "concatenated_images": _dense_net,
    "subtracted": lambda: _skip(L.Subtract()),
    "averaged": lambda: _skip(L.Average()),
    "multiplied": lambda: _skip(L.Multiply()),
    "largest": lambda: _skip(lambda pair: L.Minimum()([L.Maximum()(pair), pair[0]])),
    "operations": lambda: _skip(lambda pair: keras.ops.concatenate([pair[0] + pair[1], pair[0] * pair[1]], -1)),
    "residual": lambda: _residual(),
}
#: networks whose branches cross
CROSSING = {
    "crossing": lambda: _crossing(),
    "densely_connected": lambda: _densely_connected(),
    "crossing_model_inside": lambda: _crossing(inside=True),
}
#: networks with layers that are used several times, in a line, in branches, at a bottleneck, and where branches cross
SHARED = {
    "shared_line": lambda: _shared_line(),
    "shared_across_a_bottleneck": lambda: _shared_line(2),
    "shared_branches": lambda: _shared_branches(),
    "shared_convolution": lambda: _shared_convolution(),
    "shared_model": lambda: _shared_model(),
    "shared_crossing": lambda: _crossing(shared=True),
}
NETWORKS = {**LINES, **BRANCHED, **CROSSING, **SHARED}


def _functional(shape, network):
    inputs = keras.Input(shape, dtype="float64")
    return randomised(keras.Model(inputs, network(inputs)))


def _residual():
    """A residual network with squeezed channels, as image classifiers have it."""

    def network(x):
        h = L.ReLU()(L.BatchNormalization()(L.Conv2D(3, 2, padding="same")(x)))
        g = L.BatchNormalization()(L.Conv2D(3, 2, padding="same", activation="tanh")(h))
        weight = L.Dense(3, activation="sigmoid")(L.Reshape((1, 1, 3))(L.GlobalAveragePooling2D()(g)))
        h = L.ReLU()(L.Add()([h, L.Dropout(0.2)(L.Multiply()([g, weight]))]))
        return L.Dense(3)(L.Dropout(0.5)(L.GlobalAveragePooling2D()(h)))

    return _functional((4, 4, 1), network)


def _crossing(inside=False, shared=False):
    def network(x):
        a = L.Dense(4, activation="tanh")(x)
        layer = L.Dense(4, activation="tanh")
        b = (_skip_of(4) if inside else layer)(a)
        c = L.Add()([a, layer(b)]) if shared else L.Add()([a, b])
        d = L.Concatenate()([b, L.Activation("tanh")(c)])
        e = L.Subtract()([layer(L.Dense(4)(d)) if shared else L.Dense(4)(d), c])
        return L.Dense(3)(e)

    return _functional((3,), network)


def _skip_of(size):
    inputs = keras.Input((size,), dtype="float64")
    return keras.Model(inputs, L.Add()([L.Dense(size, activation="tanh")(inputs), inputs]))


def _densely_connected():
    def network(x):
        first = L.Conv2D(2, 2, padding="same", activation="tanh")(x)
        second = L.Conv2D(2, 2, padding="same", activation="tanh")(L.Concatenate()([x, first]))
        third = L.Conv2D(1, 2, padding="same")(L.Concatenate()([x, first, second]))
        return L.Dense(2)(L.Flatten()(L.Concatenate()([x, first, second, third])))

    return _functional((3, 3, 1), network)


def _shared_line(width=4):
    layer = L.Dense(4, activation="tanh")
    return sequential((4,), L.Dense(4), layer, L.Dense(width), L.Dense(4, activation="tanh"), layer, L.Dense(8))


def _shared_branches():
    def network(x):
        layer, activation = L.Dense(3), L.ReLU()
        h = activation(L.Dense(4)(x))
        return L.Dense(2)(L.Concatenate()([activation(layer(h)), layer(L.Dense(4)(h)), layer(h)]))

    return _functional((4,), network)


def _shared_convolution():
    layer = L.Conv2D(2, 2, padding="same", activation="tanh")
    norm = L.BatchNormalization()
    return sequential((4, 4, 2), layer, norm, L.MaxPooling2D(2), layer, norm, L.Flatten(), L.Dense(2))


def _shared_model():
    inner = _skip_of(4)
    return sequential((4,), inner, L.Activation("softplus"), inner, L.Dense(3))
