"""rae: each regulariser against its value computed in another way; with none of them it is the pae."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import LATENT_DIM, build, images

from pae_zoo.core.errors import UserError

SEED = tf.constant((1, 2))


def rae(regulariser, **changes):
    return build("rae", rae_regulariser=regulariser, **changes)


def losses(model, x, seed=SEED, training=True):
    return np.asarray(model.objective(x, seed, training)["loss"], np.float64)


def test_without_weights_it_is_the_pae():
    x = images(8)
    mine, theirs = rae("none", rae_latent=0.0), build("pae")
    np.testing.assert_allclose(losses(mine, x), losses(theirs, x), rtol=1e-6)


def test_codes_are_pulled_to_zero():
    x = images(8)
    mine, theirs = rae("none", rae_latent=3.0), rae("none", rae_latent=0.0)
    square = np.square(np.asarray(theirs.codes(x), np.float64)).sum(axis=1)
    np.testing.assert_allclose(losses(mine, x) - losses(theirs, x), 1.5 * square, rtol=1e-3, atol=1e-3)


def test_l2_counts_all_weights_of_the_decoder():
    x = images(8)
    mine, theirs = rae("l2", rae_weight=0.5), rae("none")
    square = sum(np.square(w, dtype=np.float64).sum() for w in mine.decoder.get_weights())
    np.testing.assert_allclose(losses(mine, x) - losses(theirs, x), 0.5 * square, rtol=1e-4)


def test_the_penalty_is_that_of_the_whole_jacobian():
    model, x = rae("gradient_penalty", activation="tanh"), images(3)
    z = tf.constant(model.codes(x))
    with tf.GradientTape() as tape:
        tape.watch(z)
        mean = model.likelihood.mean(model.decoder_outputs(z))
    wanted = np.square(np.asarray(tape.batch_jacobian(mean, z), np.float64)).reshape(3, -1).sum(axis=1)
    copies = 4000
    draws = np.asarray(model.jacobian_square(tf.repeat(z, copies, axis=0), SEED), np.float64).reshape(3, copies)
    error = draws.std(axis=1) / np.sqrt(copies)
    assert np.all(np.abs(draws.mean(axis=1) - wanted) < 5 * error)
    assert np.all(error < 0.05 * wanted)
    extra = losses(model, x) - losses(rae("none", activation="tanh"), x)
    np.testing.assert_allclose(extra, 0.5 * 0.1 * np.asarray(model.jacobian_square(z, SEED)), rtol=1e-3)


@pytest.mark.parametrize(("kind", "event_shape", "exact"), [("mlp", (6, 6, 1), 1e-3), ("conv", (8, 8, 1), 0.1)])
def test_kernels_have_a_largest_singular_value_of_one(kind, event_shape, exact, tmp_path):
    model = build("rae", event_shape=event_shape, encoder=kind, decoder=kind, rae_regulariser="spectral_norm")
    model.compile("adam", jit_compile=False)
    x = images(64, event_shape=event_shape)
    norms = []
    for _ in range(2):
        norms.append([np.linalg.svd(np.reshape(kernel, (-1, kernel.shape[-1])), compute_uv=False)[0]
                      for kernel in model.decoder.get_weights() if kernel.ndim > 1])
        for batch in range(4):
            model.update(tf.constant(x[batch * 16 : batch * 16 + 16]))
    assert len(norms[0]) >= 2
    np.testing.assert_allclose(norms, 1.0, atol=exact)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for mine, theirs in zip(model.normed, loaded.normed):
        np.testing.assert_array_equal(mine.constraint.direction, theirs.constraint.direction)
    loaded.compile("adam", jit_compile=False)
    loaded.update(tf.constant(x[:16]))
    left = [np.linalg.svd(np.reshape(np.array(k), (-1, k.shape[-1])), compute_uv=False)[0] for k in loaded.normed]
    np.testing.assert_allclose(left, 1.0, atol=exact)


def test_a_large_weight_gives_smaller_codes_and_a_fitted_density():
    x = images(128)
    spread = []
    for weight in (0.0, 30.0):
        model = rae("none", rae_latent=weight)
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
        history = model.fit(x, epochs=8, batch_size=16, verbose=0).history
        assert np.isfinite(history["loss"]).all()
        spread.append(np.square(model.codes(x)).mean())
        assert np.isfinite(model.log_prob_latent(model.codes(x))).all() and model.sample(3, (0, 1)).shape[0] == 3
        assert model.flow.base.fitted_components == 2 and model.prior().event_shape == (LATENT_DIM,)
    assert spread[1] < 0.5 * spread[0]


@pytest.mark.parametrize(("changes", "match"), [
    ({"rae_regulariser": "l1"}, "rae_regulariser='l1' is unknown; allowed: none, l2, gradient_penalty, spectral_norm"),
    ({"rae_latent": -1.0}, "0 or more; received -1.0"),
    ({"rae_weight": float("nan")}, "0 or more; received 0.01 and nan"),
])
def test_what_is_refused(changes, match):
    model = build("rae")
    config = {**model.get_config(), **changes}
    with pytest.raises(UserError, match=match):
        type(model).from_config(config)
