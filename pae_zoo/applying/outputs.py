"""What `pae_zoo.apply` computes: a table of outputs, each a function of one batch."""

import dataclasses
import functools
from typing import Any, Callable, NoReturn, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.applying import anomalies as unusual
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.data import masks
from pae_zoo.evaluation.context import Context, sentence, to_unit
from pae_zoo.evaluation.metrics import coverage
from pae_zoo.evaluation.support import maxima
from pae_zoo.evaluation.support.observing import noise_of, observation_of
from pae_zoo.evaluation.support.restoring import RestorationFlags, Restorer, mask_of
from pae_zoo.models.capabilities import lacking


def codes(context: Context, options: Any, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """Means and stds of the latents: codes, code_std (no std for a deterministic code)."""
    posterior = context.model.encode(x, seed)
    if isinstance(posterior, tfp.distributions.VectorDeterministic):
        return {"codes": posterior.mean()}
    try:
        return {"codes": posterior.mean(), "code_std": posterior.stddev()}
    except NotImplementedError as error:
        context.say(f"codes are draws: the posterior has no closed-form moments. {sentence(error)}")
        return {"codes": posterior.sample(seed=seeds.stream(seed, "apply/codes"))}


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


def restoration(context: Context, options: Any, x: np.ndarray) -> Callable[[], dict[str, np.ndarray]]:
    """What --mask hides, --noise or --downsample blurs: restoration_map, _mean, _std, _predictive_std, _q05.., ..."""
    seen = masks.make(mask_of(options), x.shape[1:], len(x), options.seed)
    restorer = Restorer(context, options, context.seed_for("restoration"))

    def compute() -> dict[str, np.ndarray]:
        found = restorer.restore(to_unit(x), seen)
        names = ("map", "mean", "std", "predictive_std", "log_joint", "evidence", "information_gain", "chi2", "modes",
                 "draws_ess", "acceptance", "r_hat", "ess", "divergences", "chi2_dark", "chi2_bright",
                 "evidence_gauss_newton", "evidence_z", "evidence_z_gauss_newton", *maxima.RECORDED)
        values = {name: getattr(found, name) for name in names if getattr(found, name) is not None}
        values |= {name: found.quantiles[:, index] for index, name in enumerate(coverage.QUANTILES)}
        return {f"restoration_{name}": value for name, value in values.items()}

    return compute


def anomalies(context: Context, options: Any, x: np.ndarray) -> Callable[[], dict[str, np.ndarray]]:
    """p-values by the run's validation data: anomaly_score, _pvalue, _flag at --fdr, _rank, _residual."""
    calibration = context.once("calibration", _no_calibration)
    return lambda: unusual.find(context, options, x, calibration)


def _no_calibration() -> NoReturn:
    raise UserError("--outputs=anomalies needs a calibration, which pae_zoo.apply makes by the run's validation data.")


def imputed(context: Context, options: Any, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """What is missing given what was seen: imputed (means), imputed_std, and with --imputed_draws imputed_draws."""
    model, count = context.model, options.importance_samples
    mean_seed, draw_seed = seeds.split(seed, 2)
    mean, std = model.impute_mean(x, mean_seed, count)
    found = {"imputed": mean, "imputed_std": std}
    if options.imputed_draws:
        draws = model.impute(x, options.imputed_draws, draw_seed, count)
        found["imputed_draws"] = tf.transpose(draws, (1, 0, *range(2, draws.shape.rank)))
    return found


def labels(context: Context, options: Any, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """What a model of --condition=label says of the labels: label, the most probable, and label_probability of each."""
    log_prob = context.model.log_label_prob(x, options.importance_samples, seed)
    return {"label": tf.argmax(log_prob, axis=-1, output_type=tf.int32), "label_probability": tf.exp(log_prob)}


Output = Callable[[Context, Any, tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]

#: what --outputs takes; a function maps one batch and its seed to named arrays whose first axis is the batch
OUTPUTS: dict[str, Output] = {
    function.__name__: function for function in (
        codes, reconstruction, elbo, ood_scores, log_likelihood, imputed, labels)
}
#: outputs with a loop of their own: a function checks everything and returns what computes the named arrays
WHOLE: dict[str, Callable[[Context, Any, np.ndarray], Callable[[], dict[str, np.ndarray]]]] = {
    "restoration": restoration,
    "anomalies": anomalies,
}


def describe() -> dict[str, str]:
    """Returns {output: one line} for help texts."""
    return {name: function.__doc__.splitlines()[0] for name, function in {**OUTPUTS, **WHOLE}.items()}


#: what a model must offer for an output
NEEDS = {"elbo": "elbo", "ood_scores": "scores", "log_likelihood": "likelihood", "restoration": "prior",
         "anomalies": "scores", "imputed": "impute"}


def check_offered(names: Sequence[str], model_class: type) -> None:
    """Raises UserError when one of the outputs `names` is not offered by models of a class."""
    for name in names:
        if name in NEEDS and NEEDS[name] not in model_class.offers:
            possible = [one for one in (*OUTPUTS, *WHOLE) if NEEDS.get(one, "") in ("", *model_class.offers)]
            raise UserError(f"--outputs={name}: {lacking(model_class, NEEDS[name])} Leave {name} out of --outputs; "
                            f"allowed: {', '.join(possible)}.")


def check_model(model: Any, options: Any) -> None:
    """Raises UserError when the model cannot restore what the flags of --outputs=restoration describe, or impute."""
    if "imputed" in options.outputs and not model.takes_gaps:
        raise UserError("--outputs=imputed: the model was not trained on data with missing values; train one with "
                        "--missing=mask.")
    if "labels" in options.outputs and not model.num_labels:
        raise UserError("--outputs=labels: the model was trained without labels; train one with --condition=label.")
    if "restoration" in options.outputs:
        try:
            observation_of(model, noise_of(options, tuple(model.event_shape)), options.downsample)
        except NotImplementedError as error:
            raise _left_out("restoration", error) from error


def _left_out(name: str, error: NotImplementedError) -> UserError:
    return UserError(f"--outputs={name}: {sentence(error)} Leave {name} out of --outputs.")


def check_outputs(names: Sequence[str]) -> None:
    """Raises UserError when `names` is empty or holds an unknown output."""
    known = [*OUTPUTS, *WHOLE]
    if not names:
        raise UserError(f"--outputs is empty; allowed: {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise unknown("--outputs", name, known)


def check_restoration(options: Any, given: set[str]) -> None:
    """Raises UserError when --outputs=restoration comes without --mask or --downsample, or the reverse."""
    if "restoration" not in options.outputs:
        if given & {field.name for field in dataclasses.fields(RestorationFlags)}:
            raise UserError("--mask, --noise*, --downsample and --restoration_* are for --outputs=restoration; add it "
                            "to --outputs.")
    elif not (options.mask or options.downsample):
        raise UserError(f"--outputs=restoration needs --mask, what is hidden in your data: {masks.GRAMMAR}; none "
                        "for denoising alone. Or it needs --downsample.")
    else:
        mask_of(options)


def compute(
    context: Context, options: Any, x: np.ndarray, names: Sequence[str],
    keep: Callable[[dict[str, np.ndarray]], Any] = lambda found: None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Returns the arrays of the outputs `names` for data x (n, *event), in the order of x.

    Where an output fails, `keep` is called with the arrays of those before it. Every output is traced before the first
    is computed, so that one that the model does not offer is told at once: UserError with the model's own sentence.
    """
    functions: dict[str, Callable] = {}
    batch = next(context.batches(x))[0]
    for name in dict.fromkeys(names):
        try:
            if name in WHOLE:
                functions[name] = WHOLE[name](context, options, x)
            else:
                # One function for all calls with this context, which is compiled once.
                functions[name] = context.once(f"apply/{name}", functools.partial(
                    functools.partial, OUTPUTS[name], context, options))
                compiled: Any = context.compile(functions[name])
                compiled.get_concrete_function(tf.constant(batch), seeds.as_seed((0, 0)))
        except NotImplementedError as error:
            raise _left_out(name, error) from error
    found: dict[str, np.ndarray] = {}
    try:
        for number, (name, function) in enumerate(functions.items(), start=1):
            context.progress_prefix = f"[{number}/{len(functions)}]"
            found.update(function() if name in WHOLE else context.map_batches(function, x, name))
    except Exception:
        if found:
            keep(found)
        raise
    for name, values in found.items():
        broken = np.count_nonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if broken:
            context.say(f"{name}: {broken} of {len(values)} rows are not finite.")
    return found
