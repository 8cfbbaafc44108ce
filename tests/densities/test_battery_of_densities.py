"""Every density by its name: what holds for all of them, and what tells them apart."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import pae_zoo
from pae_zoo import densities

NAMES = pytest.mark.parametrize("name", [*densities.NAMES, "factors"])
TINY = {"flow": dict(depth=1, hidden_units=(8,)), "mixture_flow": dict(depth=1, hidden_units=(8,), components=2),
        "flow_matching": dict(hidden_units=(8,), steps=4), "gaussian_mixture": dict(components=2),
        "factors": dict(density="student_mixture", components=2, factors=1)}
SETTINGS = densities.Settings(epochs=2, batch_size=64)


def make(name, num_dims=2, **options):
    options = {"density": name, **TINY.get(name, {}), **options}
    return densities.make(options.pop("density"), num_dims, **options)


def data(num=240, num_dims=2, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(num, num_dims)) @ (np.eye(num_dims) + 0.3)
    return (x + 3.0 * generator.integers(2, size=(num, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    made = {}

    def get(name):
        if name not in made:
            made[name] = make(name)
            densities.train(made[name], data(), settings=SETTINGS, jit_compile=False)
        return made[name]

    return get


@NAMES
def test_map_and_density_agree(fitted, name):
    """z -> u -> z; log p(z) = log p(u) + log det, at any leading shape; NaN in is NaN out, of that row alone."""
    density, x = fitted(name), data(12, seed=1)
    u, log_det = density.inverse(x)
    np.testing.assert_allclose(density.forward(u)[0], x, atol=2e-2 if name == "flow_matching" else 2e-4)
    np.testing.assert_allclose(density.log_prob(x), density.base_distribution().log_prob(u) + log_det, rtol=1e-4)
    np.testing.assert_allclose(density.log_prob(x.reshape(3, 4, 2)), np.reshape(density.log_prob(x), (3, 4)), rtol=1e-5)
    x[3, 1] = np.nan
    assert np.isnan(density.log_prob(x)).tolist() == [i == 3 for i in range(12)]


@NAMES
def test_it_integrates_to_one(fitted, name):
    side = np.linspace(-14.0, 18.0, 161)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2).astype(np.float32)
    log_prob = tf.function(fitted(name).log_prob)(grid)
    mass = np.exp(log_prob.numpy().astype(np.float64)).sum() * (side[1] - side[0]) ** 2
    assert mass == pytest.approx(1.0, abs=0.02)


@NAMES
def test_it_beats_the_start_and_draws_what_it_says(fitted, name):
    """Better than one Gaussian or equal to it, and samples with the mean and spread of the data."""
    density, x = fitted(name), data()
    if name != "flow_matching":  # two epochs of it are no training
        assert np.mean(density.log_prob(x)) > np.mean(fitted("gaussian").log_prob(x)) - 0.05
    draws = density.sample(4000, seed=(0, 1)).numpy()
    np.testing.assert_allclose(draws.mean(0), x.mean(0), atol=0.6)
    np.testing.assert_allclose(draws.std(0), x.std(0), rtol=0.35)
    np.testing.assert_array_equal(draws[:5], density.sample(4000, seed=(0, 1))[:5])


@NAMES
def test_save_load_export(fitted, name, tmp_path):
    density, x = fitted(name), data(5)
    density.save(tmp_path / "density.keras")
    loaded = keras.models.load_model(tmp_path / "density.keras")
    np.testing.assert_array_equal(loaded.log_prob(x), density.log_prob(x))
    assert loaded.get_config() == density.get_config()
    density.export(str(tmp_path / "served"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(tf.constant(x)), density.log_prob(x), rtol=1e-4, atol=1e-4)


@NAMES
def test_double_precision_agrees(fitted, name):
    density, x = fitted(name), data(20)
    config = {**density.get_config(), "dtype": "float64"}
    if "base" in config:
        config["base"]["config"]["dtype"] = "float64"
    double = type(density).from_config(config)
    for mine, theirs in zip(double.weights, density.weights, strict=True):
        mine.assign(tf.cast(theirs, mine.dtype))
    np.testing.assert_allclose(density.log_prob(x), double.log_prob(x), rtol=1e-3, atol=1e-3)


@NAMES
def test_the_seed_fixes_all(name):
    first, same = (make(name, seed=5) for _ in range(2))
    for density in (first, same):
        densities.train(density, data(120), settings=densities.Settings(epochs=1, batch_size=60), jit_compile=False)
    for one, other in zip(first.weights, same.weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ("gaussian", "gaussian_mixture", "student_mixture", "flow", "mixture_flow"))
@pytest.mark.parametrize("case", ("constant", "duplicated", "one column"))
def test_awkward_columns(name, case):
    x = data(80, num_dims=3)
    x = {"constant": np.c_[x, np.full(80, 2.0)], "duplicated": np.c_[x, x[:, :1]], "one column": x[:, :1]}[case]
    density = make(name, x.shape[1])
    densities.train(density, x.astype(np.float32), settings=densities.Settings(epochs=1), jit_compile=False)
    assert np.isfinite(density.log_prob(x)).all() and np.isfinite(density.sample(20, seed=(0, 0))).all()


def test_few_rows_take_no_steps_and_do_not_overfit():
    """100 rows of 9 columns of one Gaussian: close to the truth on new rows, and no layer is trained."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2100, 9)).astype(np.float32)
    density = densities.make("mixture_flow", 9)
    assert densities.train(density, x[:100]) == {} and int(density.step) == 0
    truth = 4.5 * (1 + np.log(2 * np.pi))
    assert -np.mean(density.log_prob(x[100:])) < truth + 1.0


