"""The table of models that every shared test runs over: one row per model.

A row gives the flags that matter to the model; networks are tiny, so that fourteen models take minutes.
"""

import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf

from pae_zoo import models
from pae_zoo.experiment import record

EVENT_SHAPE = (6, 6, 1)
LATENT_DIM = 3
TOTAL_STEPS = 24


@dataclasses.dataclass(frozen=True)
class Row:
    """One model of the battery.

    Args:
      model: its module's name.
      flags: flags beyond the shared tiny ones.
    """

    model: str
    flags: dict = dataclasses.field(default_factory=dict)

    @property
    def offers(self) -> frozenset[str]:
        """What the model says that it can do."""
        return models.find(self.model).MODEL.offers


FLOW = {"density": "mixture_flow", "density_components": 2, "flow_depth": 1, "flow_units": (8,), "flow_bins": 4}

ROWS = {
    "ae": Row("ae"),
    "vae": Row("vae"),
    "vlae": Row("vlae", flags={"warmup_steps": 0}),  # its warm-up is that of vae
    "pae": Row("pae", flags={**FLOW, "flow_epochs": 2, "flow_batch_size": 16}),
    "rae": Row("rae", flags={"rae_regulariser": "gradient_penalty", "rae_weight": 0.1, "density_components": 2,
                             "flow_batch_size": 16}),
    "flow_vae": Row("flow_vae", flags=FLOW),
    "hf": Row("hf", flags={"num_flows": 3}),
    "iaf": Row("iaf", flags={"iaf_units": 8, "num_flows": 2}),
    "bbb_ae": Row("bbb_ae", flags={"test_samples": 4}),
    "ensemble_vae": Row("ensemble_vae", flags={"num_members": 3}),
    "deep_ensemble_ae": Row("deep_ensemble_ae", flags={"num_members": 2, "test_samples": 4}),
    "gp_circle": Row("gp_circle", flags={"num_points": 32, "epochs": 2}),
    "lae": Row("lae", flags={"test_samples": 4}),
    "lae_posthoc": Row("lae_posthoc", flags={"test_samples": 4}),
    "mcdropout_ae": Row("mcdropout_ae", flags={"test_samples": 4}),
    "rbf_vae": Row("rbf_vae", flags={"rbf_centres": 4, "rbf_batch_size": 16}),
    "mmd_vae": Row("mmd_vae"),
    "wae": Row("wae"),
    "savae": Row("savae", flags={"num_svi_steps": 2}),
}

#: the models that imitate published code, with the flags of those that they imitate
PUBLISHED = {name: dataclasses.replace(ROWS[name.removesuffix("_published")], model=name) for name in models.PUBLISHED}
PUBLISHED["vlae_published"] = Row("vlae_published", flags={"num_updates": 2})


def hparams(name: str, **changes):
    """Returns the hyper-parameters of the row `name`, tiny."""
    row = {**ROWS, **PUBLISHED}[name]
    tiny = dict(model=row.model, hidden_units=(12,), latent_dim=LATENT_DIM, batch_size=16, epochs=3, seed=3)
    return record.make(**{**tiny, **row.flags, **changes})


def build(name: str, event_shape=EVENT_SHAPE, adapted: bool = True, **changes):
    """Returns a tiny model of the row `name`, its data statistics set from `images()`."""
    params = hparams(name, **changes)
    model = models.find(params.model).MODEL.from_hparams(params, event_shape, TOTAL_STEPS)
    if adapted:
        model.adapt(images(128, event_shape=event_shape))
    return model


def images(num: int, seed: int = 0, event_shape=EVENT_SHAPE) -> np.ndarray:
    """Returns smooth random images in [0, 1], float32, (num, *event_shape)."""
    generator = np.random.default_rng(seed)
    codes = generator.normal(size=(num, 2))
    directions = np.random.default_rng(99).normal(size=(2, int(np.prod(event_shape))))
    noise = 0.1 * generator.normal(size=(num, directions.shape[1]))
    return (1 / (1 + np.exp(-(codes @ directions + noise)))).astype(np.float32).reshape(num, *event_shape)


@functools.cache
def built(name: str):
    """Returns the tiny model of the row `name`, one for all tests, which must leave it as it is."""
    return build(name)


def methods(model) -> dict:
    """Returns every public method that takes x as {name: function of x}, those of one output as a single array.

    Each gives tensors whose first axis is the batch, by name; those that a model does not offer are left out.
    """
    seed = (3, 4)

    def rows(function):  # draws have the batch second
        return lambda x: keras.ops.moveaxis(function(x), 1, 0)

    named = {
        "call": model,
        "encode": lambda x: model.encode(x, seed).sample(seed=seed),
        "codes": getattr(model, "codes", None),
        "preprocess": lambda x: dict(zip(("y", "log_det"), model.preprocess(x))),
        "objective": lambda x: model.objective(x, tf.constant(seed), False),
        "elbo": lambda x: model.elbo(x, seed),
        "log_likelihood": lambda x: model.log_likelihood(x, 3, seed),
        "importance_estimate": lambda x: _without_tail(model.importance_estimate(x, 3, seed)),
        "refined": lambda x: {"elbo": model.refined().elbo(x, seed), "point": model.refined().encode(x).mean()},
        "ood_scores": lambda x: model.ood_scores(x, seed),
        "predictive": lambda x: model.predictive(x, 3, seed),
        "predictive_log_prob": lambda x: model.predictive_log_prob(x, 3, seed),
        "draw_codes": rows(lambda x: model.draw_codes(x, 3, seed)),
        "draw_reconstructions": rows(lambda x: model.draw_reconstructions(x, 3, seed)),
        "latent_path": rows(lambda x: model.latent_path(x, seed)),
        "log_density_manifold": lambda x: model.log_density_manifold(x, seed),
        "interpolate": (lambda x: model.interpolate(x, x, 3)) if hasattr(model, "interpolate") else None,
    }

    def by_name(name, function):
        def apply(x):
            found = function(x)
            return found if isinstance(found, dict) else {name: found}

        return apply

    named = {name: by_name(name, function) for name, function in named.items() if function is not None}
    one = images(1, event_shape=model.event_shape)
    return {name: function for name, function in named.items() if _offers(function, one)}


def _without_tail(estimate) -> dict:
    """Returns the numbers of an importance estimate of few draws, whose weights have no tail."""
    return {name: value for name, value in estimate._asdict().items() if name != "pareto_k"}


def latent_methods(model) -> dict:
    """Returns every public method that takes latents as {name: function of z}, those that the model offers."""
    seed = (3, 4)
    named = {
        "decode": lambda z: model.decode(z).mean(),
        "decode_mean": model.decode_mean,
        "decode_grid": lambda z: tf.stack(model.decode_grid(z, 3, seed), axis=1),
        "log_prob_latent": model.log_prob_latent,
        "latent_from_base": model.latent_from_base,
        "base_from_latent": model.base_from_latent,
        "mean_and_members": lambda z: model.mean_and_members(z)[0],
        "mean_and_std": lambda z: tf.stack(model.mean_and_std(z), axis=1),
    }
    z = np.zeros((1, model.latent_dim), np.float32)
    return {name: function for name, function in named.items() if _offers(function, z)}


def _offers(function, example) -> bool:
    try:
        function(example)
    except (NotImplementedError, AttributeError):
        return False
    return True
