"""pae: probabilistic autoencoder: an autoencoder whose latent density a normalizing flow learns afterwards."""

import dataclasses
import functools
import math
from collections.abc import Collection
from typing import Any, Optional, Union

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo import densities, flows, likelihoods
from pae_zoo.core import fit_data, optimizers, records
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.inference import derivatives
from pae_zoo.models import ae, base
from pae_zoo.models.parts.flow_latent import FlowFlags, FlowLatent
from pae_zoo.models.parts.posteriors import standard_normal_log_prob
from pae_zoo.models.parts.robust_scores import RobustScores

# Likelihoods whose decoder gives means alone: the std of each value can be measured whatever the first stage had.
MEANS_ALONE = ("gaussian", "gaussian_learned", "gaussian_pixel")
SPACES = ("u", "u_spherical", "z")
_FLOW_SETTINGS = dataclasses.asdict(densities.Settings())


@dataclasses.dataclass(frozen=True)
class HParams(FlowFlags, ae.HParams):
    """Flags of the probabilistic autoencoder; shared training flags drive its first stage."""

    likelihood: str = records.with_default("likelihood", "gaussian_pixel")
    flow_epochs: int = hp.option(12, "Most passes over the codes, after the mixture is fitted.", low=1, smoke=2)
    flow_batch_size: int = hp.option(256, "Codes per training step of the flow.", low=1, smoke=32)
    flow_learning_rate: float = hp.option(1e-3, "Initial learning rate of the flow.", above=0.0)
    flow_lr_schedule: str = hp.option("cosine", "Learning rate of the flow, as in --lr_schedule.",
                                      choices=optimizers.SCHEDULES)
    flow_clip_norm: float = hp.option(5.0, "Largest global norm of the flow's gradient (0: off).", low=0.0)
    flow_patience: int = hp.option(4, "Stop the flow after so many epochs without a better validation loss (0: off).",
                                   low=0)
    flow_ema: float = hp.option(0.999, "Decay of averages of the flow's weights, as in --ema.", low=0.0, high=0.999999,
                                before=0.0)
    flow_noise: float = hp.option(
        0.0, "Std of Gaussian noise added to the whitened codes in training, against overfitting.", low=0.0)


