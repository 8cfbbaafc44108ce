"""The networks of the Laplacian autoencoders, against their published layers and counts."""

import keras
import numpy as np
import pytest

from pae_zoo import curvature, networks
from pae_zoo.curvature.rules.registry import rule_of

pytestmark = pytest.mark.usefixtures("zero_weights")

MNIST, CIFAR, CELEB_A = (28, 28, 1), (32, 32, 3), (64, 64, 3)
# kind, shape of a datum, latents, encoder, decoder, parameters of both: as published, T an activation.
NETWORKS = [
    ("lae_mnist", MNIST, 2, "C8 Pool T C12 Pool T C12 T Flatten 2", "588 Reshape T C12 Up T C8 Up T C1", 7_406),
    ("lae_fashion_mnist", MNIST, 2, "C64 T Pool C64 T Pool Flatten 2048 T 1024 T 2",
     "1024 T 2048 T 3136 T Reshape C64 Up T C64 Up T C1", 17_164_739),
    ("lae_cifar10", CIFAR, 128, "C64 T Pool C64 T Pool Flatten 2048 T 1024 T 1024 T 128",
     "1024 T 1024 T 2048 T 4096 T Reshape C64 Up T C64 Up T C3", 23_457_539),
    ("lae_cifar10_baseline", CIFAR, 128, "C16 T C32 Pool T C64 T C64 Pool T Flatten 128",
     "4096 Reshape T C64 Up T C32 Up T C16 T C3", 1_173_763),
    ("lae_svhn", CIFAR, 2, "C8 Pool T C12 Pool T C12 Pool T C12 T Flatten 2",
     "T 192 Reshape T C12 Up T C12 Up T C8 Up T C3", 8_306),
    ("lae_svhn_baseline", CIFAR, 2, "C12 Pool T C16 Pool T C24 Pool T C32 T Flatten 2",
     "T 512 Reshape T C24 Up T C16 Up T C12 Up T C3", 27_402),
    ("lae_celeb_a", CELEB_A, 128, "C128 T" + 6 * " C128 Pool T" + " Flatten",
     "Reshape" + 6 * " Up C128 T" + " C3", 4_936_067),
]  # fmt: skip
# The same, for networks that are dense: hidden units and parameters.
DENSE = [
    (MNIST, 2, (512, 256), 1_068_306),
    (MNIST, 2, (512, 256, 128), 1_133_586),
    (CIFAR, 2, (2048, 1024, 512), 17_838_082),
    ((2,), 2, (50,), 504),
]
KINDS = [row[0] for row in NETWORKS]


def pair(kind, shape, latent_dim, **options):
    encoder = networks.build_encoder(kind, shape, latent_dim, deterministic=True, activation="tanh", **options)
    return encoder, networks.build_decoder(kind, shape, latent_dim, activation="tanh", **options)


def words(model):
    """The layers of a network, in the notation of the table above."""
    names = {
        keras.layers.Conv2D: lambda layer: f"C{layer.filters}",
        keras.layers.Dense: lambda layer: str(layer.units),
        keras.layers.MaxPooling2D: lambda layer: "Pool",
        keras.layers.UpSampling2D: lambda layer: "Up",
        keras.layers.Activation: lambda layer: "T",
        networks.Dropout: lambda layer: "Drop",
    }
    found = [names.get(type(layer), lambda layer: type(layer).__name__)(layer) for layer in model.layers]
    return " ".join(found)


def num_weights(*models):
    return sum(model.count_params() for model in models)


@pytest.mark.parametrize("kind, shape, latent_dim, encoder, decoder, count", NETWORKS, ids=KINDS)
def test_published_layers_and_counts(kind, shape, latent_dim, encoder, decoder, count):
    built = pair(kind, shape, latent_dim)
    assert [words(model) for model in built] == [encoder, decoder]
    assert num_weights(*built) == count
    assert networks.check_pair(*built, deterministic=True) == (shape, latent_dim)
    for layer in (layer for model in built for layer in model.layers):
        if isinstance(layer, keras.layers.Conv2D):
            assert layer.padding == "same" and layer.kernel_size == ((5, 5) if kind == "lae_celeb_a" else (3, 3))
        if isinstance(layer, keras.layers.Activation):
            assert layer.activation is keras.activations.tanh
        if isinstance(layer, keras.layers.MaxPooling2D):
            assert layer.pool_size == layer.strides == (2, 2) and layer.padding == "valid"
        if isinstance(layer, keras.layers.UpSampling2D):
            assert tuple(layer.size) == (2, 2) and layer.interpolation == "nearest"


@pytest.mark.parametrize("shape, latent_dim, hidden_units, count", DENSE)
def test_published_counts_of_dense_networks(shape, latent_dim, hidden_units, count):
    assert num_weights(*pair("mlp", shape, latent_dim, hidden_units=hidden_units)) == count


