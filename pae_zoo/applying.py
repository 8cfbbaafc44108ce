"""What `pae_zoo.apply` computes: a table of outputs, each a function of one batch."""

import functools
from typing import Any, Callable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo import hparams as hp
from pae_zoo import seeds
from pae_zoo.errors import UserError
from pae_zoo.evaluation.context import Context, sentence


def codes(context: Context, options: Any, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """Means and stds of the latents: codes, code_std (no std for a deterministic code)."""
    posterior = context.model.encode(x, seed)
    if isinstance(posterior, tfp.distributions.VectorDeterministic):
        return {"codes": posterior.mean()}
    try:
        return {"codes": posterior.mean(), "code_std": posterior.stddev()}
    except NotImplementedError as error:
        context.say(f"codes are draws: the posterior has no closed-form moments. {sentence(error)}")
        return {"codes": posterior.sample(seed=seeds.fold_in(seed, 1))}


def reconstruction(context: Context, options: Any, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """The deterministic reconstruction: reconstruction."""
    return {"reconstruction": context.model(x)}


def elbo(context: Context, options: Any, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """The evidence lower bound, nats per datum: elbo."""
    return {"elbo": context.model.elbo(x, seed)}


def log_likelihood(context: Context, options: Any, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """The importance-sampled log p(x), nats per datum: log_likelihood."""
    return {"log_likelihood": context.model.log_likelihood(x, options.importance_samples, seed)}


def ood_scores(context: Context, options: Any, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """Every score of the model, higher for more unusual data: ood_<score>."""
    return {f"ood_{name}": values for name, values in context.model.ood_scores(x, seed).items()}


Output = Callable[[Context, Any, tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]

#: what --outputs takes; a function maps one batch and its seed to named arrays whose first axis is the batch
OUTPUTS: dict[str, Output] = {
    function.__name__: function for function in (codes, reconstruction, elbo, ood_scores, log_likelihood)
}


def describe() -> dict[str, str]:
    """Returns {output: one line} for help texts."""
    return {name: function.__doc__.splitlines()[0] for name, function in OUTPUTS.items()}


def check_outputs(names: Sequence[str]) -> None:
    """Raises UserError when `names` is empty or holds an unknown output."""
    if not names:
        raise UserError(f"--outputs is empty; allowed: {', '.join(OUTPUTS)}.")
    for name in names:
        if name not in OUTPUTS:
            raise UserError(f"--outputs={name} is unknown; allowed: {', '.join(OUTPUTS)}"
                            f"{hp.suggestion(name, list(OUTPUTS))}.")


def compute(context: Context, options: Any, x: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the arrays of the outputs `names` for data x (n, *event), in the order of x.

    Every output is traced before the first is computed, so that one that the model does not offer is told
    at once: UserError with the model's own sentence.
    """
    functions = {name: functools.partial(OUTPUTS[name], context, options) for name in dict.fromkeys(names)}
    batch = next(context.batches(x))[0]
    for name, function in functions.items():
        try:
            context.compile(function).get_concrete_function(tf.constant(batch), seeds.as_seed((0, 0)))
        except NotImplementedError as error:
            raise UserError(f"--outputs={name}: {sentence(error)} Leave {name} out of --outputs.") from error
    found: dict[str, np.ndarray] = {}
    for number, (name, function) in enumerate(functions.items(), start=1):
        context.progress_prefix = f"[{number}/{len(functions)}]"
        found.update(context.map_batches(function, x, name))
    for name, values in found.items():
        broken = np.count_nonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if broken:
            context.say(f"{name}: {broken} of {len(values)} rows are not finite.")
    return found
