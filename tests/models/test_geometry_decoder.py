"""What models offer to the geometry of latents: fixed decoders, equal to the models' own, differentiable under XLA."""

import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, LATENT_DIM, ROWS, build, images

from pae_zoo.core import seeds

SEED = (4, 5)
DRAWN = ("lae", "lae_posthoc", "bbb_ae", "mcdropout_ae")
WITH_MEMBERS = (*DRAWN, "deep_ensemble_ae", "ensemble_vae")


def latents(num=4):
    return tf.constant(np.random.default_rng(0).normal(size=(num, LATENT_DIM)), tf.float32)


@pytest.fixture(scope="module")
def built():
    models = {name: build(name) for name in WITH_MEMBERS}
    models["lae_posthoc"].measure(images(40), images(60))
    models["deep_ensemble_ae"].measure(images(40), images(60))
    return models


def check(decoder, num_members=None):
    """Finite, with finite gradients, the same compiled as eager; no draw is made where it is called."""
    z = latents()

    def values_and_gradient(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            if hasattr(decoder, "mean_and_members"):
                values = decoder.mean_and_members(z)
            elif hasattr(decoder, "mean_and_std"):
                values = decoder.mean_and_std(z)
            else:
                values = (decoder(z),)
            total = tf.add_n([tf.reduce_sum(tf.square(value)) for value in values])
        return values, tape.gradient(total, z)

    eager = values_and_gradient(z)
    compiled = tf.function(values_and_gradient, jit_compile=True, autograph=False)
    for a, b in zip(tf.nest.flatten(eager), tf.nest.flatten(compiled(z))):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    drawing = {op.type for op in compiled.get_concrete_function(z).graph.get_operations() if "Random" in op.type}
    assert not drawing
    values, gradient = eager
    assert np.any(gradient) and values[0].shape == (4, *EVENT_SHAPE)
    if num_members is not None:
        assert values[1].shape == (num_members, 4, *EVENT_SHAPE)
        np.testing.assert_allclose(values[0], tf.reduce_mean(values[1], axis=0), atol=1e-6)
        assert np.std(values[1], axis=0).max() > 1e-4
    return values


# gp_circle has a manifold of its own.
@pytest.mark.parametrize("name", [name for name in ROWS if name not in (*WITH_MEMBERS, "gp_circle")])
def test_a_model_with_one_decoder_gives_its_mean(name):
    model = build(name)
    values = check(model.geometry_decoder(3, SEED))
    np.testing.assert_allclose(values[0], model.decode(latents()).mean(), atol=1e-5)


def test_means_are_those_of_the_likelihood():
    for likelihood in ("bernoulli", "gaussian_decoder"):
        model = build("vae", likelihood=likelihood)
        values = check(model.geometry_decoder())
        distribution = model.decode(latents())
        np.testing.assert_allclose(values[0], distribution.mean(), atol=1e-5)
        if likelihood == "gaussian_decoder":
            np.testing.assert_allclose(values[1], distribution.stddev(), atol=1e-5)
        else:
            assert len(values) == 1


@pytest.mark.parametrize("name", DRAWN)
def test_members_are_the_networks_of_the_seed(built, name):
    model = built[name]
    decoder = model.geometry_decoder(3, SEED)
    check(decoder, 3)
    # One datum: a mask of dropout is one for all latents here, and one for each of them there.
    z = latents(1)
    for number, member in enumerate(decoder.members(z)):
        network = model.network(seeds.fold_in(SEED, number))
        np.testing.assert_allclose(member, model.likelihood.mean(network.decode(z))[0][None], atol=1e-5)
    again, other = model.geometry_decoder(3, SEED).members(z), model.geometry_decoder(3, (4, 6)).members(z)
    np.testing.assert_array_equal(decoder.members(z), again)
    assert np.abs(again - other).max() > 1e-4


def test_members_of_an_ensemble_are_its_own(built):
    z, deep, model = latents(), built["deep_ensemble_ae"], built["ensemble_vae"]
    assert np.any(np.abs(deep.rotations[1] - np.eye(LATENT_DIM)) > 1e-3)  # aligned
    decoder = deep.geometry_decoder()
    check(decoder, deep.num_members)
    for number, member in enumerate(decoder.members(z)):
        np.testing.assert_allclose(member, deep.member(number).decode(z), atol=1e-5)
    np.testing.assert_allclose(decoder.members(z), deep.mean_and_members(z)[1], atol=1e-5)
    assert deep.geometry_decoder(1).num_members == 1

    for num, expected in ((0, 3), (2, 2), (9, 3)):
        decoder = model.geometry_decoder(num)
        assert decoder.num_members == expected
        np.testing.assert_allclose(decoder.members(z), model.mean_and_members(z)[1][:expected], atol=1e-6)
    check(model.geometry_decoder(), 3)
