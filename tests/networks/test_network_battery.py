"""One battery for every kind of network, on small widths."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import some

from pae_zoo import networks

LATENT = 5
SMALL = dict(
    hidden_units=(16, 8), num_filters=4, dense_size=16, num_layers=2, base_dim=4, num_scale=2, fc_dim=16,
    filters=(4, 6), dilations=(1, 2))
SERIES = [(9, 2), (1, 3), (8, 1)]
IMAGES = [(28, 28, 1), (32, 32, 3), (8, 8, 1), (9, 14, 2)]
FLAT_KINDS = ("mlp", "vlae", "vae10", "fully_connected", "resnet_fc")
LAE_KINDS = (
    "lae_mnist", "lae_fashion_mnist", "lae_cifar10", "lae_cifar10_baseline", "lae_svhn", "lae_svhn_baseline",
    "lae_celeb_a",
)  # fmt: skip
SERIES_KINDS = ("conv1d", "tcn")
COLUMNS = ("real", "count", "category:4", "binary", "real")
IMAGE_KINDS = ("conv", "infogan", "resnet_conv", *LAE_KINDS)
# The LAE's networks are of the same layers and have fixed widths, up to millions of weights: one stands for all here,
# and test_lae_networks.py looks at each.
TESTED = [kind for kind in networks.KINDS if kind not in LAE_KINDS[1:]]
OF_IMAGES = [kind for kind in TESTED if kind not in (*SERIES_KINDS, "tabular")]
CASES = [(kind, shape) for kind in OF_IMAGES for shape in IMAGES[2 * (kind in LAE_KINDS) :]]
CASES += [(kind, shape) for kind in (*SERIES_KINDS, "mlp", "resnet_fc") for shape in SERIES]
CASES += [(kind, (7,)) for kind in FLAT_KINDS]
CASES += [("conv", (17, 23, 3)), ("resnet_conv", (17, 23, 3)), ("tabular", (8,)), ("tabular", (3,))]
kinds = pytest.mark.parametrize("kind", some(TESTED, ["mlp", "conv", "lae_mnist"]))


def shape_for(kind, channels=1):
    if kind == "tabular":
        return (8,)
    return (8, channels) if kind in SERIES_KINDS else (8, 8, channels)


def build(kind, shape=None, seed=0, output="linear", channels_factor=1, **options):
    options, shape = {**SMALL, **options}, shape or shape_for(kind)
    if kind == "tabular" and shape == (8,):
        options["column_kinds"] = COLUMNS
    encoder = networks.build_encoder(kind, shape, LATENT, seed=seed, **options)
    decoder = networks.build_decoder(
        kind, shape, LATENT, seed=seed, output=output, channels_factor=channels_factor, **options)
    return encoder, decoder


def data(shape, count=4):
    return np.random.default_rng(0).random((count, *shape), np.float32) - 0.5


def num_trainable(*models):
    return sum(int(np.prod(weight.shape)) for model in models for weight in model.trainable_weights)


def test_every_kind_is_in_the_battery():
    assert set(networks.KINDS) == set(FLAT_KINDS + IMAGE_KINDS + SERIES_KINDS + ("tabular",))
    assert set(networks.describe()) == set(networks.DEFAULT_OUTPUT) == set(networks.KINDS)


@pytest.mark.parametrize("kind, shape", some(
    CASES, [*((kind, (9, 14, 2)) for kind in OF_IMAGES), ("mlp", (7,)), ("tabular", (8,)),
            *((kind, (9, 2)) for kind in SERIES_KINDS)]))
def test_shapes_and_range(kind, shape):
    encoder, decoder = build(kind, shape, output="sigmoid_centred")
    assert networks.check_pair(encoder, decoder) == (shape, LATENT)
    for batch in (1, 3, 64):
        codes = encoder(data(shape, batch))
        assert codes.shape == (batch, 2 * LATENT)
        image = decoder(codes[:, :LATENT])
        assert image.shape == (batch, *shape)
        assert np.all(np.abs(image) <= 0.5)


@kinds
def test_two_halves_and_code_only(kind):
    shape = shape_for(kind, 3)
    _, decoder = build(kind, shape, output="sigmoid", channels_factor=2)
    output = decoder(1e3 * data((LATENT,)))
    assert output.shape == (4, *shape[:-1], 2 * shape[-1])
    mean, raw = np.split(output, 2, axis=-1)
    assert mean.min() >= 0 and mean.max() <= 1
    assert raw.min() < 0 or raw.max() > 1
    encoder = networks.build_encoder(kind, shape, LATENT, deterministic=True, **SMALL)
    assert encoder(data(shape)).shape == (4, LATENT)


@kinds
def test_inference_depends_on_the_datum_alone(kind):
    encoder, _ = build(kind, dropout_rate=0.5)
    x = data(shape_for(kind), 6)
    first = encoder(x).numpy()
    encoder(data(shape_for(kind), 64))
    np.testing.assert_array_equal(encoder(x), first)
    np.testing.assert_allclose(encoder(x[2:3])[0], first[2], rtol=1e-5, atol=1e-6)


@kinds
def test_gradient_reaches_every_weight(kind):
    encoder, decoder = build(kind, dropout_rate=0.2, output="sigmoid", channels_factor=2)
    with tf.GradientTape() as tape:
        codes = encoder(data(shape_for(kind), 16), training=True)
        loss = tf.reduce_sum(decoder(codes[:, :LATENT], training=True) ** 2) + tf.reduce_sum(codes**2)
    weights = encoder.trainable_weights + decoder.trainable_weights
    for weight, gradient in zip(weights, tape.gradient(loss, [w.value for w in weights])):
        assert gradient is not None and np.any(gradient), weight.path


@pytest.mark.parametrize("kind", some(TESTED, ["mlp"]))
def test_xla_equals_eager(kind):
    x = data(shape_for(kind))
    results = []
    for compiled in (False, True):
        encoder, decoder = build(kind, dropout_rate=0.3)

        def autoencode(x, encoder=encoder, decoder=decoder):
            return decoder(encoder(x, training=True)[:, :LATENT], training=True)

        run = tf.function(autoencode, jit_compile=True) if compiled else autoencode
        results.append([run(x), run(x)])
    for eager, xla in zip(*results):
        np.testing.assert_allclose(eager, xla, rtol=1e-4, atol=1e-5)
    assert np.any(results[0][0] != results[0][1])


@pytest.mark.parametrize("kind, batch_norm", some(
    [*((kind, "affine") for kind in TESTED), *((kind, "batch") for kind in ("infogan", "conv", "resnet_conv"))],
    [("mlp", "affine"), ("conv", "batch")]))
def test_saved_networks_return_whole(kind, batch_norm, tmp_path):
    for index, model in enumerate(build(kind, dropout_rate=0.3, batch_norm=batch_norm)):
        x = data(model.input_shape[1:])
        model(x, training=True)
        path = str(tmp_path / f"{index}.keras")
        model.save(path)
        loaded = keras.saving.load_model(path)
        names = [[w.path.split("/")[-2:] for w in m.weights] for m in (model, loaded)]
        assert names[0] == names[1]
        for before, after in zip(model.weights, loaded.weights):
            np.testing.assert_array_equal(before, after)
        np.testing.assert_array_equal(model(x), loaded(x))
        np.testing.assert_array_equal(model(x, training=True), loaded(x, training=True))
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
        assert again.get_config() == model.get_config()
        again.set_weights(model.get_weights())
        np.testing.assert_array_equal(model(x), again(x))


@kinds
def test_seed_fixes_the_initial_weights(kind):
    pair = build(kind, dropout_rate=0.1)
    paths = [weight.path for model in pair for weight in model.weights]
    assert len(paths) == len(set(paths))
    first, same, other = (sum((m.get_weights() for m in build(kind, seed=s)), []) for s in (3, 3, 4))
    random = [i for i, weight in enumerate(first) if np.size(weight) > 1 and np.std(weight) > 0]
    assert random
    for index, weight in enumerate(first):
        np.testing.assert_array_equal(weight, same[index])
    assert all(np.any(first[index] != other[index]) for index in random)
    shapes = {}
    for index in random:
        shapes.setdefault(first[index].shape, []).append(index)
    for indices in shapes.values():
        for a, b in zip(indices, indices[1:]):
            assert np.any(first[a] != first[b]), "two layers share their initial weights"


def dense(*sizes):
    return sum(i * o + o for i, o in zip(sizes, sizes[1:]))


def conv(size, channels_in, channels_out, bias=True):
    return size * size * channels_in * channels_out + bias * channels_out


def test_counts_of_dense_networks():
    def count(kind, **options):
        pair = (make(kind, (28, 28, 1), 32, **options) for make in (
            networks.build_encoder, networks.build_decoder))
        return [num_trainable(model) for model in pair]

    assert count("mlp", hidden_units=(30, 20)) == [dense(784, 30, 20, 64), dense(32, 20, 30, 784)]
    assert count("vae10") == [dense(784, 256, 64, 64), dense(32, 64, 256, 256, 1024, 784)]
    assert count("fully_connected") == [dense(784, 512, 256, 128, 64), dense(32, 128, 256, 512, 784)]
    blocks = 4 * dense(256, 256, 256)
    assert count("resnet_fc") == [
        dense(784, 256) + blocks + dense(256, 64), dense(32, 256) + blocks + dense(256, 784)]


def test_count_of_vlae():
    pair = [
        make("vlae", (28, 28, 1), 50, hidden_units=(500, 500))
        for make in (networks.build_encoder, networks.build_decoder)
    ]
    # Published with the likelihood's scalar: 1,361,885.
    assert num_trainable(*pair) == 1_361_884


@pytest.mark.parametrize("batch_norm, expected", [("affine", 13_233_217), ("none", 13_216_193)])
def test_count_of_infogan(batch_norm, expected):
    pair = [
        make("infogan", (28, 28, 1), 32, batch_norm=batch_norm)
        for make in (networks.build_encoder, networks.build_decoder)
    ]
    assert num_trainable(*pair) == expected
    assert pair[0].count_params() - num_trainable(pair[0]) == 64 + 128 + 1024 + 64


@pytest.mark.parametrize("side, channels, levels", [(28, 1, 2), (32, 3, 2), (64, 3, 3)])
def test_counts_of_conv(side, channels, levels):
    f, coarse = 8, side // 2**levels
    widths, sizes = [f, 2 * f, 4 * f][:levels], [5, 3, 5][:levels]
    encoder = sum(
        conv(size, i, o, bias=False) + 2 * o for size, i, o in zip(sizes, [channels, *widths], widths))
    encoder += dense(coarse**2 * widths[-1], 64)
    ups = [4 * f, *reversed(widths)]
    decoder = dense(32, coarse**2 * 4 * f) + conv(4, f, channels)
    decoder += sum(
        conv(size, i, o, bias=False) + 2 * o for size, i, o in zip(reversed(sizes), ups, ups[1:]))
    for make, expected in ((networks.build_encoder, encoder), (networks.build_decoder, decoder)):
        assert num_trainable(make("conv", (side, side, channels), 32, num_filters=f)) == expected


@pytest.mark.parametrize("side", some([28, 32], [28]))
def test_counts_of_resnet_conv(side):
    def block(i, o, depth=2):
        return sum(2 * c + conv(3, c, o) for c in (i, *[o] * (depth - 1))) + conv(3, i, o)

    channels = [4, 8, 16]
    encoder = conv(3, 1, 4) + sum(block(c, c) for c in channels) + conv(3, 4, 8) + conv(3, 8, 16)
    encoder += dense(16, 20, 20) + dense(16, 20) + dense(20, 64)
    ups = [64, 32, 16, 8, 4]
    decoder = dense(32, 2 * 2 * 64) + conv(3, 4, 1)
    decoder += sum(conv(3, i, o) + block(o, o) for i, o in zip(ups, ups[1:]))
    for make, expected in ((networks.build_encoder, encoder), (networks.build_decoder, decoder)):
        model = make("resnet_conv", (side, side, 1), 32, base_dim=4, num_scale=3, fc_dim=20)
        assert num_trainable(model) == expected


def test_counts_of_series():
    def line(size, channels_in, channels_out):
        return size * channels_in * channels_out + channels_out

    for make, ends in ((networks.build_encoder, [line(1, 3, 4), dense(3 * 4, 64)]),
                       (networks.build_decoder, [dense(32, 3 * 4), line(1, 4, 3)])):
        model = make("tcn", (9, 3), 32, num_filters=4, dilations=(1, 4), kernel_size=5)
        assert num_trainable(model) == sum(ends) + line(4, 4, 4) + 4 * line(5, 4, 4)
    for make, ends in ((networks.build_encoder, [line(3, 3, 4), line(3, 4, 6), dense(3 * 6, 64)]),
                       (networks.build_decoder, [dense(32, 3 * 6), line(3, 6, 6), line(3, 6, 4), line(3, 4, 3)])):
        assert num_trainable(make("conv1d", (9, 3), 32, filters=(4, 6))) == sum(ends)


@pytest.mark.parametrize("causal", [True, False])
def test_what_a_dilated_convolution_sees(causal):
    """A step's features are a function of that step, those before it, and, unless causal, those after it."""
    encoder = networks.build_encoder(
        "tcn", (30, 1), LATENT, num_filters=3, dilations=(1, 3), kernel_size=3, causal=causal, activation="softplus")
    features = keras.Sequential(encoder.layers[:3])  # to the last block
    x = tf.constant(data((30, 1), 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(features(x)[:, 18])
    seen = np.flatnonzero(tape.gradient(value, x)[0, :, 0])
    reach = 2 * (1 + 3) if not causal else 2 * 2 * (1 + 3)
    expected = np.arange(18 - reach, 19 if causal else 18 + reach + 1)
    np.testing.assert_array_equal(seen, expected)


def test_categories_have_vectors():
    """Each category's vector is its row; counts come as log(1 + y); categories that training lacks are 0."""
    encoder, _ = build("tabular", (8,), embedding_size=3)
    layer = encoder.layers[0]
    y = np.array([[1.5, 9.0, 0, 1, 0, 0, 1, -2], [0.5, 0.0, 0, 0, 0, 0, 0, 7]], np.float32)
    vectors = layer.vectors[0].numpy()
    expected = [[1.5, -2, 1, np.log(10), *vectors[1]], [0.5, 7, 0, 0, 0, 0, 0]]
    np.testing.assert_allclose(layer(y), expected, rtol=1e-5)
    assert layer.compute_output_shape((None, 8)) == (None, 7) and vectors.shape == (4, 3)
    width, units = 128, 2 * LATENT
    blocks = 3 * dense(width, 2 * width, width)
    assert num_trainable(encoder) == 12 + dense(7, width) + blocks + dense(width, units)


def test_vlae_initial_weights():
    for init, scale in (("default", 1.5874), ("upstream", 0.77298)):
        model = networks.build_encoder("vlae", (784,), 50, hidden_units=(500, 500), init=init)
        for layer in (layer for layer in model.layers if layer.weights):
            fan_in, fan_out = layer.kernel.shape
            bound = np.sqrt(3 * scale / fan_out)
            assert 0.99 * bound < np.abs(layer.kernel).max() <= bound * (1 + 1e-5)
            assert np.std(layer.kernel) == pytest.approx(bound / np.sqrt(3), rel=0.02)
            assert 0.9 * fan_in**-0.5 < np.abs(layer.bias).max() <= fan_in**-0.5


@pytest.mark.parametrize("kind, shape", [("mlp", (784,)), ("conv", (32, 32, 3))])
def test_initial_weights_of_pytorch(kind, shape):
    options = dict(hidden_units=(200, 100)) if kind == "mlp" else dict(batch_norm="none", conv_bias=True)
    one, same, other = (networks.build_decoder(kind, shape, 20, torch_init=True, seed=seed, **options)
                        for seed in (1, 1, 2))  # fmt: skip
    for mine, theirs, others in zip(*(model.layers for model in (one, same, other))):
        if not mine.weights:
            continue
        bound = np.sqrt(mine.kernel.shape[-1] / np.prod(mine.kernel.shape))
        for weight in mine.weights:
            assert np.abs(weight).max() <= bound
        assert np.std(mine.kernel) == pytest.approx(bound / np.sqrt(3), rel=0.1) and np.abs(mine.bias).max() > 0
        np.testing.assert_array_equal(mine.kernel, theirs.kernel)
        assert np.any(np.asarray(mine.kernel) != np.asarray(others.kernel))


def test_infogan_initial_weights():
    encoder, decoder = build("infogan", (28, 28, 1))
    for layer in (*encoder.layers, *decoder.layers):
        wrapped = getattr(layer, "layer", layer)
        if hasattr(wrapped, "kernel"):
            # A normal cut at two standard deviations has 0.88 of its width.
            cut = 0.8796 if type(wrapped) is keras.layers.Conv2D else 1.0
            assert np.std(wrapped.kernel) == pytest.approx(0.02 * cut, rel=0.05), layer.name
            assert not np.any(wrapped.bias)


def test_upstream_outputs():
    assert networks.DEFAULT_OUTPUT == {
        "mlp": "linear", "vlae": "linear", "vae10": "sigmoid", "fully_connected": "linear", "conv": "linear",
        "infogan": "sigmoid", "resnet_fc": "linear", "resnet_conv": "sigmoid", "conv1d": "linear", "tcn": "linear",
        "tabular": "linear", **dict.fromkeys(LAE_KINDS, "linear"),
    }


@kinds
def test_last_layer_is_full_precision_under_a_mixed_policy(kind):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder, decoder = build(kind, dropout_rate=0.1, output="sigmoid_centred")
        codes = encoder(data(shape_for(kind)), training=True)
        image = decoder(codes[:, :LATENT])
    finally:
        keras.config.set_dtype_policy("float32")
    assert codes.dtype == image.dtype == tf.float32
    assert np.all(np.isfinite(image))


@pytest.mark.parametrize("kind", IMAGE_KINDS)
@pytest.mark.parametrize("shape, what", [((7,), "takes images"), ((3, 8, 1), "at least 4x4")])
def test_image_networks_refuse(kind, shape, what):
    for make in (networks.build_encoder, networks.build_decoder):
        with pytest.raises(ValueError, match=what):
            make(kind, shape, LATENT)


@pytest.mark.parametrize(
    "arguments, what",
    [
        (dict(kind="mpl"), "allowed: mlp"),
        (dict(event_shape=(8, 8, 1, 1)), "vector"), (dict(kind="conv", event_shape=(8, 8)), "conv1d or tcn"),
        (dict(kind="tcn"), "windows"), (dict(kind="tabular"), "vectors"),
        (dict(kind="tabular", event_shape=(3,), column_kinds=("real",)), "names 1 values"),
        (dict(kind="conv1d", event_shape=(8,)), "--window"),
        (dict(event_shape=(8, 0, 1)), "vector"),
        (dict(latent_dim=0), "latent_dim=0"),
        (dict(latent_dim=2.5), "latent_dim=2.5"),
        (dict(activation="rleu"), "rleu"),
        (dict(hidden_units=(16, 0)), "hidden_units"),
        (dict(hidden_units=(16, 2.5)), "hidden_units"),
        (dict(batch_norm="yes"), "affine, batch, none"),
        (dict(dropout_rate=1.0), "at least 0.0 and at most 0.95"),
        (dict(dropout_rate="half"), "not a number"),
        (dict(width=3), "network option='width' is unknown; allowed: "),
    ],
)
def test_bad_options_are_told(arguments, what):
    arguments = {"kind": "mlp", "event_shape": (8, 8, 1), "latent_dim": LATENT, **arguments}
    with pytest.raises(ValueError, match=what):
        networks.build_encoder(**arguments)


def test_bad_outputs_are_told():
    with pytest.raises(ValueError, match="linear, sigmoid, sigmoid_centred"):
        networks.build_decoder("mlp", (8,), 2, output="softmax")
    with pytest.raises(ValueError, match="channels_factor=3"):
        networks.build_decoder("mlp", (8,), 2, channels_factor=3)


@pytest.mark.full
def test_the_documented_counts():
    documented = {}
    for line in (pathlib.Path(__file__).parents[2] / "docs" / "reference" / "networks.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 8 and cells[1].strip("`") in networks.KINDS:
            documented[cells[1].strip("`")] = [int(n.replace(",", "")) for n in cells[6].split("+")], cells[5]
    built = {}
    for kind in networks.KINDS:
        shape = (32, 3) if kind in SERIES_KINDS else (20,) if kind == "tabular" else (28, 28, 1)
        pair = (make(kind, shape, 32) for make in (networks.build_encoder, networks.build_decoder))
        built[kind] = [num_trainable(model) for model in pair], networks.DEFAULT_OUTPUT[kind]
    assert documented == built
