"""What both Laplacian autoencoders are: flags of the curvature, a Gaussian over the weights, predictions from it."""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from pae_zoo import curvature, likelihoods, networks
from pae_zoo.core import hparams as hp
from pae_zoo.core import inputs, records, seeds, trainable
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.core.errors import UserError, check_choice
from pae_zoo.core.inputs import TensorLike
from pae_zoo.curvature.matrices.gauss_newton import DENSE, DIAG, LAST_LAYER, METHODS, Options
from pae_zoo.curvature.posteriors import build as posteriors
from pae_zoo.models.base import Autoencoder
from pae_zoo.models.bayesian import PREPROCESS, BayesianAE, Network
from pae_zoo.models.parts import weights
from pae_zoo.models.parts.robust_scores import RobustScores

AUTO, MC, LINEARISED = "auto", "mc", "linearised"
PREDICTIVES = (AUTO, MC, LINEARISED)
WIDTH = "width"
# Of these H is a multiple of I, so that sigma enters by a factor alone.
GAUSSIANS = (likelihoods.Gaussian, likelihoods.GaussianLearned)
# Fewer data than these tell no quartiles.
LEAST_DATA = 8
# Data that drawn networks are tried on, and the error, in units of the mean network's, from which on they say so.
CHECKED_DATA, MOST_LOSS = 200, 10.0
CHECK = "laplace/check"
# The sketch behind densities, and its directions.
DENSITY, DENSITY_RANK = "laplace/density", 32


@dataclasses.dataclass(frozen=True)
class CurvatureFlags(records.SampleFlags, records.SharedHParams):
    """Flags of the curvature and of the Gaussian over weights."""

    curvature_method: str = hp.option("mc", "How the curvature of a batch is computed.", choices=METHODS[DIAG])
    curvature_probes: int = hp.option(1, "mc, hybrid: probes for each datum.", low=1, high=10_000)
    mix_width: int = hp.option(1024, "mix: full matrices where a layer has at most so many outputs.", low=0)
    mix_pattern: str = hp.option(
        WIDTH, "mix: where full matrices are kept: by --mix_width, or 'dense': between the dense layers before a "
        "reshape and after a flattening, whatever their widths.", choices=(WIDTH, DENSE))
    hybrid_layers: int = hp.option(2, "hybrid: layers from the last one that are exact.", low=0)
    curvature_memory: int = hp.option(2048, "MiB that the curvature may take.", low=1)
    bayesian_layers: tuple[str, ...] = hp.option(
        ("all",), "Layers with uncertain weights: all, encoder, decoder, last, or their names.")
    prior_precision: float = hp.option(1.0, "Precision gamma of the prior N(0, 1/gamma) of a weight.", above=0.0)
    hessian_scale: float = hp.option(1.0, "Factor kappa of the curvature in the precision.", above=0.0)
    predictive: str = hp.option(
        MC, "How moments and scores are found: mc, from drawn networks; linearised, in one pass, the network taken as "
        "linear in its weights; auto: linearised where the likelihood is a Gaussian with one sigma, else mc.",
        choices=PREDICTIVES, before=MC)
    score_precision: float = hp.option(
        1e5, "Of the score spread: curvature for sigma = 1 over prior precision, r in Lambda = r G + 1, whatever the "
        "scales of draws and densities.", above=0.0)
    density_rank: int = hp.option(
        DENSITY_RANK, "Linearised: directions in which the log-density knows the covariance of all values of a datum, "
        "which it takes to be even in all others; all of it where these are half of them or more, and for 0.", low=0)


