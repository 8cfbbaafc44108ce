"""The online Laplacian autoencoder: its recursion, its gradient, its bound, against closed forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, build, images
from tiers import some

from pae_zoo import curvature
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.models.lae import LAE, WEIGHTS


def small(model="lae", **changes):
    """A small model with the diagonal of the curvature, and predictions by draws."""
    return build(model, **{"hidden_units": (6,), "latent_dim": 2, "curvature_structure": "diag", "predictive": "mc",
                           "prior_precision": 1.0, **changes})


def test_the_published_curvature_starts_at_the_number_of_data_and_the_first_draws_have_its_width():
    model = small("lae_published")
    assert model.hessian.shape == (model.graph.size,)
    np.testing.assert_array_equal(model.hessian.numpy(), 128.0)
    mean = curvature.flatten(model.graph.values())
    draws = np.stack([curvature.flatten(model.draw_weights((0, s))) - mean for s in range(20)])
    assert draws.std() == pytest.approx(1 / np.sqrt(129.0), rel=0.05)


@pytest.mark.parametrize("update", ["ema", "accumulate"])
@pytest.mark.parametrize("every", [1, 3])
def test_curvature_begins_at_nothing_and_is_corrected_for_it(update, every, monkeypatch):
    model = small(hessian_update=update, hessian_every=every, hessian_memory_factor=0.9)
    assert not model.hessian.numpy().any()
    g = tf.range(1.0, model.graph.size + 1.0)
    y, m, h = tf.constant(images(4)), 0.9, 0.0
    for t in range(7):
        monkeypatch.setattr(model, "curvature_of", lambda y, draws, seed, t=t: (t + 1.0) * g)
        model.refresh(y, [], (0, t))
        model.step.assign_add(1)
        if t % every == 0:
            h = m**every * h + (1 - m**every) * (t + 1.0) * (1.0 if update == "ema" else 10.0) * g
        np.testing.assert_allclose(model.hessian.numpy(), h / (1 - m ** (every * (t // every + 1))), rtol=1e-4)


def test_the_first_step_is_taken_at_the_means():
    model = small()
    model.compile(jit_compile=False)
    x = tf.constant(images(16))
    model.objective(x, (0, 1), training=True)
    expected = curvature.ggn((model.encoder, model.decoder), x, method="exact")
    scale = float(model.natural_constant()) * 128 / 16
    # The last layer's curvature has no noise of probes.
    last = model.blocks[-1]
    found = model.hessian.numpy()[last.start : last.stop]
    np.testing.assert_allclose(found, scale * expected[last.start : last.stop], rtol=1e-3)


@pytest.mark.parametrize("update", ["ema", "accumulate"])
@pytest.mark.parametrize("every", [1, 3])
def test_the_published_recursion_has_its_closed_form_for_a_constant_curvature(update, every, monkeypatch):
    model = small("lae_published", hessian_update=update, hessian_every=every, hessian_memory_factor=0.9)
    g = tf.range(1.0, model.graph.size + 1.0)
    monkeypatch.setattr(model, "curvature_of", lambda y, draws, seed: g)
    y, start, m = tf.constant(images(4)), model.hessian.numpy(), 0.9
    for t in range(7):
        model.refresh(y, [], (0, t))
        model.step.assign_add(1)
        # Refreshes come at steps 0, n, 2n, ..., each for n equal steps.
        steps = every * (t // every + 1)
        gain = 1 - m**steps if update == "ema" else (1 - m**steps) / (1 - m)
        np.testing.assert_allclose(model.hessian.numpy(), m**steps * start + gain * g, rtol=1e-4)


def test_curvature_of_a_step_is_that_of_the_drawn_weights_scaled_to_all_data():
    model = small(curvature_method="exact", likelihood="gaussian", scale=0.5)
    y = tf.constant(images(8))
    draw = model.draw_weights((1, 2))
    found = model.curvature_of(y, [draw], (0, 0))
    kept = [variable.numpy() for variable in model.uncertain]
    for variable, value in zip(model.uncertain, draw):
        variable.assign(value)
    expected = 128 / 8 / 0.25 * curvature.ggn((model.encoder, model.decoder), y)
    for variable, value in zip(model.uncertain, kept):
        variable.assign(value)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(tf.reduce_max(expected)))


def test_a_subset_of_the_batch_is_unbiased():
    model = small(curvature_method="exact", hessian_subset=4, likelihood="gaussian", scale=1.0)
    y = tf.constant(images(64))
    means = [model.uncertain]
    whole = model.curvature_of(y, means, (0, 0)).numpy()
    rng = np.random.default_rng(0)
    parts = [model.curvature_of(tf.gather(y, rng.permutation(64)[:4]), means, (0, 0)).numpy() for _ in range(40)]
    error = np.std(parts, axis=0) / np.sqrt(len(parts))
    assert np.mean(np.abs(np.mean(parts, axis=0) - whole) < 4 * error + 1e-6 * whole.max()) > 0.99


def test_gradient_is_the_mean_of_gradients_at_the_drawn_weights():
    model = small("lae_published", train_samples=3, curvature_constant=1.0)
    x = tf.constant(images(5))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model.objective(x, (4, 5), training=False)["loss"])
    found = tape.gradient(loss, [v.value for v in model.uncertain])
    base, expected = seeds.stream((4, 5), WEIGHTS), None
    for k in range(3):
        draw = [tf.convert_to_tensor(value) for value in model.draw_weights(seeds.fold_in(base, k))]
        with tf.GradientTape() as tape, keras.StatelessScope(state_mapping=list(zip(model.uncertain, draw))):
            tape.watch(draw)
            square = tf.reduce_mean(tf.square(model.decoder_outputs(model.point(x)) - x))
        one = tape.gradient(square, draw)
        expected = one if expected is None else [a + b for a, b in zip(expected, one)]
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b / 3, rtol=1e-3, atol=1e-6)


def test_kl_is_that_of_tfp_and_0_where_q_is_the_prior():
    import tensorflow_probability as tfp

    tfd = tfp.distributions
    model = small(prior_precision=2.0)
    model.hessian.assign(np.random.default_rng(0).uniform(0, 5, model.graph.size).astype(np.float32))
    q = tfd.MultivariateNormalDiag(curvature.flatten(model.graph.values()), tf.math.rsqrt(model.precision()))
    p = tfd.MultivariateNormalDiag(tf.zeros(model.graph.size), 2.0**-0.5 * tf.ones(model.graph.size))
    assert float(model.kl()) == pytest.approx(float(q.kl_divergence(p)), rel=1e-4)
    model.hessian.assign(tf.zeros(model.graph.size))
    for variable in model.uncertain:
        variable.assign(tf.zeros(variable.shape))
    assert float(model.kl()) == pytest.approx(0.0, abs=1e-3)


def test_bound_of_a_linear_network_has_its_closed_form():
    # y -> W2 W1 y with a certain encoder: E|y - W2 z|^2 = |y - M z|^2 + sum of variances times z^2.
    model = small(hidden_units=(), bayesian_layers=("decoder",), likelihood="gaussian", scale=0.5, train_samples=40)
    model.hessian.assign(tf.fill(model.hessian.shape, 10.0))
    x = tf.constant(images(3))
    terms = model.objective(x, (1, 2), training=False)
    z = model.point(x)
    kernel, bias = model.graph.unflatten(1.0 / model.precision(), model.blocks)
    spread = tf.matmul(z**2, tf.reshape(kernel, (2, -1))) + bias
    square = tf.reduce_sum(tf.reshape(model.decoder_outputs(z) - x, (3, -1)) ** 2 + spread, axis=1)
    size = float(np.prod(EVENT_SHAPE))
    expected = square / (2 * 0.25) + size * np.log(0.5) + 0.5 * size * np.log(2 * np.pi) + model.kl() / 128
    np.testing.assert_allclose(terms["loss"], expected, rtol=0.06)


def test_layers_that_are_not_chosen_stay_at_their_means():
    model = small(bayesian_layers=("decoder",))
    x = images(4)
    found = model.predictive(x, 5, seed=(0, 1))
    assert np.all(found["latent_variance"].numpy() == 0)
    assert np.all(found["epistemic_variance"].numpy() > 0)


def test_prediction_leaves_the_weights_alone_and_repeats():
    model, x = small(), images(4)
    before = [w.numpy().copy() for w in model.weights]
    first, second = (model.predictive(x, 3, seed=(7, 8))["mean"].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    model.ood_scores(x, seed=(0, 1))
    for weight, value in zip(model.weights, before):
        if "seed_generator" not in weight.path:
            np.testing.assert_array_equal(weight.numpy(), value)


def test_the_published_loss_measures_sigma_after_training():
    model = small("lae_published", hessian_update="accumulate")
    x = images(64)
    model.measure(x, x)
    y = model.moments(tf.constant(x), model.test_samples, (0, 0))
    square = np.mean(np.square(y["mean"] - x) + y["epistemic_variance"])
    assert float(model.likelihood.scale) ** 2 == pytest.approx(square, rel=0.3)
    assert not set(map(id, model.likelihood.trainable_variables)) & set(map(id, model.trained_variables))


def test_a_batch_normalisation_that_trains_is_refused():
    with pytest.raises(UserError, match="batch normalisation"):
        build("lae", encoder="conv", decoder="conv", event_shape=(8, 8, 1), batch_norm="batch", num_filters=2)


def test_unknown_layers_are_refused_in_one_line():
    with pytest.raises(UserError, match="allowed: all, encoder"):
        small(bayesian_layers=("nose",))


def test_dropout_and_noise_that_nothing_would_train_are_refused():
    with pytest.raises(UserError, match="--dropout_rate=0.1 would do nothing"):
        small(dropout_rate=0.1)
    with pytest.raises(UserError, match="gaussian_decoder"):
        small("lae_published", likelihood="gaussian_decoder")
    with pytest.raises(UserError, match="measured after training"):
        small(likelihood="gaussian_pixel")


def test_data_sets_are_counted(monkeypatch):
    model, x = build("lae", adapted=False, hidden_units=(6,), latent_dim=2), images(50)
    monkeypatch.setattr("pae_zoo.core.trainable.ADAPT_DATA", 20)
    model.compile(jit_compile=False)
    batches = tf.data.Dataset.from_tensor_slices(x).batch(20)
    with pytest.raises(UserError, match="no end"):
        model.fit(batches.repeat(), verbose=0, shuffle=False)
    model = build("lae", adapted=False, hidden_units=(6,), latent_dim=2)
    model.compile(jit_compile=False, run_eagerly=True)
    model.fit(batches, verbose=0, shuffle=False)
    assert float(model.num_data) == 50


def test_convolutional_networks_train_with_all_defaults():
    model = build("lae", encoder="conv", decoder="conv", event_shape=(8, 8, 1), num_filters=2, batch_norm="affine")
    model.compile(jit_compile=False)
    x = images(16, event_shape=(8, 8, 1))
    before = [one.numpy() for one in model.posterior.factors_now()]
    assert np.isfinite([float(model.update(tf.constant(x))) for _ in range(5)]).all()
    assert all(np.abs(one - old).max() > 0 for one, old in zip(model.posterior.factors_now(), before))
    model.measure(x)
    model.measure_scores(x)
    scores = model.ood_scores(x[:3], seed=(0, 1))
    assert next(iter(scores)) == "spread" and all(np.isfinite(value).all() for value in scores.values())


def kron(**changes):
    return small(curvature_structure="kron", hessian_memory_factor=0.5, hessian_every=1, **changes)


def test_factors_are_those_of_the_batch_at_first_and_averages_later():
    model = kron(curvature_method="exact", likelihood="gaussian", scale=0.5)
    model.compile(jit_compile=False)
    parts, goals = (tf.constant(images(8)), tf.constant(images(8, seed=1))), []
    for number, y in enumerate(parts):
        goals.append(curvature.ggn(model.graph, y, "kron"))
        model.refresh(y, [model.uncertain], (0, number))
        model.step.assign_add(1)
    shares = np.array([1, 2]) / 3  # (1 - m) m and 1 - m over 1 - m^2, for m = 1/2
    for layer, found in enumerate(model.posterior.factors.values()):
        left = sum(w * one[layer].input_factor / one[layer].count for w, one in zip(shares, goals))
        right = sum(w * 128 / 8 / 0.25 * one[layer].output_factor for w, one in zip(shares, goals))
        np.testing.assert_allclose(found[0], left, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[1], right, rtol=1e-4, atol=1e-4 * np.abs(right).max())


def test_the_posterior_of_running_factors_is_that_of_their_product_after_training():
    model = kron()
    model.compile(jit_compile=True)
    x = images(64)
    model.fit(x, epochs=1, batch_size=16, verbose=0)
    left, right = (one.numpy().astype(np.float64) for one in model.posterior.factors["0"])
    expected = np.kron(left, right) + np.eye(len(left) * len(right))
    found = model.posterior.precision()[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_terms_of_a_run_are_the_same_with_xla_and_without():
    found = []
    for compiled in (True, False):
        model = kron()
        model.compile(jit_compile=compiled)
        model.fit(images(64), epochs=1, batch_size=16, verbose=0, shuffle=False)
        found.append([one.numpy() for one in model.posterior.factors_now()])
    for mine, theirs in zip(*found):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


def test_the_diagonal_alone_is_published():
    with pytest.raises(UserError, match="Take diag"):
        build("lae_published", curvature_structure="kron")


def test_equal_seeds_give_equal_models():
    found = []
    for _ in range(2):
        model = small()
        model.compile(jit_compile=False)
        model.fit(images(64), epochs=2, batch_size=16, verbose=0, shuffle=False)
        found.append([w.numpy() for w in model.weights] + list(model.ood_scores(images(4), seed=(0, 1)).values()))
    for mine, theirs in zip(*found):
        np.testing.assert_array_equal(mine, theirs)


def test_the_scales_of_the_posterior_are_those_of_every_draw():
    model = small()
    y, seed = model.preprocess(images(4))[0], (1, 2)
    before, kl = model.draw(y, 2, seed)[0], float(model.kl())
    np.testing.assert_allclose(model.precision(), model.posterior.precision())
    model.posterior.assign_scales(kappa=1e6, prior_precision=2.0)
    np.testing.assert_allclose(model.precision(), 1e6 * model.hessian.numpy() + 2.0)
    assert not np.allclose(model.draw(y, 2, seed)[0], before) and float(model.kl()) != kl
    assert np.abs(model.draw(y, 2, seed)[0] - model.point(y)).max() < np.abs(before - model.point(y)).max()
    squares = sum(np.sum(variable.numpy() ** 2) for variable in model.uncertain)
    ratio = 2.0 / model.precision().numpy().astype(np.float64)
    np.testing.assert_allclose(model.kl(), 0.5 * (2.0 * squares + np.sum(ratio - 1 - np.log(ratio))), rtol=1e-5)


def test_the_pattern_of_dense_layers_is_loaded_under_its_name_of_before():
    model = small(curvature_method="mix", mix_pattern="dense")
    assert model.curvature_options["mix_pattern"] == "dense"
    loaded = type(model).from_config({**model.get_config(), "mix_pattern": "upstream"})
    assert loaded.get_config()["mix_pattern"] == "dense"


def test_blocks_of_a_step_are_those_of_the_batch():
    model = small(curvature_structure="block", curvature_method="exact", likelihood="gaussian", scale=0.5,
                  predictive="auto")
    x = images(8)
    y, _ = model.preprocess(x)
    model.count_data(64)
    model.refresh(y, [model.uncertain], (0, 1))  # the first one is all there is
    for mine, one in zip(model.posterior.factors_now(), curvature.ggn(model.graph, y, "block")):
        np.testing.assert_allclose(mine, 64 / 8 / 0.25 * one, rtol=1e-3, atol=1e-4 * np.abs(one).max())
    squares = sum(np.sum(variable.numpy() ** 2) for variable in model.uncertain)
    model.posterior.settle()
    parts = [one.numpy().astype(np.float64) for one in model.precision()]
    rest = sum(np.trace(np.linalg.inv(one)) - len(one) + np.linalg.slogdet(one)[1] for one in parts)
    np.testing.assert_allclose(model.kl(), 0.5 * (squares + rest), rtol=1e-4)
    assert model.is_linearised and set(model.ood_scores(x[:4])) >= {"latent", "likelihood", "typicality"}
    loaded = type(model).from_config(model.get_config())
    assert [w.shape for w in loaded.weights] == [w.shape for w in model.weights]


@pytest.mark.parametrize("structure", ["diag", "kron", "block"])
def test_a_draw_serves_some_steps_with_both_signs(structure):
    model = small(curvature_structure=structure, draw_every=4)
    model.step.assign(8)
    mean, found = curvature.flatten(model.graph.values()), []
    for number in range(5):
        found.append(curvature.flatten(model.training_draws((0, number))[0]) - mean)
        model.step.assign_add(1)
    for number, sign in ((1, -1.0), (2, 1.0), (3, -1.0)):
        np.testing.assert_allclose(found[number], sign * found[0], rtol=1e-4, atol=1e-5)
    alone = curvature.flatten(model.draw_weights(seeds.fold_in((0, 0), 0))) - mean
    np.testing.assert_allclose(found[0], alone, atol=1e-5)
    assert np.abs(found[4] - found[0]).max() > 0.1 and np.abs(found[4] + found[0]).max() > 0.1


def test_settings_that_were_not_saved_mean_what_they_meant():
    config = build("lae", hidden_units=(6,), latent_dim=2).get_config()
    for name in ("predictive", "curvature_structure", "hessian_every", "draw_every", "factor_every"):
        del config[name]
    model = LAE.from_config(config)
    assert model.posterior.structure == "diag" and not model.is_linearised
    assert model.draw_every == 1 and model.hessian_every == 1


ENDS = [(structure, update) for structure in ("diag", "kron", "block") for update in ("ema", "accumulate")]


@pytest.mark.parametrize("structure,update", some(ENDS, [("kron", "ema"), ("diag", "accumulate")]))
def test_the_last_curvature_is_that_of_training_data_at_the_means(structure, update):
    """With the same prior and noise the posterior is that of a Laplace approximation after training."""
    flags = dict(curvature_structure=structure, curvature_method="exact", likelihood="gaussian", scale=0.5,
                 prior_precision=3.0)
    x = images(32)
    model = small(final_curvature_data=1000, hessian_update=update, hessian_memory_factor=0.9, **flags)
    model.count_data(320)
    model.measure(images(8, seed=1), x)
    after = small("lae_posthoc", optimize=(), **flags)
    for one, other in zip(after.graph.variables, model.graph.variables):
        one.assign(other)
    after.measure(images(8, seed=1), np.concatenate([x] * 10))
    gain = 1.0 if update == "ema" else 10.0
    for one, other in zip(as_list(model.precision()), as_list(after.posterior.precision())):
        np.testing.assert_allclose(one - 3.0 * identity(one), gain * (other - 3.0 * identity(other)), rtol=2e-3,
                                   atol=2e-3 * np.abs(other).max())


def as_list(precision):
    return [np.asarray(one) for one in precision] if isinstance(precision, (list, tuple)) else [np.asarray(precision)]


def identity(matrix):
    return np.eye(len(matrix)) if matrix.ndim == 2 else 1.0


def test_the_running_curvature_stays_where_it_is_told():
    model = small(final_curvature_data=0)
    model.hessian.assign(tf.range(1.0, model.graph.size + 1.0))
    model.measure(images(8), images(32))
    np.testing.assert_array_equal(model.hessian, np.arange(1.0, model.graph.size + 1.0))
