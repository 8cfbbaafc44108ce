"""The table of signatures: what a model is served as."""

import dataclasses
from typing import Any, Callable, Union

import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import seeds
from pae_zoo.serving import searches


@dataclasses.dataclass(frozen=True)
class Signature:
    """One served function.

    Args:
      name: its key in the SavedModel. Of several entries with the same name the first that can be traced wins.
      inputs: names among x, mask, z, n and seed, or named `tf.TensorSpec`s of other inputs, in the order of `function`.
      function: takes the inputs and returns {output name: tensor}; raises NotImplementedError, with a sentence,
        where the model's settings exclude it.
      needs: what the model must offer for it; "" for nothing.
      made: whether `function` takes nothing and makes the function, outside of the graph: what has weights of its own.
    """

    name: str
    inputs: tuple[Union[str, tf.TensorSpec], ...]
    function: Callable[..., Any]
    needs: str = ""
    made: bool = False


def signatures(model: Any, importance_samples: int = 100) -> list[Signature]:
    """Returns the table of signatures: those of every model, then the model's own.

    A model adds its own by a method `serving_signatures()` that returns {name: (inputs, function)}, with the
    parts of `Signature`; one of the same name as below takes its place.
    """

    def encode(x):
        posterior = model.encode(x)
        if isinstance(posterior, tfp.distributions.VectorDeterministic):
            return {"mean": posterior.mean()}
        return {"mean": posterior.mean(), "stddev": posterior.stddev()}

    def encode_draw(x, seed):
        proposal_seed, draw_seed = seeds.split(seed, 2)
        return {"z": model.encode(x, proposal_seed).sample(seed=draw_seed)}

    def impute(x, seed):
        mean, std = model.impute_mean(x, seed, importance_samples)
        return {"mean": mean, "std": std}

    def sample_label(label, n, seed):
        return {"x": model.given(tf.clip_by_value(label, 0, model.num_labels - 1)).sample(n, seed)}

    def labels(x, seed):
        log_prob = model.log_label_prob(x, importance_samples, seed)
        return {"log_prob": log_prob, "label": tf.argmax(log_prob, axis=-1, output_type=tf.int32)}

    def predictive(x, seed):
        found = model.predictive(x, getattr(model, "test_samples", importance_samples), seed)
        return {"mean": found["mean"], "std": tf.sqrt(found["epistemic_variance"]),
                "noise_std": tf.sqrt(found["aleatoric_variance"]), "latent_mean": found["latent_mean"],
                "latent_std": tf.sqrt(found["latent_variance"])}  # fmt: skip

    def log_prob(x):
        z = model.point(model.preprocess(x)[0])
        return {"log_prob_latent": model.log_prob_latent(z), "z": z, "u": model.base_from_latent(z)}

    own = getattr(model, "serving_signatures", dict)()
    label = tf.TensorSpec((), tf.int32, name="label")

    def of_z(name):
        return tf.TensorSpec((None, model.latent_dim), tf.float32, name=name)

    conditional = [Signature("sample_label", (label, "n", "seed"), sample_label, "sample"),
                   Signature("labels", ("x", "seed"), labels)]  # fmt: skip
    return [
        *(Signature(name, tuple(inputs), function) for name, (inputs, function) in own.items()),
        Signature("serving_default", ("x",), lambda x: {"x": model(x)}),
        Signature("encode", ("x",), encode, "moments"),
        Signature("encode", ("x", "seed"), encode_draw),  # a posterior without closed-form moments
        Signature("decode", ("z",), lambda z: {"x": model.decode_mean(z)}),
        Signature("sample", ("n", "seed"), lambda n, seed: {"x": model.sample(n, seed)}, "sample"),
        Signature("elbo", ("x", "seed"), lambda x, seed: {"elbo": model.elbo(x, seed)}, "elbo"),
        Signature("ood_scores", ("x", "seed"), lambda x, seed: dict(model.ood_scores(x, seed)), "scores"),
        Signature("predictive", ("x", "seed"), predictive, "predictive"),
        Signature("log_prob", ("x",), log_prob, "prior"),
        Signature("log_prob_latent", ("z",), lambda z: {"log_prob": model.log_prob_latent(z)}, "prior"),
        Signature("log_density_manifold", ("x",),
                  lambda x: {"log_density_manifold": model.log_density_manifold(x)}, "surface"),
        Signature("restore", ("x", "mask", "seed"), searches.restoration(model), "prior"),
        Signature("geodesic", (of_z("start"), of_z("end")), lambda: searches.geodesics(model), made=True),
        *(conditional if getattr(model, "num_labels", 0) else []),
        *([Signature("impute", ("x", "seed"), impute, "impute")] if getattr(model, "takes_gaps", False) else []),
        Signature(
            "log_likelihood", ("x", "seed"),
            lambda x, seed: {"log_likelihood": model.log_likelihood(x, importance_samples, seed)}, "likelihood",
        ),
    ]  # fmt: skip


def input_specs(model: Any) -> dict[str, tf.TensorSpec]:
    """Returns the inputs that signatures share: data x, a mask, latents z, a number n and a pair of integers seed."""
    return {
        "x": tf.TensorSpec((None, *model.event_shape), tf.float32, name="x"),
        "mask": tf.TensorSpec((None, *model.event_shape), tf.float32, name="mask"),
        "z": tf.TensorSpec((None, model.latent_dim), tf.float32, name="z"),
        "n": tf.TensorSpec((), tf.int32, name="n"),
        "seed": tf.TensorSpec((2,), tf.int32, name="seed"),
    }
