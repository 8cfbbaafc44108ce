"""iaf: an invertible map with a triangular Jacobian, conditioned on the datum; a normalised density; limits."""

import numpy as np
import pytest
import tensorflow as tf
from battery import LATENT_DIM, build, images

import pae_zoo
from pae_zoo import networks
from pae_zoo.core.errors import UserError


def shaken(num_flows, **changes):
    """A model whose flow is far from its start."""
    model = build("iaf_published", num_flows=num_flows, **{"iaf_context": True, **changes})
    rng = np.random.default_rng(0)
    for block in model.blocks:
        for weight in block.trainable_weights:
            weight.assign_add(0.3 * rng.normal(size=weight.shape))
    return model


def batch(num=4, seed=1, dims=LATENT_DIM):
    return tf.constant(np.random.default_rng(seed).normal(size=(num, dims)).astype(np.float32))


def context(model, num=4, seed=0):
    return model.encoder_features(tf.constant(images(num, seed=seed)))[2]


def jacobian(function, z):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        out, log_det = function(z)
    return tape.batch_jacobian(out, z, experimental_use_pfor=False).numpy(), log_det


@pytest.mark.parametrize("num_flows", [1, 2, 3, 4])
def test_the_log_det_is_that_of_the_jacobian_and_the_way_back_is_one(num_flows):
    model, z = shaken(num_flows), batch()
    h = context(model)
    found, log_det = jacobian(lambda z: model.transform(z, h), z)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(found)[1], atol=1e-4)
    assert (np.linalg.det(found) > 0).all()
    y, forward = model.transform(z, h)
    again, back = model.transform(y, h, inverse=True)
    np.testing.assert_allclose(again, z, atol=1e-4)
    np.testing.assert_allclose(forward, -back, atol=1e-4)


@pytest.mark.parametrize("index", [0, 1])
def test_each_block_is_triangular_in_its_own_order(index):
    model, z = shaken(2), batch()
    h = context(model)
    found, _ = jacobian(lambda z: model.blocks[index](z, context=h), z)
    assert not np.triu(found, 1).any()  # coordinate 1 depends on itself alone
    assert np.abs(found[:, -1]).max(axis=0).all()  # the last on all
    whole, _ = jacobian(lambda z: model.transform(z, h), z)
    assert np.abs(whole).max(axis=0).all()  # after a reversal every coordinate on every other


@pytest.mark.parametrize("num_flows", [1, 2, 3, 4])
def test_the_order_of_coordinates_is_restored(num_flows):
    # At its start the flow is its gates alone.
    model, z = build("iaf", num_flows=num_flows), batch()
    gate = float(tf.sigmoid(2.0))
    y, log_det = model.transform(z, context(model))
    np.testing.assert_allclose(y, gate**num_flows * z, rtol=1e-5)
    np.testing.assert_allclose(log_det, num_flows * LATENT_DIM * np.log(gate), rtol=1e-5)


def test_the_flow_depends_on_the_datum_when_it_is_told_to():
    z = batch()
    for told in (True, False):
        model = shaken(2, iaf_context=told)
        first, second = (model.posterior(tf.constant(images(4, seed=seed))).transform(z)[0] for seed in (0, 5))
        changed = np.abs(first - second)
        assert (changed.min() > 0) if told else (changed.max() == 0)
    assert build("iaf").sees_context and not build("iaf_published").sees_context


def test_a_posterior_of_one_latent_integrates_to_one():
    model = shaken(3, latent_dim=1)
    q = model.posterior(tf.constant(images(5)))
    grid = np.linspace(-15, 15, 3001, dtype=np.float32)
    density = np.exp(q.log_prob(tf.constant(np.tile(grid[:, None, None], (1, 5, 1)))))
    np.testing.assert_allclose(density.sum(axis=0) * (grid[1] - grid[0]), 1.0, atol=2e-3)


def test_densities_of_draws_agree():
    model, x = shaken(3), images(5)
    q, noise = model.posterior(tf.constant(x)), tf.stack([batch(5, seed=s) for s in range(4)])
    z, log_q = q.from_noise(noise)
    np.testing.assert_allclose(q.log_prob(z), log_q, rtol=1e-4, atol=1e-3)
    d = model.encode(x)
    np.testing.assert_allclose(d.log_prob(z), log_q, rtol=1e-4, atol=1e-3)
    assert d.sample(7, seed=(1, 2)).shape == (7, 5, LATENT_DIM) and d.batch_shape == (5,)
    np.testing.assert_allclose(q.point(), q.from_noise(tf.zeros((5, LATENT_DIM)))[0], rtol=1e-6)


def test_moments_are_those_of_draws_and_said_to_be_unknown():
    model, x = shaken(2), images(3)
    for what in ("mean", "variance", "stddev"):
        with pytest.raises(NotImplementedError, match=r"closed form.*\."):
            getattr(model.encode(x), what)()
    few, many = (model.predictive(x, count, (1, 2)) for count in (500, 20_000))
    draws = model.encode(x).sample(20_000, seed=(3, 4))
    np.testing.assert_allclose(many["latent_mean"], tf.reduce_mean(draws, axis=0), atol=0.05)
    np.testing.assert_allclose(many["latent_variance"], tf.math.reduce_variance(draws, axis=0), rtol=0.1)
    np.testing.assert_allclose(few["latent_variance"], many["latent_variance"], rtol=0.5)


def test_without_blocks_it_is_the_vae():
    none, plain = build("iaf", num_flows=0), build("vae", kl="mc")
    x, seed = images(8), (1, 2)
    assert len(none.trainable_variables) == len(plain.trainable_variables)
    np.testing.assert_allclose(none.elbo(x, seed), plain.elbo(x, seed), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(none.log_likelihood(x, 5, seed), plain.log_likelihood(x, 5, seed), rtol=1e-5, atol=1e-4)


def test_the_published_size():
    # H = 500, K = 50, a hidden layer of 500: 325,601 weights a block.
    pair = {what: getattr(networks, f"build_{what}")("vlae", (4,), 50, hidden_units=(500, 500))
            for what in ("encoder", "decoder")}
    assert pae_zoo.IAF(**pair, num_flows=1).blocks[0].count_params() == 325_601


@pytest.mark.parametrize("changes, words", [
    (dict(kl="analytic"), "no analytic KL"), (dict(gradient="sticking_the_landing"), "are its weights"),
])
def test_what_a_flow_has_not_is_refused(changes, words):
    model = build("vae")
    with pytest.raises(UserError, match=words):
        pae_zoo.IAF(model.encoder, model.decoder, **changes)
