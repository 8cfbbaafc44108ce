"""lae_posthoc: Laplace approximation of a trained autoencoder's weights, scales by the evidence."""

import dataclasses
import math
import time
from collections.abc import Collection, Sequence
from typing import Any, Optional

import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo import likelihoods
from pae_zoo.core import fit_data, records, seeds
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices.gauss_newton import DIAG, KRON, STRUCTURES
from pae_zoo.curvature.posteriors import build as posteriors
from pae_zoo.models.weight_posterior import AUTO, GAUSSIANS, MC, CurvatureFlags, LaplaceAE

# Stream of the model's seed that probes and sketches are drawn from.
CURVATURE = "lae_posthoc/curvature"
GAMMA, SIGMA2 = "gamma", "sigma2"


@dataclasses.dataclass(frozen=True)
class HParams(CurvatureFlags):
    """Flags of the post-hoc Laplacian autoencoder; shared training flags drive its first stage, a plain autoencoder."""

    curvature_structure: str = hp.option(KRON, "What is kept of the curvature.", choices=STRUCTURES, before=DIAG)
    predictive: str = records.with_default("predictive", AUTO, CurvatureFlags)
    curvature_rank: int = hp.option(32, "low_rank: rank of the sketch.", low=1, high=100_000, smoke=8)
    curvature_data: int = hp.option(0, "Training data that the curvature is computed on, scaled up to all (0: all).",
                                    low=0)
    optimize: tuple[str, ...] = hp.option(
        (GAMMA, SIGMA2), "What the evidence decides: gamma, the prior precision, and sigma2, the observation variance; "
        "none: nothing.")
    prior_per_layer: bool = hp.option(False, "A prior precision for each layer instead of one for all.")
    evidence_method: str = hp.option("fixed_point", "How the evidence is maximised.",
                                     choices=("fixed_point", "gradient"))


