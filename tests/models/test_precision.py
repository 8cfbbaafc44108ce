"""Numbers of any type as x, and models of 64 bits: what every method and a training step give."""

import battery
import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import some

VARIANTS = [
    ("vae", {"capacity": 5.0, "capacity_steps": 4}), ("vae", {"likelihood": "gaussian", "scale_annealing_steps": 4}),
    ("vae", {"bound": "iwae", "num_latent_samples": 2}), ("flow_vae", {"beta_annealing_steps": 4}),
    ("ae", {"code_noise": 0.1}), ("ae", {"likelihood": "gaussian_pixel", "objective_type": "hybrid"}),
    ("vae", {"likelihood": "bernoulli", "kl": "mc"}), ("vae", {"likelihood": "gaussian_decoder"}),
    ("lae_published", {"alpha": 0.1}), ("lae", {"predictive": "linearised", "train_samples": 2}),
    ("iaf_published", {}), ("savae", {"kl": "mc"}), ("bbb_ae_published", {}),
    ("vlae", {"covariance": "low_rank", "rank": 2}), ("vlae", {"update_schedule": "line_search"}),
    ("ensemble_vae", {"assignment": "per_batch"}), ("pae", {"flow": ("maf",)}),
]  # fmt: skip


@pytest.fixture
def double():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("name", some(battery.ROWS, ["vae", "pae", "gp_circle"]))
def test_x_of_any_type_is_cast(name):
    model = battery.built(name)
    grey = (255 * battery.images(2)).astype(np.uint8)
    unit = (grey / 255).astype(np.float32)
    binary = battery.images(2) > 0.5
    near = unit.astype(np.float16)
    kinds = [(unit.astype(np.float64), unit), (grey, unit), (binary, binary.astype(np.float32)),
             (binary.astype(np.int64), binary.astype(np.float32)), (near, near.astype(np.float32)),
             (tf.cast(binary, tf.bfloat16), binary.astype(np.float32))]  # fmt: skip
    for method, function in battery.methods(model).items():
        for x, same in kinds if method == "preprocess" else kinds[:1]:
            wanted = function(same)
            for key, value in function(x).items():
                assert value.dtype == tf.float32, (method, key)
                np.testing.assert_allclose(value, wanted[key], rtol=1e-4, atol=1e-5, err_msg=f"{method} {key}")
    for method, function in battery.latent_methods(model).items():
        assert np.array(function(np.zeros((2, model.latent_dim)))).dtype == np.float32, method


@pytest.mark.parametrize("name, changes", [
    *(pytest.param(name, {}, marks=() if name in ("vae", "pae", "lae", "vlae") else pytest.mark.full)
      for name in battery.ROWS),
    *(pytest.param(*variant, marks=pytest.mark.full) for variant in VARIANTS)])  # fmt: skip
def test_a_model_of_64_bits_computes_and_trains_in_them(name, changes, double):
    if name == "gp_circle":
        changes = {"num_points": 20}
    model = battery.build(name, **changes)
    assert model.float_type == tf.float64
    x = battery.images(2)
    for method, function in battery.methods(model).items():
        for key, value in function(x).items():
            assert value.dtype == tf.float64 and np.isfinite(value).all(), (method, key)
    for method, function in battery.latent_methods(model).items():
        assert np.array(function(np.zeros((2, model.latent_dim), np.float32))).dtype == np.float64, method
    if "sample" in model.offers:
        assert model.sample(2, 5).dtype == tf.float64
    model.compile("sgd", run_eagerly=True, jit_compile=False)
    for batch in (battery.images(24), battery.images(24).astype(np.float64)):
        terms = model.train_on_batch(batch, return_dict=True)
        assert all(np.isfinite(value) for value in terms.values())


def test_what_is_no_number_is_told():
    for x in (np.full((2, 6, 6, 1), "a"), np.zeros((2, 6, 6, 1), complex)):
        with pytest.raises(ValueError, match="real numbers"):
            battery.built("ae").codes(x)
