"""savae: what a step is, that steps climb, that they are differentiated, and that a datum is on its own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import build, images

import pae_zoo


def take_weights(model, other):
    for mine, theirs in zip(model.trainable_variables, other.trainable_variables):
        mine.assign(theirs)
    return model


@pytest.mark.parametrize("posterior_std", ["softplus", "exp"])
@pytest.mark.parametrize("still", [dict(num_svi_steps=0), dict(svi_learning_rate=0.0)])
def test_without_steps_it_is_the_vae(still, posterior_std):
    model, plain = build("savae", posterior_std=posterior_std, **still), build("vae", posterior_std=posterior_std)
    x, seed = images(8), (1, 2)
    np.testing.assert_allclose(model.elbo(x, seed), plain.elbo(x, seed), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(model.log_likelihood(x, 5, seed), plain.log_likelihood(x, 5, seed), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(model(x), plain(x), rtol=1e-5, atol=1e-5)


# ---- one step ------------------------------------------------------------------------------------------


def toy(dim=4, latent=2, hidden=5, **changes):
    """A model in float64 with smooth networks, so that finite differences are sharp, and a batch y."""
    dense = lambda *units: keras.Sequential([  # noqa: E731
        keras.layers.Dense(n, activation=None if last else "tanh", dtype="float64",
                           kernel_initializer=keras.initializers.RandomNormal(stddev=0.7, seed=n))
        for n, last in zip(units, [False] * (len(units) - 1) + [True])
    ])
    encoder, decoder = dense(hidden, 2 * latent), dense(hidden, dim)
    encoder.build((None, dim))
    decoder.build((None, latent))
    rng = np.random.default_rng(0)
    model = pae_zoo.SAVAE(encoder, decoder, likelihood="gaussian", scale=0.5, **changes)
    return model, tf.constant(rng.normal(size=(6, dim))), tf.constant(rng.normal(size=(1, 6, latent)))


@pytest.mark.parametrize("kl", ["analytic", "mc"])
def test_a_step_is_the_gradient_of_the_bound_of_each_datum(kl):
    model, y, noise = toy(svi_clip=0.0, kl=kl)
    start = model.encoder_posterior(y)
    mean, log_variance = start.mean.numpy(), 2 * np.log(start.stddev)

    def bound(mean, log_variance):
        std = np.exp(log_variance / 2)
        z = mean + std * noise[0]
        square = np.sum((y - model.decoder(z)) ** 2, axis=-1)
        log_q = -0.5 * np.sum(noise[0] ** 2 + log_variance, axis=-1)
        if kl == "mc":
            return -0.5 * square / 0.5**2 - 0.5 * np.sum(z**2, axis=-1) - log_q
        return -0.5 * square / 0.5**2 - 0.5 * np.sum(std**2 + mean**2 - 1 - log_variance, axis=-1)

    found = model.svi_gradients(y, [tf.constant(mean), tf.constant(log_variance)], noise, training=False)
    step = 1e-5
    for k in range(mean.shape[1]):
        shift = step * np.eye(mean.shape[1])[k]
        np.testing.assert_allclose(
            found[0][:, k],
            (bound(mean + shift, log_variance) - bound(mean - shift, log_variance)) / (2 * step), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(
            found[1][:, k],
            (bound(mean, log_variance + shift) - bound(mean, log_variance - shift)) / (2 * step), rtol=1e-6, atol=1e-7)


def test_steps_add_up_with_momentum():
    model, y, _ = toy(num_svi_steps=2, svi_learning_rate=0.01, svi_momentum=0.5)
    path = model.refinement(y, (0, 3))
    mean = [np.array(q.mean) for q in path]
    single, _, _ = toy(num_svi_steps=1, svi_learning_rate=0.01)
    np.testing.assert_allclose(single.refinement(y, (0, 3))[1].mean, mean[1], rtol=1e-12)
    plain, _, _ = toy(num_svi_steps=2, svi_learning_rate=0.01)
    # The second step is the plain one and half of the first.
    without = plain.refinement(y, (0, 3))[2].mean.numpy()
    np.testing.assert_allclose(mean[2], without + 0.5 * (mean[1] - mean[0]), rtol=1e-10)


def test_clipping_shortens_and_keeps_the_direction():
    model = build("savae")
    gradient = np.array([[3.0, 4.0, 0.0], [0.3, 0.0, 0.4], [-30.0, 0.0, 40.0], [0.0, 0.0, 0.0]], np.float32)
    clipped = model.clip(tf.constant(gradient)).numpy()
    np.testing.assert_allclose(np.linalg.norm(clipped, axis=1), [5.0, 0.5, 5.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped[2], gradient[2] / 10, rtol=1e-6)
    published = build("savae_published").clip(tf.constant([[4.0, 0.0], [0.0, 10.0], [2.0, 0.0]]))
    np.testing.assert_allclose(published, [[1.25, 0.0], [0.0, 0.5], [2.0, 0.0]])  # |g| = 4, 10 become 1.25, 0.5
    np.testing.assert_allclose(build("savae", svi_clip=0.0).clip(tf.constant(gradient)), gradient)


# ---- many steps ----------------------------------------------------------------------------------------


def mean_elbo(model, x):
    return float(tf.reduce_mean(model.importance_estimate(x, 64, (5, 6)).elbo))


def test_steps_raise_the_bound_before_and_after_training():
    x = images(32)
    climbing, still = build("savae", num_svi_steps=20, svi_learning_rate=5e-3), build("vae")
    assert mean_elbo(climbing, x) > mean_elbo(still, x) + 1
    still.compile("adam", jit_compile=False)
    still.fit(images(96), epochs=10, batch_size=16, verbose=0)
    take_weights(climbing, still)
    trained = mean_elbo(still, x)
    assert mean_elbo(climbing, x) > trained + 0.1
    # The published code's sign takes it down; its steps are those of a batch mean, 32 times shorter.
    falling = take_weights(build("savae_published", num_svi_steps=20, svi_learning_rate=0.16), still)
    assert mean_elbo(falling, x) < trained - 0.1


def test_a_datum_is_refined_on_its_own():
    model, x, seed = build("savae", svi_learning_rate=0.05), images(9), (3, 4)
    whole = model.encode(x, seed)
    for count in (1, 4):
        part = model.encode(x[:count], seed)
        np.testing.assert_allclose(part.mean(), whole.mean()[:count], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(part.stddev(), whole.stddev()[:count], rtol=1e-4, atol=1e-5)
    # Other data in the other rows change nothing.
    other = np.concatenate([x[:4], images(5, seed=8)])
    np.testing.assert_allclose(model.encode(other, seed).mean()[:4], whole.mean()[:4], rtol=1e-4, atol=1e-5)


def test_the_seed_draws_the_noise_of_the_steps():
    model, x = build("savae", svi_learning_rate=0.05), images(4)
    np.testing.assert_array_equal(model.encode(x, (1, 2)).mean(), model.encode(x, (1, 2)).mean())
    assert np.abs(model.encode(x, (1, 2)).mean() - model.encode(x, (1, 3)).mean()).max() > 1e-6
    # Without one, a code depends on nothing but its datum, not even on the place in the batch.
    np.testing.assert_allclose(model.encode(x[::-1]).mean()[::-1], model.encode(x).mean(), rtol=1e-4, atol=1e-5)


def test_the_path_leads_from_the_encoder_to_the_posterior():
    model, x = build("savae", num_svi_steps=3, svi_learning_rate=0.05), images(5)
    path = model.latent_path(x, (1, 2))
    assert path.shape == (4, 5, 3)
    np.testing.assert_allclose(path[0], model.encoder_outputs(tf.constant(x))[0], rtol=1e-6)
    np.testing.assert_array_equal(path[-1], model.encode(x, (1, 2)).mean())
    assert np.abs(path[1] - path[0]).max() > 1e-4


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_gradients_through_the_steps_meet_finite_differences(part):
    # A long rate and a tight clip, so that second derivatives and the clip's own weigh.
    model, y, noise = toy(num_svi_steps=3, svi_learning_rate=0.05, svi_momentum=0.5, svi_clip=2.0)
    kernel = getattr(model, part).trainable_variables[0]

    def loss():
        posterior = model.posterior(y, (1, 2), training=True)
        z, _ = posterior.from_noise(noise)
        log_prob = model.likelihood.log_prob(model.decoder_outputs(z), y)
        return -tf.reduce_mean(log_prob - posterior.kl_to_prior())

    with tf.GradientTape() as tape:
        value = loss()
    gradient = tape.gradient(value, kernel).numpy()
    start, direction = np.array(kernel), np.random.default_rng(2).normal(size=kernel.shape)
    step, found = 1e-5, []
    for sign in (1, -1):
        kernel.assign(start + sign * step * direction)
        found.append(float(loss()))
    np.testing.assert_allclose(np.sum(gradient * direction), (found[0] - found[1]) / (2 * step), rtol=1e-5)


def test_the_scale_of_the_objective_is_that_of_the_steps():
    flags = dict(likelihood="gaussian", scale=0.1, scale_annealing_steps=100, svi_learning_rate=0.01)
    model, x, seed = build("savae", **flags), tf.constant(images(4)), (1, 2)
    wide = model.posterior(x, seed, training=True).mean.numpy()
    model.step.assign(100)
    narrow = model.posterior(x, seed, training=True).mean.numpy()
    np.testing.assert_allclose(narrow, model.posterior(x, seed).mean, rtol=1e-5, atol=1e-6)
    assert np.abs(wide - narrow).max() > 1e-4