class LaplaceAE(BayesianAE):
    """An autoencoder with `posterior`, a Gaussian over the weights of encoder and decoder around their values.

    With predictive="linearised" the output is taken to be linear in the weights (Immer et al., AISTATS 2021): codes
    have the variances of J Lambda^-1 J^T. So have outputs, v, but for a diagonal Lambda, where they are carried through
    the layers one value apart from the others; and

        mean log p = sum_p [-1/2 log 2 pi sigma^2 - ((y_p - f_p)^2 + v_p) / (2 sigma^2)]
        log mean p = log N(y; f, J Lambda^-1 J^T + sigma^2 I), the covariance over all values known in a few directions

    Drawn codes and reconstructions, and the grid over latents, are of drawn networks in any case.

    The score spread is of the linearised codes, whatever `predictive` is, and has a precision of its own: a posterior
    that is wide enough for its codes to tell other data is far too wide to draw from.

    Args beyond `BayesianAE`: flags of the model.
    """

    # The posterior is that of the weights at the end.
    predicts_in_training = False
    #: settings whose default has changed, with what a model that was saved without them meant
    before: dict[str, Any] = {"predictive": MC}

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", structure: str = DIAG,
                 curvature_method: str = "mc", curvature_probes: int = 1, mix_width: int = 1024,
                 mix_pattern: str = WIDTH, hybrid_layers: int = 2, rank: int = 32, curvature_memory: int = 2048,
                 bayesian_layers: Sequence[str] = ("all",), prior_precision: float = 1.0, hessian_scale: float = 1.0,
                 predictive: str = MC, score_precision: float = 1e5, density_rank: int = DENSITY_RANK, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        self.curvature_flags: dict[str, Any] = dict(
            curvature_method=curvature_method, curvature_probes=int(curvature_probes), mix_width=int(mix_width),
            mix_pattern=mix_pattern, hybrid_layers=int(hybrid_layers), curvature_memory=int(curvature_memory),
            bayesian_layers=tuple(bayesian_layers), prior_precision=float(prior_precision),
            hessian_scale=float(hessian_scale), predictive=predictive, score_precision=float(score_precision),
            density_rank=int(density_rank),
        )  # fmt: skip
        check_choice(mix_pattern, (WIDTH, DENSE), "mix_pattern")
        check_choice(predictive, PREDICTIVES, "predictive")
        if not (math.isfinite(score_precision) and score_precision > 0):
            raise UserError(f"score_precision={score_precision} must be finite and above 0.")
        self.graph = curvature.read(self.codes_chain())
        self.is_gaussian = type(self.likelihood) in GAUSSIANS
        self.is_linearised = predictive == LINEARISED or (predictive == AUTO and self.is_gaussian)
        if predictive == LINEARISED and not self.is_gaussian:
            raise UserError("predictive='linearised' needs a Gaussian with one sigma; received the likelihood "
                            f"{type(self.likelihood).__name__}. Take gaussian or gaussian_learned, or predictive='mc'.")
        # Structures of which one way is enough are computed exactly, whatever the method for others.
        method = "exact" if structure in ("low_rank", "last_layer") else curvature_method
        self.curvature_options: dict[str, Any] = dict(
            structure=structure, method=method, layers=tuple(bayesian_layers),
            likelihood="gaussian" if self.is_gaussian else self.likelihood, num_probes=int(curvature_probes),
            mix_width=int(mix_width), hybrid_layers=int(hybrid_layers), rank=int(rank), memory=int(curvature_memory))
        if mix_pattern == DENSE:
            self.curvature_options["mix_pattern"] = DENSE
        Options(**self.curvature_options)  # raises for what does not fit together
        self.posterior = self._build_posterior()
        self.posterior.assign_scales(prior_precision=prior_precision, kappa=hessian_scale)
        self._prepared = None
        self.robust_scores = RobustScores(2, name="robust_scores")

    def _build_posterior(self) -> posteriors.WeightPosterior:
        structure, layers = self.curvature_options["structure"], self.curvature_options["layers"]
        options = {"rank": self.curvature_options["rank"]} if structure == "low_rank" else {}
        example = None
        if structure == LAST_LAYER:  # its form follows from the network: that of the curvature of any one datum
            example = curvature.ggn_fn(self.graph, tf.zeros((1, *self.event_shape)), **self.curvature_options)
        return posteriors.build(structure, self.graph, example, layers=layers, **options)

    # ---- networks ----------------------------------------------------------------------------------

    def network(self, seed: tf.Tensor) -> Network:
        """Returns the network whose weights `seed` draws from the posterior."""
        return self.network_at(*self.drawn_weights(seed))

    def drawn_weights(self, seed: tf.Tensor) -> tuple[Sequence, Sequence[tf.Tensor]]:
        mean = [tf.convert_to_tensor(variable) for variable in self.graph.variables]
        return self.graph.variables, self.posterior.sample_one(seed, self._prepared, mean)

    def stacked_decoders(self, drawn: Sequence[tf.Tensor]) -> networks.StackedDecoder:
        with self._factored():
            return super().stacked_decoders(drawn)

    def network_at(self, variables: Sequence, values: Sequence[tf.Tensor]) -> Network:
        """Returns the network with `values` in the place of some of its variables."""

        def encode(y):
            with weights.replaced(variables, values):
                return self.point(y)

        def decode(z):
            with weights.replaced(variables, values):
                return self.decoder_outputs(z)

        return Network(encode, decode)

    @contextlib.contextmanager
    def _factored(self):
        """Inside, `network` finds the factors of the precision made, once for all networks of a loop."""
        self._prepared = self.posterior.prepare()
        try:
            yield
        finally:
            self._prepared = None

    def over_networks(self, num_samples: int, seed: seeds.Seed, step: Callable, state: Any) -> Any:
        with self._factored():
            return super().over_networks(num_samples, seed, step, state)

    def draw(self, y: tf.Tensor, num_samples: int, seed: seeds.Seed) -> tuple[tf.Tensor, tf.Tensor]:
        with self._factored():
            return super().draw(y, num_samples, seed)

    # ---- moments -----------------------------------------------------------------------------------

    def moments(self, y: tf.Tensor, num_samples: int, seed: seeds.Seed) -> dict[str, tf.Tensor]:
        if not self.is_linearised:
            return super().moments(y, num_samples, seed)
        return {**self._linear_moments(y), "log_mean_prob": self._joint(y)["log_prob"]}

    def _linear_moments(self, y: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the linearised moments of y (batch, *event) without the density of all values together."""
        memory = self.curvature_flags["curvature_memory"]
        found = curvature.predict(self.posterior, self.graph.models, y, memory=memory)
        mean, spread = found["mean"], found["variance"]
        noise = tf.broadcast_to(self.likelihood.variance(mean), tf.shape(mean))
        axes = list(range(1, y.shape.rank))
        square = tf.square(tf.cast(y, mean.dtype) - mean)
        moments = {
            "mean": mean,
            "aleatoric_variance": noise,
            "epistemic_variance": spread,
            "latent_mean": found["latent_mean"],
            "latent_variance": tf.linalg.diag_part(found["latent_covariance"]),
            "mean_log_prob": -0.5 * tf.reduce_sum(LOG_2PI + tf.math.log(noise) + (square + spread) / noise, axis=axes),
        }
        return {name: inputs.only_finite(value, y, value.shape.rank - 1, len(axes)) for name, value in moments.items()}

    def _joint(self, y: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what `density` does, of y (batch, *event)."""
        axes, size, rank = y.shape.rank - 1, math.prod(self.event_shape), self.curvature_flags["density_rank"]
        # No factorisation takes what is not finite.
        given = tf.where(tf.math.is_finite(y), y, tf.zeros_like(y))
        mean = self.likelihood.mean(self.decoder_outputs(self.point(given)))
        residual = tf.reshape(tf.cast(given, mean.dtype) - mean, (-1, size))
        noise = 1.0 / self.likelihood.shared_precision(mean.dtype)
        found = curvature.joint_density(
            self.posterior, self.graph, given, residual, noise, None if 2 * rank >= size or not rank else rank,
            seeds.stream((self.seed, 0), DENSITY), self.curvature_flags["curvature_memory"])
        spread = tf.cast(found.pop("variance"), mean.dtype)
        found = {name: tf.cast(value, mean.dtype) for name, value in found.items()}
        found["std"] = tf.sqrt(tf.reshape(spread + noise, tf.shape(mean)))
        return {name: inputs.only_finite(value, y, value.shape.rank - 1, axes) for name, value in found.items()}

    def predictive(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        if not self.is_linearised:
            return super().predictive(x, num_samples, seed)
        found = self._linear_moments(self.preprocess(x)[0])
        return {name: value for name, value in found.items() if not name.endswith("_prob")}

    def predictive_log_prob(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        return self.density(x, seed)["log_prob"] if self.is_linearised else super().predictive_log_prob(
            x, num_samples, seed)

    def density(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        """Returns how probable x is, and what a new observation like it would tell of the weights, linearised.

        "log_prob" (batch,), nats, a density of x by the covariance of all its values, f ~ N(f_mu, J Lambda^-1 J^T) and
        y ~ N(f, sigma^2 I); "mutual_information" (batch,), nats, that of y and the weights; "std" (batch, *event), of
        each value, in the space of y; where the covariance is known in `density_rank` directions alone also "share"
        (batch,), an estimate of what they hold of its trace. `seed` is that of dequantising noise. Raises UserError for
        predictions by drawn networks.
        """
        if not self.is_linearised:
            raise UserError("density is that of linearised predictions, which need a Gaussian with one sigma; take "
                            "predictive='linearised', or predictive_log_prob.")
        y, log_det = self.preprocess(x, seeds.stream(self.next_seed(seed), PREPROCESS))
        found = self._joint(y)
        return {**found, "log_prob": found["log_prob"] + log_det}

    def num_draws(self, num_samples: int) -> int:
        return 0 if self.is_linearised else num_samples

    def latent_variance(self, y: tf.Tensor) -> tf.Tensor:
        """Returns the diagonal of J Lambda^-1 J^T of the codes of y (batch, *event), (batch, K): K backward passes."""
        memory = self.curvature_flags["curvature_memory"]
        return curvature.output_variance(self.posterior, self.graph.models[0], y, memory)

    # ---- scores ------------------------------------------------------------------------------------

    def ood_scores(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        """Returns the scores of `BayesianAE` behind `spread`, each (batch,), higher = more unusual.

        spread: the larger of two numbers, the log of the latent std, summed over k, and the log of the squared error of
        the mean network, each less its median and over its spread on validation data. The std is that of the
        linearised codes for Lambda = r G + 1, r the `score_precision`. It is left out where nothing was measured
        (`measure_scores`), and where no layer of the encoder is uncertain.

        With linearised predictions and a Lambda that is not diagonal there is no score output, which would take as many
        backward passes as an output has values, and likelihood is -log p(y|theta) of the mean network.
        """
        y, _ = self.preprocess(x)
        found = {}
        if self.robust_scores.measured and self.has_spread:
            found["spread"] = tf.reduce_max(self.robust_scores(self._statistics(y)), axis=-1)
        if not self.is_linearised:
            found |= super().ood_scores(x, seed)
        elif isinstance(self.posterior, posteriors.DiagPosterior):
            found |= self.scores_of(self._linear_moments(y))
        else:
            found |= self._scores_of_codes(y)
        return {name: inputs.only_finite(value, y, 0, y.shape.rank - 1) for name, value in found.items()}

    def _scores_of_codes(self, y: tf.Tensor) -> dict[str, tf.Tensor]:
        likelihood = -self.likelihood.log_prob(self.decoder_outputs(self.point(y)), y)
        typical = tf.cast(tf.convert_to_tensor(self.typical), likelihood.dtype)
        return {
            "latent": tf.reduce_sum(tf.sqrt(self.latent_variance(y)), axis=-1),
            "likelihood": likelihood,
            "typicality": tf.abs(likelihood - typical),
        }

    def _statistics(self, y: tf.Tensor) -> tf.Tensor:
        """Returns the logs of latent std and squared error of y (batch, *event), (batch, 2)."""
        with self.posterior.at_ratio(self.score_ratio()):
            std = tf.reduce_sum(tf.sqrt(self.latent_variance(y)), axis=-1)
        mean = self.likelihood.mean(self.decoder_outputs(self.point(y)))
        error = tf.reduce_sum(tf.square(y - mean), axis=list(range(1, y.shape.rank)))
        least = np.finfo(np.float32).tiny
        logs = [tf.math.log(tf.maximum(tf.cast(value, self.float_type), least)) for value in (std, error)]
        return tf.stack(logs, axis=-1)

    def score_ratio(self) -> Any:
        """Returns the factor of the posterior's curvature behind the score spread."""
        return self.curvature_flags["score_precision"]

    @property
    def has_spread(self) -> bool:
        """Whether a layer of the encoder is uncertain."""
        own = {id(variable) for variable in self.encoder.trainable_variables}
        blocks = zip(self.graph.blocks, self.posterior.layout.parts)
        return any(part.chosen and id(block.variables[0]) in own for block, part in blocks)

    def measure_scores(self, x: np.ndarray, batch_size: int = 500) -> None:
        """Measures median and quartiles behind `spread` on held-out x (n, *event), where there are eight or more."""
        if not self.has_spread or len(x) < LEAST_DATA:
            return
        statistics = tf.function(lambda x: self._statistics(self.preprocess(x)[0]), autograph=False, jit_compile=False)
        parts = [statistics(trainable.to_float(x[i : i + batch_size])).numpy() for i in range(0, len(x), batch_size)]
        self.robust_scores.measure(np.concatenate(parts))

    @property
    def measured_last(self) -> list:
        return [self.robust_scores.units]

    def score_notes(self) -> list[str]:
        if not self.has_spread:
            return ["The score spread is left out: no layer of the encoder is uncertain (bayesian_layers="
                    f"{','.join(self.curvature_flags['bayesian_layers'])}, structure {self.posterior.structure})."]
        if self.robust_scores.measured:
            return []
        return ["The score spread is left out: the model was saved before there was this score, or had fewer than "
                f"{LEAST_DATA} validation data. model.measure_scores(x) with validation data x adds it."]

    def measure(self, x: np.ndarray, train: Optional[np.ndarray] = None, batch_size: int = 500) -> None:
        """Sets the posterior's mean to the weights as they are, then measures on held-out x as `BayesianAE` does."""
        self.posterior.assign_mean([tf.convert_to_tensor(variable) for variable in self.graph.variables])
        super().measure(x, train, batch_size)
        self.check_draws(x)

    def curvatures(self, x: np.ndarray, seed: seeds.Seed, batch_size: int = 256) -> Iterator[tuple[tf.Tensor, Any]]:
        """Yields (y, curvature of y at the mean weights) of data x (n, *event), batch by batch."""
        from tqdm import tqdm

        starts = range(0, len(x), batch_size)
        for number, start in enumerate(tqdm(starts, "curvature", leave=False, delay=1.0, unit="batch")):
            y, _ = self.preprocess(x[start : start + batch_size])
            # A sketch is the image of one matrix for all data; probes differ from batch to batch.
            here = seed if self.curvature_options["structure"] == "low_rank" else seeds.fold_in(seed, number)
            yield y, curvature.ggn(self.graph, y, seed=here, **self.curvature_options)

    def check_draws(self, x: np.ndarray, num_samples: int = 5) -> float:
        """Returns the squared error of drawn networks over that of the mean network, on up to 200 of x (n, *event).

        Prints a line where it is ten or more: such draws tell nothing, whatever the evidence says of them.
        """
        rows = np.linspace(0, len(x) - 1, min(len(x), CHECKED_DATA)).astype(int)

        def error(network, y):
            mean = self.likelihood.mean(network.decode(network.encode(y)))
            return tf.reduce_sum(tf.cast(tf.square(mean - y), tf.float64))

        @tf.function(autograph=False)
        def errors(x, seed):
            y, _ = self.preprocess(x)
            add = lambda state, count, network: state + error(network, y)  # noqa: E731
            drawn = self.over_networks(num_samples, seed, add, tf.zeros((), tf.float64))
            return drawn / num_samples, error(Network(self.point, self.decoder_outputs), y)

        drawn, own = (float(one) for one in errors(trainable.to_float(x[rows]), seeds.stream((self.seed, 0), CHECK)))
        ratio = drawn / max(own, np.finfo(np.float32).tiny)
        if not ratio < MOST_LOSS:
            print(f"{type(self).__name__}: networks drawn from the posterior have {ratio:.3g} times the squared error "
                  f"of the mean network (structure {self.posterior.structure}), so draws, their moments and scores are "
                  "of no use: take another curvature_structure, predictive='linearised', or a larger prior_precision.",
                  file=sys.stderr)
        return ratio

    def get_config(self) -> dict[str, Any]:
        # Without what is as it was before there was this setting, so that runs of before know their models again.
        flags = {name: value for name, value in self.curvature_flags.items()
                 if name != "density_rank" or value != DENSITY_RANK}
        return {**super().get_config(), **flags}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Optional[dict[str, Any]] = None) -> Autoencoder:
        now = {name: hp.value_now(name, value) for name, value in config.items()}
        return super().from_config({**cls.before, **now}, custom_objects)