@register_keras_serializable("pae_zoo")
class PAE(FlowLatent, ae.AE):
    """Probabilistic autoencoder (Boehm & Seljak, arXiv 2006.05479): u ~ p(u), z = F(u), y ~ p(y|z).

    The first stage trains encoder and decoder as `AE` does. The second freezes them and fits a density to the codes of
    the training data by maximum likelihood, so that log p(z) = log p(F^-1(z)) + log |det dF^-1/dz|. p(u) is N(0, I), as
    published, or a mixture. `fit` runs both. Spaces: u base, z latent, x data.

    Args beyond `AE`:
      flow: a density over latent_dim dimensions, as `pae_zoo.densities.make` gives one; None makes "mixture_flow".
      flow_settings: the fields of `pae_zoo.densities.Settings` that differ, for the second stage in plain `fit`.

    Raises UserError when the density has another number of dimensions than the latent.
    """

    offers = ae.AE.offers | {"prior", "sample", "surface"}
    parts = (*ae.AE.parts, "flow")
    default_tasks = ("density",)
    default_density = "mixture_flow"

    def __init__(self, encoder: keras.Model, decoder: keras.Model,
                 likelihood: Union[str, likelihoods.Likelihood] = "gaussian_pixel",
                 flow: Optional[flows.Flow] = None, flow_settings: Optional[dict[str, Any]] = None,
                 **kwargs: Any) -> None:
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        self.take_flow(flow)
        if not self.flow.whiten:
            raise UserError("The flow of a PAE whitens the codes; received whiten=False. Build it with whiten=True.")
        self.robust_scores = RobustScores(3, name="robust_scores")
        self.flow_settings = {**_FLOW_SETTINGS, **(flow_settings or {})}
        if not set(self.flow_settings) <= set(_FLOW_SETTINGS):
            raise UserError(f"flow_settings takes {', '.join(_FLOW_SETTINGS)}; received {sorted(flow_settings or ())}.")

    # ---- spaces ------------------------------------------------------------------------------------

    def interpolate(self, start: TensorLike, end: TensorLike, num: int = 9, space: str = "u") -> tf.Tensor:
        """Decodes `num` points on the way from the codes of x `start` to those of `end`, both ends included.

        Args:
          start, end: data (batch, *event).
          num: at least 2.
          space: "u", a straight line in the base space; "u_spherical", an arc in it whose distance from 0 runs
            evenly from one end's to the other's; "z", a straight line between the codes.

        Returns x of shape (batch, num, *event). Raises UserError for another space or fewer than two points.
        """
        if space not in SPACES or num < 2:
            raise UserError(f"interpolate takes space {', '.join(SPACES)} and num >= 2; received {space!r} and {num}.")
        first, last = self.codes(start), self.codes(end)
        weights = tf.cast(tf.linspace(0.0, 1.0, num), first.dtype)[:, None, None]
        if space == "z":
            z = _line(first, last, weights)
        else:
            along = _arc if space == "u_spherical" else _line
            z = self.latent_from_base(along(self.base_from_latent(first), self.base_from_latent(last), weights))
        frames = self.decode_mean(tf.reshape(z, (-1, self.latent_dim)))
        frames = tf.reshape(frames, (num, -1, *self.event_shape))
        return tf.transpose(frames, (1, 0, *range(2, len(frames.shape))))

    def log_density_manifold(self, x: TensorLike, seed: Any = None) -> tf.Tensor:
        """Returns log p(z) - 1/2 log det J'J at z = e(x), J = dg/dz: the density of the reconstruction of x.

        It is the injective change of variables (Caterini et al., arXiv 2106.01413, eq. 2): nats per unit of
        K-dimensional volume of the surface {g(z)} in the space of x, shape (batch,). Distance from that surface does
        not count. Where the decoder does not move along some direction of z the volume is 0 and the density infinite.
        """
        z = self.codes(x)
        size = math.prod(self.event_shape)

        def reconstruct(points):
            outputs = self.decoder_outputs(tf.reshape(points, (-1, self.latent_dim)))
            decoded = self.preprocessing.inverse(self.likelihood.mean(outputs))
            return tf.reshape(decoded, tf.concat([tf.shape(points)[:-1], [size]], axis=0))

        if self.latent_dim > size:
            return self.log_prob_latent(z) + math.inf
        # By QR: J'J of a decoder that is nearly flat has a Cholesky factor of NaN.
        _, triangle = tf.linalg.qr(tf.transpose(derivatives.jacobian(reconstruct, z), (1, 2, 0)))
        log_volume = tf.reduce_sum(tf.math.log(tf.abs(tf.linalg.diag_part(triangle))), axis=-1)
        return self.log_prob_latent(z) - log_volume

    def log_label_prob(self, x: TensorLike, num_samples: int = 100, seed: Any = None) -> tf.Tensor:
        if not self.num_labels:
            return super().log_label_prob(x)
        return tf.cast(self.flow.log_label_prob(self.codes(x)), self.float_type)

    def gaussian_log_prob(self, z: TensorLike) -> tf.Tensor:
        """Returns log N(z; m, S) with the mean and covariance of the training codes, nats, (..., K) -> (...)."""
        whitened, log_det = self.flow.whitening(tf.cast(self.latents(z), self.flow.compute_dtype), inverse=True)
        return tf.cast(standard_normal_log_prob(whitened) + log_det, self.float_type)

    # ---- scores ------------------------------------------------------------------------------------

    def ood_scores(self, x: TensorLike, seed: Any = None) -> dict[str, tf.Tensor]:
        """Returns scores at the code z = e(x), each (batch,), higher = more unusual, no search involved.

        latent_density -log p(z); reconstruction -log p(y|z); joint -log p(y, z), their sum; gaussian_density
        -log N(z; m, S) with the mean and covariance of the training codes; squared_error |y - E[y|z]|^2. All but the
        last are in nats (Boehm & Seljak, arXiv 2006.05479, section 5).

        typical and either take -log p(z) and the log of an error less their medians, over their spread, on validation
        data: typical adds those of -log p(z) and log squared_error; either, large where one of the two is, is
        log(exp a + exp b) of -log p(z) and of the log of the squared error over the variance of each value. A model
        that was saved before there were these two has not measured them, and leaves them out.
        """
        statistics, found = self._scores(x)
        if self.robust_scores.measured:
            latent, error, weighted = tf.unstack(self.robust_scores(statistics), axis=-1)
            found |= {"typical": latent + error, "either": tf.reduce_logsumexp(tf.stack([latent, weighted]), axis=0)}
        return found

    def _scores(self, x) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Returns -log p(z) and the logs of two errors, (batch, 3), and the scores that need no measurement."""
        y, _ = self.preprocess(x)
        z, _ = self.encoder_outputs(y)
        outputs = self.decoder_outputs(z)
        latent, reconstruction = -self.log_prob_latent(z), -self.likelihood.log_prob(outputs, y)
        square = tf.square(self.residual(y, self.likelihood.mean(outputs)))
        axes = list(range(1, y.shape.rank))
        error = tf.reduce_sum(square, axis=axes)
        weighted = error
        if not self.likelihood.is_discrete:
            weighted = tf.reduce_sum(square / self.likelihood.variance(outputs), axis=axes)
        least = np.finfo(np.float32).tiny
        logs = [tf.math.log(tf.maximum(value, least)) for value in (error, weighted)]
        return tf.stack([latent, *logs], axis=-1), {
            "latent_density": latent,
            "reconstruction": reconstruction,
            "joint": latent + reconstruction,
            "gaussian_density": -self.gaussian_log_prob(z),
            "squared_error": error,
        }

    def measure_scores(self, x: np.ndarray, batch_size: int = 500) -> None:
        """Measures the spread of `typical` and `either` on held-out x (n, *event)."""
        parts = [self._scores(x[i : i + batch_size])[0].numpy() for i in range(0, len(x), batch_size)]
        self.robust_scores.measure(np.concatenate(parts))

    @property
    def measured_last(self) -> list:
        return [self.robust_scores.units]

    def score_notes(self) -> list[str]:
        if self.robust_scores.measured:
            return []
        return ["The scores typical and either are left out: the model was saved before there were these. "
                "model.measure_scores(x) with validation data x adds them."]

    # ---- training ----------------------------------------------------------------------------------

    @property
    def trained_variables(self) -> list:
        """The variables of the first stage; the flow trains by its own objective."""
        own = {id(v) for v in self.flow.trainable_variables}
        return [v for v in self.trainable_variables if id(v) not in own]

    def stage_codes(self, x: np.ndarray, batch_size: int = 1000) -> np.ndarray:
        """Returns the codes of x (n, *event) that the flow is fitted to, (n, K) float32; raises UserError."""
        codes = np.concatenate([self._stage_codes(x[i : i + batch_size]).numpy() for i in range(0, len(x), batch_size)])
        broken = int((~np.isfinite(codes).all(axis=1)).sum())
        if broken:
            raise UserError(f"{broken} of {len(codes)} codes are not finite, so no flow can be fitted to them. The "
                            "first stage has diverged: lower --learning_rate or set --clip_norm, in a new --workdir.")
        return codes

    @functools.cached_property
    def _stage_codes(self):
        return tf.function(functools.partial(self.codes), jit_compile=False, autograph=False)

    def later_stages(self, hparams: Any) -> list[base.Stage]:
        settings = {name: getattr(hparams, f"flow_{name}") for name in _FLOW_SETTINGS}
        if hparams.density not in densities.WITH_LAYERS:
            settings |= {"epochs": 0, "lr_schedule": "constant"}
        return [self._stage(settings)]

    def _stage(self, settings: dict[str, Any]) -> base.Stage:
        least = densities.least_rows(self.flow)
        join = self.flow.join if self.num_labels else None
        return base.Stage("flow", self.flow, self.stage_codes, settings, densities.train, least, join)

    reads_again = True

    def after_fit(self, history: keras.callbacks.History, train: fit_data.Source, held_out: Optional[fit_data.Source],
                  steps: Optional[int], verbose: Union[str, int, None]) -> None:
        """Fits the flow to the codes; the history has its losses as flow_loss, ...

        Before it the stds of "gaussian_pixel" are measured, on up to 10,000 validation data if they are given, else on
        training data.
        """
        self.fit_stage(history, train, held_out, steps, verbose, self._stage(self.flow_settings))

    # ---- building ----------------------------------------------------------------------------------

    @classmethod
    def options(cls, hparams: Any, total_steps: int) -> dict[str, Any]:
        settings = {name: getattr(hparams, f"flow_{name}") for name in _FLOW_SETTINGS}
        return {**super().options(hparams, total_steps), "flow_settings": settings}

    @classmethod
    def length_matters(cls, hparams: Any) -> bool:
        return True  # the flow is fitted to the codes of the first stage as it ends

    @classmethod
    def skips_first_stage(cls, hparams: Any) -> bool:
        return bool(hparams.init_workdir)

    @classmethod
    def inherit(cls, hparams: Any, before: Any, given: Collection[str]) -> Any:
        found = super().inherit(hparams, before, given)
        if "likelihood" not in given and found.likelihood in MEANS_ALONE:
            return dataclasses.replace(found, likelihood=hparams.likelihood)
        return found

    def inherited_parts(self, other: base.Autoencoder) -> tuple[str, ...]:
        # A likelihood of another kind is measured anew.
        same = type(other.likelihood) is type(self.likelihood)
        return ("encoder", "decoder", "preprocessing", *(["likelihood"] if same else []))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "flow_settings": self.flow_settings}


def _line(first: tf.Tensor, last: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return (1.0 - weights) * first + weights * last


def _arc(first: tf.Tensor, last: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Spherical interpolation of directions and straight interpolation of norms (Shoemake, SIGGRAPH 1985)."""
    norms = [tf.norm(u, axis=-1, keepdims=True) for u in (first, last)]
    a, b = (u / tf.maximum(n, 1e-12) for u, n in zip((first, last), norms))
    angle = tf.acos(tf.clip_by_value(tf.reduce_sum(a * b, axis=-1, keepdims=True), -1.0, 1.0))
    # Parallel directions have no arc; opposite ones have too many: both take the straight line.
    straight = tf.sin(angle) < 1e-4
    sine = tf.where(straight, tf.ones_like(angle), tf.sin(angle))
    arc = (tf.sin((1.0 - weights) * angle) * a + tf.sin(weights * angle) * b) / sine
    return tf.where(straight, _line(first, last, weights), _line(norms[0], norms[1], weights) * arc)


MODEL = PAE