def test_a_flow_starts_as_its_mixture():
    """Before the first step the layers permute: the likelihood is that of the mixture alone, in other coordinates."""
    x = data(400, num_dims=4)
    both = densities.make("mixture_flow", 4, components=3, seed=1)
    densities.train(both, x)
    assert int(both.step) == 0
    u, log_det = both.inverse(x)
    np.testing.assert_allclose(both.log_prob(x), both.base.parameters().log_prob(u) + log_det, rtol=1e-3, atol=1e-3)


def test_training_keeps_what_is_best_on_validation():
    x, held_out = data(600), data(100, seed=9)
    flow = densities.make("flow", 2, depth=1, hidden_units=(8,))
    settings = densities.Settings(epochs=3, learning_rate=3e-2, batch_size=100)
    losses = densities.train(flow, x, held_out, settings=settings, jit_compile=False)["val_nll"]
    assert len(losses) == 4
    np.testing.assert_allclose(-np.mean(flow.log_prob(held_out)), min(losses), rtol=1e-4)


@pytest.mark.parametrize("call, what", [
    (lambda: densities.make("gausian", 2), "did you mean gaussian|Did you mean"),
    (lambda: densities.make("flow", 2, components=3), "has no components"),
    (lambda: densities.make("flow_matching", 2, factors=1), "has no factors"),
    (lambda: densities.make("mixture_flow", 3, factors=3), "from 1 to 2 factors; received factors=3"),
    (lambda: densities.fit(np.full((20, 2), np.nan), "gaussian"), "finite|NaN"),
    (lambda: densities.fit(np.zeros(5), "gaussian"), "received shape"),
])  # fmt: skip
def test_bad_input_is_told(call, what):
    with pytest.raises(pae_zoo.UserError, match=what):
        call()


@pytest.mark.parametrize("name", ("gaussian", "gaussian_mixture", "student_mixture", "factors"))
def test_densities_without_layers_have_a_closed_form(fitted, name):
    density, x = fitted(name), data(20, seed=3)
    whole = densities.parameters_of(density)
    np.testing.assert_allclose(whole.log_prob(x), density.log_prob(x), rtol=1e-3, atol=1e-3)
    given = whole.conditional([1], [1.5])
    expected = whole.log_prob(np.array([[0.5, 1.5]])) - whole.marginal(np.array([1])).log_prob(np.array([[1.5]]))
    np.testing.assert_allclose(given.log_prob(np.array([[0.5]])), expected, rtol=1e-8)


def test_densities_with_layers_have_none(fitted):
    with pytest.raises(NotImplementedError, match="student_mixture"):
        densities.parameters_of(fitted("mixture_flow"))