@register_keras_serializable("pae_zoo")
class LAEPosthoc(LaplaceAE):
    """A trained autoencoder with q(theta) = N(theta_MAP, Lambda^-1), Lambda = kappa G / sigma^2 + gamma I.

    G is the generalised Gauss-Newton matrix of the training data at the trained weights, in one of the structures of
    `pae_zoo.curvature`; gamma and sigma^2 maximise the evidence (Miani et al., arXiv 2206.15078, the post-hoc variant;
    MacKay, Neural Computation 4 (1992) 415; Daxberger et al., arXiv 2106.14806). `measure`, which the launcher and
    `fit` call after training, computes all of it; `fit_posthoc` does it again on other data or for other scales.

    Args beyond `AE`: the flags of the model, see `HParams`.
    """

    before = {"predictive": MC, "curvature_structure": DIAG}

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", curvature_structure: str = KRON,
                 curvature_rank: int = 32, curvature_data: int = 0, optimize: Sequence[str] = (GAMMA, SIGMA2),
                 prior_per_layer: bool = False, evidence_method: str = "fixed_point", predictive: str = AUTO, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, structure=curvature_structure, rank=curvature_rank,
                         predictive=predictive, **kwargs)
        self.posthoc = dict(
            curvature_structure=curvature_structure, curvature_rank=int(curvature_rank),
            curvature_data=int(curvature_data), optimize=check_optimize(optimize, self.likelihood),
            prior_per_layer=bool(prior_per_layer), evidence_method=evidence_method)
        self.log_evidence = self.add_weight(name="log_evidence", shape=(), initializer="zeros", trainable=False)
        self._seconds = 0.0

    # ---- the fit -----------------------------------------------------------------------------------

    def measure(self, x: np.ndarray, train: Optional[np.ndarray] = None, batch_size: int = 256) -> None:
        """Fits the posterior to the training data, or to x without them, then measures the mean score on held-out x."""
        self.measure_noise(x, batch_size)  # it is a part of the curvature, so it comes first
        self.fit_posthoc(x if train is None else train, batch_size)
        self.measure_typical(x, batch_size)
        self.check_draws(x)

    # The curvature and the evidence are those of x.
    objective_takes = ()

    def training_examples(self, train: fit_data.Source, steps: Optional[int] = None) -> np.ndarray:
        return np.concatenate([x for x, _ in fit_data.weighted(train, steps)])

    def fit_posthoc(self, x: np.ndarray, batch_size: int = 256) -> dict[str, float]:
        """Computes G on data x (n, *event), sets gamma and sigma^2, and returns what it found; see `findings`.

        Raises UserError where the evidence has no maximum, and for a curvature that does not fit in memory.
        """
        start, settings = time.monotonic(), {**self.curvature_flags, **self.posthoc}
        rows = np.arange(len(x))
        if 0 < settings["curvature_data"] < len(x):
            rows = np.linspace(0, len(x) - 1, settings["curvature_data"]).astype(int)
        total, square, log_prob = self._sums(x, rows, batch_size)
        scale = len(x) / len(rows)
        total = posteriors.add(total, total, scale, 0.0)
        self.posterior.assign_mean([tf.convert_to_tensor(variable) for variable in self.graph.variables])
        self.posterior.assign_curvature(total)
        variance = float(self.likelihood.shared_precision()) ** -1 if self.is_gaussian else 1.0
        self.posterior.assign_scales(settings["prior_precision"], variance, settings["hessian_scale"])
        if self.is_gaussian:
            fit = dict(sse=scale * square, num_values=len(x) * self.likelihood.num_values)
        else:
            fit = dict(log_likelihood=scale * log_prob)
        if settings["optimize"]:
            self.posterior.optimise(
                **fit, per_layer=settings["prior_per_layer"], learn_noise=SIGMA2 in settings["optimize"],
                method=settings["evidence_method"])
            if SIGMA2 in settings["optimize"]:
                variance = float(self.posterior.noise_variance.numpy())
                self.likelihood.log_variance.assign(max(math.log(variance), likelihoods.MIN_LOG_VARIANCE))
        self.log_evidence.assign(self.posterior.log_evidence(**fit))
        self._seconds = time.monotonic() - start
        return self.findings()

    def _sums(self, x: np.ndarray, rows: np.ndarray, batch_size: int):
        """Returns over data x[rows]: the curvature, the squared error and log p(y|theta) at the mean, nats."""
        errors = tf.function(self._errors, autograph=False)
        total, square, log_prob = None, 0.0, 0.0
        for y, found in self.curvatures(x[rows], seeds.stream((self.seed, 0), CURVATURE), batch_size):
            total = found if total is None else posteriors.add(total, found)
            more = errors(y)
            square, log_prob = square + float(more[0]), log_prob + float(more[1])
        return total, square, log_prob

    def _errors(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = self.decoder_outputs(self.point(y))
        residual = tf.cast(self.likelihood.mean(outputs) - y, tf.float64)
        log_prob = tf.cast(self.likelihood.log_prob(outputs, y), tf.float64)
        return tf.reduce_sum(tf.square(residual)), tf.reduce_sum(log_prob)

    def findings(self) -> dict[str, float]:
        """Returns the scales of the posterior, the log evidence in nats, and the seconds that the fit took."""
        gamma = self.posterior.prior_precision.numpy()
        layers = [part.name for part in self.posterior.layout.chosen]
        found = {"posthoc/prior_precision": float(gamma[0])}
        if self.posthoc["prior_per_layer"]:
            found = {f"posthoc/prior_precision/{name}": float(value) for name, value in zip(layers, gamma)}
        return {
            **found,
            "posthoc/noise_variance": float(self.posterior.noise_variance.numpy()),
            "posthoc/log_evidence": float(self.log_evidence.numpy()),
            "time/curvature_s": round(self._seconds, 2),
        }

    # ---- building ----------------------------------------------------------------------------------

    @classmethod
    def skips_first_stage(cls, hparams: Any) -> bool:
        return bool(hparams.init_workdir)

    @classmethod
    def inherit(cls, hparams: Any, before: Any, given: Collection[str]) -> Any:
        """Returns what every model inherits; where sigma is constant in the run to start from, gamma alone is found."""
        found = super().inherit(hparams, before, given)
        if found.likelihood == "gaussian" and "optimize" not in given:
            return dataclasses.replace(found, optimize=tuple(word for word in found.optimize if word != SIGMA2))
        return found

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.posthoc}


def check_optimize(words: Sequence[str], likelihood: likelihoods.Likelihood) -> tuple[str, ...]:
    """Returns what the evidence decides, as a tuple; raises UserError for what is not known or does not go together."""
    words = tuple(word for word in words if word != "none")
    if set(words) - {GAMMA, SIGMA2} or words == (SIGMA2,):
        raise UserError(f"optimize takes {GAMMA}, {GAMMA},{SIGMA2} or none; received {','.join(words)}.")
    if type(likelihood) in GAUSSIANS and SIGMA2 in words and not isinstance(likelihood, likelihoods.GaussianLearned):
        raise UserError(f"optimize={','.join(words)} changes sigma^2, which likelihood 'gaussian' keeps constant. Take "
                        f"'gaussian_learned', or optimize={GAMMA}.")
    # Other likelihoods have no sigma.
    return words if type(likelihood) in GAUSSIANS else tuple(word for word in words if word != SIGMA2)


MODEL = LAEPosthoc
