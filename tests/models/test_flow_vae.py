"""flow_vae: with a flow that is the identity it is the vae; beta goes to 1; the prior is trained."""

import numpy as np
import pytest
import tensorflow as tf
from battery import build, images

from pae_zoo.core.errors import UserError


def test_an_identity_flow_gives_the_vae():
    flow, plain = build("flow_vae", density="flow", density_components=0, flow=("affine",)), build("vae", kl="mc")
    pairs = zip(plain.encoder.weights + plain.decoder.weights, flow.encoder.weights + flow.decoder.weights)
    for mine, theirs in pairs:
        mine.assign(theirs)
    x, seed = images(8), (1, 2)
    np.testing.assert_allclose(flow.elbo(x, seed), plain.elbo(x, seed), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(flow.log_likelihood(x, 7, seed), plain.log_likelihood(x, 7, seed), rtol=1e-4, atol=1e-3)


def test_the_prior_is_trained():
    model = build("flow_vae")
    before = [np.array(v) for v in model.flow.trainable_variables]
    model.compile("adam", jit_compile=False)
    model.fit(images(64), epochs=2, batch_size=16, verbose=0)
    assert all(np.abs(old - new).max() > 0 for old, new in zip(before, model.flow.trainable_variables))


def test_beta_goes_to_one():
    model = build("flow_vae", beta=5.0, beta_annealing_steps=10)
    for step, expected in ((0, 5.0), (5, 3.0), (10, 1.0), (20, 1.0)):
        model.step.assign(step)
        np.testing.assert_allclose(model.beta_now(), expected, rtol=1e-6)
    assert model.schedule_steps == 10
    np.testing.assert_allclose(model.kl_penalty(tf.constant([2.0])), [2.0])


def test_samples_go_through_the_flow():
    model = build("flow_vae")
    model.compile("adam", jit_compile=False)
    model.fit(images(64), epochs=1, batch_size=16, verbose=0)
    u = model.prior().sample(4, seed=(0, 1))
    np.testing.assert_allclose(model.base_from_latent(model.latent_from_base(u)), u, atol=1e-4)
    np.testing.assert_allclose(model.sample_latent(4, (0, 1)), model.latent_from_base(u), atol=1e-6)


def test_an_analytic_kl_is_refused():
    made = build("vae")
    from pae_zoo.models.flow_vae import FlowVAE

    with pytest.raises(UserError, match="analytic"):
        FlowVAE(made.encoder, made.decoder, kl="analytic")
