"""ae: plain and hybrid objective, measured pixel stds."""

import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, build, images


def mean(model, x):
    """The decoder's mean, which `model(x)` clips to [0, 1]."""
    return model.decode(model.codes(x)).mean().numpy()


def test_objective_is_the_likelihood_of_the_code():
    model = build("ae", likelihood="gaussian", scale=0.1)
    x = images(8)
    found = model.objective(tf.constant(x), (0, 1), training=False)
    np.testing.assert_allclose(found["loss"], -model.decode(model.codes(x)).log_prob(x), rtol=1e-5)
    np.testing.assert_allclose(found["mse"], np.mean((mean(model, x) - x) ** 2, axis=(1, 2, 3)), rtol=1e-3)
    np.testing.assert_allclose(model.ood_scores(x)["reconstruction"], found["loss"], rtol=1e-5)


def test_the_encoder_of_an_ae_may_give_codes_alone():
    import pae_zoo

    encoder = pae_zoo.networks.build_encoder("mlp", EVENT_SHAPE, 3, hidden_units=(8,), deterministic=True)
    decoder = pae_zoo.networks.build_decoder("mlp", EVENT_SHAPE, 3, hidden_units=(8,))
    model = pae_zoo.AE(encoder, decoder)
    assert model.latent_dim == 3 and model(images(2)).shape == (2, *EVENT_SHAPE)
    with pytest.raises(ValueError, match="encoder"):
        pae_zoo.VAE(encoder, decoder)


def test_pixel_stds_are_measured_on_held_out_data():
    model = build("ae", likelihood="gaussian_pixel", scale=0.3)
    x = images(300, seed=8)
    model.measure(x, batch_size=64)
    expected = np.sqrt(np.mean((x - mean(model, x)) ** 2, axis=0))
    np.testing.assert_allclose(model.likelihood.scale, np.maximum(expected, 0.01), rtol=1e-2)


def test_hybrid_switches_once_at_half_time():
    model = build("ae", objective_type="hybrid", likelihood="gaussian_pixel", scale=0.05)
    model.compile(optimizer="adam", jit_compile=False)
    x = tf.constant(images(16))
    assert model.hybrid_steps == 24 and model.schedule_steps == 12
    model.optimizer.build(model.trained_variables)

    @tf.function(autograph=False)
    def step():
        model.update(x)
        plain = -model.likelihood.log_prob(model.decoder_outputs(model.codes(x)), x)
        extra = tf.reduce_mean(model.objective(x, (0, 0), training=False)["loss"] - plain)
        return tf.identity(model.likelihood.scale), extra

    scales, extra = (np.array(found) for found in zip(*(step() for _ in range(20))))
    np.testing.assert_allclose(scales[11], 0.05, rtol=1e-6)  # steps 0..11 train with the constant std
    assert scales[12].std() > 0 and (scales[12] >= 0.05 - 1e-6).all()
    np.testing.assert_array_equal(scales[12], scales[19])  # set once
    assert abs(extra[10]) < 1e-5  # no prior term before half time
    codes = model.codes(x).numpy()
    expected = 0.5 * (codes**2).sum(axis=1).mean() + 1.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(extra[19], expected, rtol=1e-3)


def test_hybrid_says_what_it_needs():
    with pytest.raises(ValueError, match="gaussian_pixel"):
        build("ae", objective_type="hybrid")
