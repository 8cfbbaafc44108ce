"""A row of x or z that is not finite answers NaN in every output of every method and signature; no other row changes.

TensorFlow's graph rewriter fuses a dense layer with its relu, and the fused operation makes 0 of NaN. The suite
switches the rewriter off, so these tests switch it on.
"""

import battery
import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import some

from pae_zoo import models, serving
from pae_zoo.core import inputs

ROWS = 4
#: terms of the objective that tell of the weights, of the search or of the whole batch, not of x
NOT_OF_X = [f"objective {term}" for term in ("regularizer", "kl", "log_prior", "log_posterior", "jitter", "mmd")]
SPEC = tf.TensorSpec((None, *battery.EVENT_SHAPE))
LATENTS = tf.TensorSpec((None, battery.LATENT_DIM))


@pytest.fixture(autouse=True, scope="module")
def rewriter():
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **before})


def faults(function, clean, axes, what):
    """Yields where the answers with one number of row 1 not finite are not those to clean data with that row NaN."""
    wanted = {name: value.numpy() for name, value in function(tf.constant(clean)).items()}
    for value in (np.nan, np.inf, -np.inf):
        x = clean.copy()
        x[(1, *[0] * axes)] = value
        for name, found in function(tf.constant(x)).items():
            found, expected = found.numpy(), wanted[name]
            if not np.isfinite(expected).all():
                yield f"{what} {name}: clean data give {expected.ravel()[:4]}"
            if np.isfinite(found[1]).any() or (np.isnan(value) and not np.isnan(found[1]).all()):
                yield f"{what} {name}: {value} gives {found[1].ravel()[:4]}"
            # Equal but for the last bit: the order in which Eigen sums depends on where in memory the numbers lie.
            if not np.allclose(np.delete(found, 1, 0), np.delete(expected, 1, 0), rtol=1e-6, atol=1e-6):
                yield f"{what} {name}: {value} changes other rows"


@pytest.mark.parametrize("name", some(battery.ROWS, ["ae", "vae", "vlae", "pae", "lae"]))
def test_methods_and_signatures(name):
    model = battery.built(name)
    x, z = battery.images(ROWS), np.random.default_rng(0).normal(size=(ROWS, model.latent_dim)).astype(np.float32)
    methods, latents = battery.methods(model), battery.latent_methods(model)
    # Those that search are in tests/serving/test_searches.py.
    known = {one.name for one in serving.signatures(model)} - {"restore", "geodesic"}
    served = serving.trace(model, importance_samples=3, only=known)[0]
    for known in ("preprocess", "call", *served):  # the signatures are these methods
        methods.pop(known if known != "encode" else None, None)

    @tf.function(input_signature=[SPEC], autograph=False)
    def of_x(x):
        found = {f"{method} {key}": value for method, function in methods.items() for key, value in function(x).items()}
        return {name: value for name, value in found.items() if name not in NOT_OF_X}

    @tf.function(input_signature=[LATENTS], autograph=False)
    def of_z(z):
        return {method: function(z) for method, function in latents.items()}

    found = [*faults(of_x, x, 3, "method"), *faults(of_z, z, 1, "method")]
    named = {"seed": tf.constant([3, 4]), "n": tf.constant(2)}
    for signature, function in served.items():
        specs = [spec.name for spec in function.input_signature]
        if specs[0] in ("x", "z"):
            values, axes = (x, 3) if specs[0] == "x" else (z, 1)
            rest = [named[spec] for spec in specs[1:]]
            call = lambda value, function=function, rest=rest: function(value, *rest)  # noqa: E731
            found += faults(call, values, axes, signature)
    assert not found, "\n".join(found)


def test_the_mark_outlives_the_rewriter():
    """Whether a fused relu makes 0 of NaN depends on the processor; with the mark the row is NaN on all of them."""
    assert not tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"]
    model = battery.built("ae")
    x = battery.images(2)
    x[0, 1, 1] = np.nan
    found = tf.function(lambda x: model.encoder(x), autograph=False)(tf.constant(x))
    assert np.isfinite(found[1]).all()
    assert np.isnan(inputs.only_finite(found, tf.constant(x), given_axes=3)[0]).all()


def own(name, **changes):
    """Returns a model of functional Keras networks with relus, as users build them."""
    factor = 1 if battery.ROWS[name].flags and name != "vae" else 2
    inputs_ = keras.Input(battery.EVENT_SHAPE)
    hidden = keras.layers.Dense(8, activation="relu")(keras.layers.Flatten()(inputs_))
    encoder = keras.Model(inputs_, keras.layers.Dense(factor * battery.LATENT_DIM)(hidden))
    z = keras.Input((battery.LATENT_DIM,))
    outputs = keras.layers.Dense(36, activation="relu")(keras.layers.Dense(8, activation="relu")(z))
    decoder = keras.Model(z, keras.layers.Reshape(battery.EVENT_SHAPE)(outputs))
    return models.find(name).MODEL(encoder, decoder, **changes)


VARIANTS = {
    "own networks": lambda: own("vae"),
    "binarise": lambda: battery.build("vae", likelihood="bernoulli", preprocess=("binarise_dynamic",)),
    "convolutions": lambda: battery.build("ae", encoder="conv", decoder="conv"),
    "linearised": lambda: battery.build("lae", predictive="linearised"),
}
FULL = {
    "line search": lambda: battery.build("vlae", update_schedule="line_search", covariance="low_rank", rank=2),
    "levenberg": lambda: battery.build("vlae", update_schedule="levenberg", covariance="diag"),
    "conjugate gradients": lambda: battery.build("vlae", search="cg", likelihood="bernoulli"),
    "matrix free": lambda: battery.build("vlae", covariance="matrix_free", kl="mc"),
    "decoder's variance": lambda: battery.build("vlae", likelihood="gaussian_decoder", activation="tanh"),
    "maf": lambda: battery.build("pae", flow=("maf",)),
    "own networks, linearised": lambda: own("lae", predictive="linearised", likelihood="gaussian"),
    "published steps": lambda: battery.build("savae_published", kl="mc"),
    **{f"linearised {structure}": lambda structure=structure: battery.build(
        "lae_posthoc", curvature_structure=structure, predictive="linearised")
       for structure in ("block", "kron", "low_rank", "last_layer")},
}


@pytest.mark.parametrize("case", [*VARIANTS, *(pytest.param(case, marks=pytest.mark.full) for case in FULL)])
def test_variants(case):
    model = {**VARIANTS, **FULL}[case]()
    methods = battery.methods(model)
    keys = ("call", "encode", "ood_scores", "predictive", "elbo", "latent_path")
    methods = {key: methods[key] for key in keys if key in methods}

    @tf.function(input_signature=[SPEC], autograph=False)
    def of_x(x):
        return {f"{method} {key}": value for method, function in methods.items() for key, value in function(x).items()}

    found = [*faults(of_x, battery.images(ROWS), 3, "method")]
    assert not found, "\n".join(found)