# Where the published code has dropout it is there; elsewhere it follows every activation of hidden values.
DROPOUT = {
    "lae_mnist": (
        "C8 Pool T Drop C12 Pool T Drop C12 T Drop Flatten 2",
        "48 Reshape T Drop C12 Up T Drop C8 Up T Drop C1",
    ),
    "lae_fashion_mnist": (
        "C64 T Drop Pool C64 T Drop Pool Flatten 2048 T 1024 T 2",
        "1024 T Drop 2048 T Drop 256 T Drop Reshape C64 Up Drop T C64 Up Drop T C1",
    ),
    "lae_cifar10_baseline": (
        "C16 T Drop C32 Pool T Drop C64 T Drop C64 Pool T Drop Flatten 2",
        "256 Reshape T Drop C64 Up T Drop C32 Up T Drop C16 Drop T C1",
    ),
    "lae_svhn": (
        "C8 Pool T Drop C12 Pool T Drop C12 Pool T Drop C12 T Drop Flatten 2",
        "T 12 Reshape T Drop C12 Up T Drop C12 Up T Drop C8 Up T Drop C1",
    ),
    "lae_celeb_a": (
        "C128 T Drop" + 3 * " C128 Pool T Drop" + " Flatten 2",
        "128 Reshape" + 3 * " Up C128 T Drop" + " C1",
    ),
}


@pytest.mark.parametrize("kind", DROPOUT)
def test_places_of_dropout(kind):
    for model, expected in zip(pair(kind, (8, 8, 1), 2, dropout_rate=0.1), DROPOUT[kind]):
        assert words(model) == expected


@pytest.mark.parametrize("kind", DROPOUT)
def test_dropout_adds_no_layer_at_rate_zero_and_no_weight_at_all(kind):
    plain, dropped = (pair(kind, (8, 8, 1), 2, dropout_rate=rate) for rate in (0.0, 0.1))
    for without, with_it in zip(plain, dropped):
        assert words(without) == " ".join(word for word in words(with_it).split() if word != "Drop")
        assert len(without.trainable_weights) == len(with_it.trainable_weights)


def test_biases_of_convolutions_are_an_option_where_upstream_has_none():
    for kind, num_filters in (("lae_mnist", 8 + 12 + 12 + 12 + 8 + 1), ("lae_svhn", 8 + 36 + 12 + 12 + 8 + 1)):
        plain, biased = (num_weights(*pair(kind, (8, 8, 1), 2, conv_bias=bias)) for bias in (False, True))
        assert biased - plain == num_filters
    assert num_weights(*pair("lae_cifar10_baseline", (8, 8, 1), 2, conv_bias=True)) == num_weights(
        *pair("lae_cifar10_baseline", (8, 8, 1), 2))


@pytest.mark.parametrize("latent_dim", [5, 128])
def test_celeb_a_takes_any_number_of_latents(latent_dim):
    encoder, decoder = pair("lae_celeb_a", (16, 16, 3), latent_dim, dropout_rate=0.1)
    direct = latent_dim == 128
    assert words(encoder).endswith("Pool T Flatten" if direct else "Pool T Drop Flatten 5")
    assert words(decoder).startswith("Reshape Up" if direct else "128 Reshape Up")
    x = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    assert decoder(encoder(x)).shape == (2, 16, 16, 3)
    # Means and raw scales are made by a dense layer, whatever their number.
    assert words(networks.build_encoder("lae_celeb_a", (16, 16, 3), latent_dim)).endswith(f"Flatten {2 * latent_dim}")


def test_a_code_that_is_a_feature_map_has_full_precision_under_a_mixed_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = networks.build_encoder("lae_celeb_a", (4, 4, 1), 128, deterministic=True)
        code = encoder(np.ones((1, 4, 4, 1), np.float32))
    finally:
        keras.config.set_dtype_policy("float32")
    assert code.dtype == "float32" and encoder.layers[1].compute_dtype == "bfloat16"


@pytest.mark.parametrize("kind", KINDS)
def test_uneven_images_are_padded_and_cropped_back(kind):
    encoder, decoder = pair(kind, (9, 14, 1), 2)
    assert words(encoder).startswith("ZeroPadding2D C") and words(decoder).endswith("C1 Cropping2D")
    side = encoder.layers[0].output.shape[1:3]
    assert decoder.layers[-1].input.shape[1:3] == side
    assert side == {2: (12, 16), 3: (16, 16), 4: (16, 16)}[words(encoder).split().count("Pool")]


@pytest.mark.parametrize("kind", KINDS)
def test_the_curvature_can_read_them(kind):
    models = pair(kind, (9, 14, 1), 2, dropout_rate=0.1)
    graph = curvature.read(models)
    trainable = [weight for model in models for weight in model.trainable_weights]
    assert all(found is weight for found, weight in zip(graph.variables, trainable, strict=True))
    assert all(step.activation is not None or rule_of(step.layer) for step in graph.chain.flat())
