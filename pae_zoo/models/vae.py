"""vae: variational autoencoder (plain, beta, capacity annealing, free bits, sigma annealing)."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any, Callable, Optional, Union

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from keras.saving import register_keras_serializable

from pae_zoo import laplace
from pae_zoo.core import hparams as hp
from pae_zoo.core import records, seeds
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.models import base
from pae_zoo.models.parts import importance, imputation, labels, priors, refinement
from pae_zoo.models.parts.posteriors import DiagonalPosterior, Posterior, standard_normal, standard_normal_log_prob

tfd = tfp.distributions

# Encoders of unbounded log variance overflow; [-10, 10] leaves every useful posterior reachable.
LOG_VARIANCE_LIMIT = 10.0
# Draws behind the score "likelihood": enough to rank images, cheap enough to serve.
OOD_SAMPLES = 32


@dataclasses.dataclass(frozen=True)
class BoundFlags(records.SharedHParams):
    """Flags of the bound, shared by every model of the line of the variational autoencoder."""

    beta: float = hp.option(1.0, "Weight of the KL term (1: the evidence lower bound).", low=0.0)
    kl: str = hp.option(
        "analytic",
        "KL(q||p) in closed form, or 'mc': estimated from the same samples as the reconstruction.",
        choices=("analytic", "mc"),
    )
    num_latent_samples: int = hp.option(1, "Samples of z per datum in the objective.", low=1, high=10_000)
    bound: str = hp.option(
        "elbo",
        "What is maximised: the evidence lower bound, or 'iwae': the log of the mean weight of the latent samples.",
        choices=("elbo", "iwae"),
    )
    gradient: str = hp.option(
        "pathwise",
        "Gradient of log q(z|x): through z and q's parameters, or 'sticking_the_landing': through z alone "
        "(for --kl=mc or --bound=iwae).",
        choices=("pathwise", "sticking_the_landing"),
    )
    capacity: float = hp.option(0.0, "Capacity C in nats: the KL term is beta |KL - C(t)|.", low=0.0)
    capacity_steps: int = hp.option(
        100_000, "Steps over which C(t) rises from 0 to --capacity (0: at once).", low=0
    )
    free_bits: float = hp.option(
        0.0, "Nats of KL per datum that cost nothing: beta max(KL - free_bits, 0).", low=0.0
    )
    scale_annealing_steps: int = hp.option(
        0, "Steps over which the constant observation std falls from 1 to --scale (0: constant).", low=0
    )
    posterior_std: str = hp.option(
        "softplus",
        "How the encoder's raw scale r becomes a std: softplus(r) + 1e-6, or exp(r/2) with r in [-10, 10].",
        choices=("softplus", "exp"),
    )


@dataclasses.dataclass(frozen=True)
class HParams(priors.PriorFlags, BoundFlags):
    """Flags of the variational autoencoder."""


@register_keras_serializable("pae_zoo")
class VAE(imputation.Imputes, labels.LabelsFromDraws, base.Autoencoder):
    """Variational autoencoder (Kingma & Welling, arXiv 1312.6114), with prior N(0, I) or a learned one.

    Minimises -log p(y|z) + beta |KL - C(t)|, or with free bits -log p(y|z) + beta max(KL - lambda, 0), with
    z ~ q(z|y) reparametrised, sums over pixels and the mean over the batch (Boehm & Seljak, arXiv
    2006.05479; Burgess et al., arXiv 1804.03599). With bound "iwae" it minimises -log 1/S sum_s p(y, z_s) / q(z_s|y)
    (Burda et al., arXiv 1509.00519, eq. 8). With gradient "sticking_the_landing" log q(z|y) is differentiated through
    z alone (Roeder et al., arXiv 1703.09194, eq. 5). `elbo` is always the plain bound.

    With prior "vamp" p(z) is the mean of q(z|u) over learned pseudo-inputs u (Tomczak & Welling, arXiv 1705.07120, eq.
    8), with "mixture" a mixture of Gaussians of full covariance; their KL is estimated from the samples.

    Subclasses override `posterior` alone. What is evaluated takes it through `inferred`, which a model that `refined`
    gives moves to the mode of p(z|y).

    Args beyond `Autoencoder`: beta, kl ("analytic" or "mc"), num_latent_samples, bound ("elbo" or "iwae"), gradient
      ("pathwise" or "sticking_the_landing"), capacity (nats), capacity_steps, free_bits (nats), posterior_std
      ("softplus" or "exp"), prior ("standard", "vamp" or "mixture"), prior_components: see the flags' help;
      num_labels: C, for a prior p(z|c) of each label c, Gaussians that are learned, and kl "mc"; 0: without labels;
      refine ("none", "newton" or "line_search"), refine_updates: how codes are refined at test, see `refined`.

    Raises UserError for settings that exclude each other.

    Examples:
      >>> from pae_zoo import networks
      >>> encoder = networks.build_encoder("mlp", (8, 8, 1), latent_dim=2)
      >>> decoder = networks.build_decoder("mlp", (8, 8, 1), latent_dim=2)
      >>> model = VAE(encoder, decoder, likelihood="gaussian")
      >>> images = model.sample(3, seed=(0, 1))
      >>> images.shape, model.encode(images).event_shape, model.elbo(images, seed=(0, 2)).shape
      (TensorShape([3, 8, 8, 1]), TensorShape([2]), TensorShape([3]))
    """

    offers = frozenset({
        "moments", "elbo", "likelihood", "prior", "sample", "predictive", "draws", "scores", "path", "refine", "impute",
    })  # fmt: skip
    #: what `prior` may be; "vamp" is of models whose q(z|x) is the encoder's
    takes_priors: tuple[str, ...] = priors.KINDS
    tracked = ("elbo", "reconstruction", "kl")
    objective_takes = ("target",)
    may_take_gaps = True
    divides = True
    # Of the codes of LAE and of VLAE.
    upstream_tags = {
        "train/loss": ("train_loss", "train/loss"), "train/reconstruction": ("reconstruciton_loss", "recon_error"),
        "train/kl": ("kl_loss", "kl_div"), "valid/loss": ("val_loss", "test/loss"),
        "valid/reconstruction": "val_reconstruciton_loss", "valid/kl": "val_kl_loss",
    }  # fmt: skip

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", beta: float = 1.0, kl: str = "analytic",
                 num_latent_samples: int = 1, bound: str = "elbo", gradient: str = "pathwise", capacity: float = 0.0,
                 capacity_steps: int = 100_000, free_bits: float = 0.0, posterior_std: str = "softplus",
                 prior: str = priors.STANDARD, prior_components: int = 64, num_labels: int = 0, refine: str = "none",
                 refine_updates: int = refinement.NUM_UPDATES, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        if kl not in ("analytic", "mc") or posterior_std not in ("softplus", "exp"):
            raise UserError(
                "kl is 'analytic' or 'mc' and posterior_std 'softplus' or 'exp'; "
                f"received {kl!r} and {posterior_std!r}."
            )
        if capacity and free_bits:
            raise UserError(
                f"capacity and free_bits exclude each other; received {capacity} and {free_bits}. "
                "Set one of them to 0."
            )
        if bound not in ("elbo", "iwae") or gradient not in ("pathwise", "sticking_the_landing"):
            raise UserError(
                "bound is 'elbo' or 'iwae' and gradient 'pathwise' or 'sticking_the_landing'; "
                f"received {bound!r} and {gradient!r}."
            )
        if bound == "iwae" and (beta != 1 or capacity or free_bits):
            raise UserError(
                "bound='iwae' has no KL term to weigh: beta must be 1, capacity and free_bits 0; received "
                f"{beta}, {capacity} and {free_bits}. Leave them at their defaults, or take bound='elbo'."
            )
        if gradient == "sticking_the_landing" and bound == "elbo" and kl == "analytic":
            raise UserError(
                "gradient='sticking_the_landing' changes the gradient of sampled log q(z|x), and kl='analytic' samples "
                "none. Set kl='mc' or bound='iwae'."
            )
        self.beta = float(beta)
        self.num_labels = int(num_labels)
        self.kl = "mc" if self.num_labels else kl  # a mixture of labels has no closed form
        self.bound = bound
        self.gradient = gradient
        self.num_latent_samples = int(num_latent_samples)
        self.capacity = float(capacity)
        self.capacity_steps = int(capacity_steps)
        self.free_bits = float(free_bits)
        self.posterior_std = posterior_std
        self.prior_kind, self.prior_components = prior, int(prior_components)
        self.learned_prior = priors.make(prior, self.prior_components, self)
        self.refining = None if refine == "none" else self._refinement(refine, refine_updates)

    @property
    def xla_pays(self) -> bool:
        """Whether XLA makes compiled loops faster: with refined codes on a GPU; a CPU factors small matrices slowly."""
        return super().xla_pays and (self.refining is None or bool(tf.config.list_logical_devices("GPU")))

    # ---- distributions -----------------------------------------------------------------------------

    def posterior(self, y: tf.Tensor, seed: Optional[seeds.Seed] = None, training: bool = False) -> Posterior:
        """Returns q(z|y) for y (batch, *event); `seed` (None: a fixed one) is for proposals that are found by noise."""
        return self.encoder_posterior(y, training)

    def encoder_posterior(self, y: tf.Tensor, training: bool = False) -> DiagonalPosterior:
        """Returns the diagonal Gaussian of the encoder's outputs for y (batch, *event)."""
        return self.diagonal(*self.encoder_outputs(y, training))

    def diagonal(self, mean: tf.Tensor, raw: Optional[tf.Tensor]) -> DiagonalPosterior:
        """Returns the diagonal Gaussian that the encoder's mean and raw scale, each (batch, K), stand for."""
        assert raw is not None  # the encoder of a variational autoencoder gives both
        if self.posterior_std == "softplus":
            return DiagonalPosterior(mean, tf.math.softplus(raw) + 1e-6)
        limited = tf.clip_by_value(raw, -LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
        return DiagonalPosterior(mean, tf.exp(0.5 * limited))

    def inferred(self, y: tf.Tensor, seed: Optional[seeds.Seed] = None) -> Posterior:
        """Returns what evaluation takes for q(z|y), y (batch, *event): `posterior`, refined where the model says so."""
        posterior = self.posterior(y, seed)
        if self.refining is None:
            return posterior
        return self.refining.posterior(self._joint(y), posterior.point())

    def refined(self, update: str = "line_search", num_updates: int = refinement.NUM_UPDATES) -> "VAE":
        """Returns the model with codes that are refined at test: the same weights, nothing copied, nothing trained.

        q(z|x) becomes N(mu_T, Lambda^-1): from the centre of the model's own q, T Newton steps on log p(x, z), none of
        which lowers it, and the precision of the linearised decoder there (Park, Kim & Kim, ICML 2019, eq. 10-13).
        `encode`, `elbo`, `log_likelihood`, scores, draws, reconstructions and exports all take it.

        Args:
          update: "newton": full steps, shortened where they would lower log p(x, z); "line_search": of seven lengths
            the best.
          num_updates: T, 1 or more.

        Raises UserError for another update or number, or a decoder that has no derivative by its latent.

        Examples:
          >>> from pae_zoo import networks
          >>> encoder = networks.build_encoder("mlp", (8, 8, 1), latent_dim=2)
          >>> decoder = networks.build_decoder("mlp", (8, 8, 1), latent_dim=2)
          >>> model = VAE(encoder, decoder, likelihood="gaussian")
          >>> x = model.sample(4, seed=(0, 1), observation_noise=True)
          >>> points = [one.encode(x).mean() for one in (model, model.refined())]
          >>> own, refined = (model.decode(z).log_prob(x) + model.log_prob_latent(z) for z in points)
          >>> bool(tf.reduce_all(refined > own))
          True
        """
        # A second model of the same layers: making one anew would make new weights where a model adds its own.
        model = object.__new__(type(self))
        model.__dict__.update(self.__dict__, refining=self._refinement(update, num_updates))
        return model

    def _refinement(self, update: str, num_updates: int) -> refinement.Refinement:
        found = refinement.Refinement(update, num_updates)
        laplace.check_differentiable(self.decoder, self.latent_dim)
        return found

    def _joint(self, y: tf.Tensor, training: bool = False) -> laplace.System:
        """Returns the linearised model of p(y, z), of the prior as it stands."""
        system = self.system(y, training)
        if self.learned_prior is None:
            return system
        return laplace.WithPrior(system, self.log_prob_latent, self.prior_curvature())

    def system(self, y: tf.Tensor, training: bool = False) -> laplace.System:
        """Returns the linearised model of p(y, z), without a learned prior, for y (batch, *event)."""
        scale = self.scale_now() if training else None
        if laplace.LastLayer.fits(self.decoder, self.likelihood):
            return laplace.GramSystem(self.decoder, self.likelihood, y, scale)
        return laplace.ExplicitSystem(self.decoder, self.likelihood, y, scale)

    def point(self, y: tf.Tensor, training: bool = False) -> tf.Tensor:
        return (self.posterior(y, training=True) if training else self.inferred(y)).point()

    def latent_path(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns the means of q(z|x) from the encoder's to the last of its updates, (updates + 1, batch, K).

        A model without updates has the latent alone that stands for x.
        """
        y = self.preprocess(x)[0]
        return self._refined_path(y, self.posterior(y, seed).point()[None])

    def _refined_path(self, y: tf.Tensor, path: tf.Tensor) -> tf.Tensor:
        """Returns the path (updates + 1, batch, K) of the model's own updates, and what refining adds to it."""
        if self.refining is None:
            return path
        return tf.concat([path, tf.stack(self.refining.path(self._joint(y), path[-1])[1:])], axis=0)

    def encode(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> tfd.Distribution:
        """Returns q(z|x), event shape (latent_dim,), for x (batch, *event)."""
        return self.inferred(self.preprocess(x)[0], seed).distribution()

    def prior(self) -> tfd.Distribution:
        """Returns N(0, I), or the learned prior as it stands, event shape (latent_dim,)."""
        if self.learned_prior is None:
            return standard_normal(self.latent_dim, self.float_type)
        return priors.distribution(self.learned_prior, self)

    def log_prob_latent(self, z: TensorLike) -> tf.Tensor:
        """Returns log p(z) of latents z (..., K), nats, shape (...)."""
        z = self.latents(z)
        return standard_normal_log_prob(z) if self.learned_prior is None else self.prior().log_prob(z)

    # ---- objective ---------------------------------------------------------------------------------

    def objective(self, x: tf.Tensor, seed: tf.Tensor, training: bool,
                  target: Optional[tf.Tensor] = None) -> dict[str, tf.Tensor]:
        preprocess_seed, proposal_seed, noise_seed = seeds.split(seed, 3)
        y, log_det = self.preprocess(x, preprocess_seed)
        posterior = self.posterior(y, proposal_seed, training)
        if target is not None:
            y, log_det = self.preprocess(target, preprocess_seed)
        z, log_q = posterior.from_noise(self._noise(y, self.num_latent_samples, noise_seed))
        if self.gradient == "sticking_the_landing":
            log_q = posterior.stopped().log_prob(z)
        log_probs = self.reconstruction_log_prob(z, y, noise_seed, training)
        log_prob = tf.reduce_mean(log_probs, axis=0)
        log_ratios = log_q - self.log_prob_latent(z)
        kl = posterior.kl_to_prior() if self.kl == "analytic" else tf.reduce_mean(log_ratios, axis=0)
        if self.bound == "iwae":
            log_mean = tf.reduce_logsumexp(log_probs - log_ratios, axis=0) - math.log(self.num_latent_samples)
            loss = -log_mean
        else:
            loss = -log_prob + self.kl_penalty(kl)
        terms = self.batch_terms(z[0], noise_seed)
        if training:  # in validation no datum's loss depends on another
            for weight, value in terms.values():
                loss += weight * value
        return {
            "loss": loss + posterior.lesson,
            "elbo": log_prob - kl + log_det,
            "reconstruction": -log_prob,
            "kl": kl,
            **posterior.diagnostics,
            **{name: tf.fill(tf.shape(kl), value) for name, (_, value) in terms.items()},
        }

    def batch_terms(self, z: tf.Tensor, seed: tf.Tensor) -> dict[str, tuple[float, tf.Tensor]]:
        """Returns {name: (weight in the loss of training, value)} of what latents (batch, K) have together, a number.

        `seed` is the one that the noise behind z came from. Here there is nothing.
        """
        return {}

    def reconstruction_log_prob(self, z: tf.Tensor, y: tf.Tensor, seed: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns log p(y|z) of the objective for z (samples, batch, K), nats, (samples, batch).

        `seed` is the one that the noise behind z came from.
        """
        return self.likelihood.log_prob(self.decoder_outputs(z, training), y, scale=self.scale_now())

    def kl_penalty(self, kl: tf.Tensor) -> tf.Tensor:
        """Returns what the objective adds for a KL of shape (batch,), in nats per datum."""
        beta = self.beta_now()
        if self.free_bits:
            return beta * tf.maximum(kl - self.free_bits, 0.0)
        if self.capacity:
            return beta * tf.abs(kl - self.capacity_now())
        return beta * kl

    def beta_now(self) -> Union[float, tf.Tensor]:
        """Returns the weight of the KL term at the present step, a scalar."""
        return self.beta

    def capacity_now(self) -> tf.Tensor:
        """Returns C(t) = C min(t / capacity_steps, 1), a scalar in nats."""
        if not self.capacity_steps:
            return tf.constant(self.capacity, self.float_type)
        return self.capacity * tf.minimum(tf.cast(self.step, self.float_type) / self.capacity_steps, 1.0)

    @property
    def schedule_steps(self) -> int:
        return max(super().schedule_steps, self.capacity_steps if self.capacity else 0)

    # ---- evaluation --------------------------------------------------------------------------------

    def elbo(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns the evidence lower bound with one sample of z, nats per datum, shape (batch,)."""
        return self._elbo_terms(x, self.next_seed(seed))["elbo"]

    def _elbo_terms(self, x, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        preprocess_seed, proposal_seed, noise_seed = seeds.split(seed, 3)
        y, log_det = self.preprocess(x, preprocess_seed)
        posterior = self.inferred(y, proposal_seed)
        z, log_q = posterior.from_noise(self._noise(y, 1, noise_seed))
        log_prob = self.likelihood.log_prob(self.decoder_outputs(z), y)[0]
        kl = posterior.kl_to_prior() if self.kl == "analytic" else (log_q - self.log_prob_latent(z))[0]
        return {"elbo": log_prob - kl + log_det, "reconstruction": -log_prob, "kl": kl}

    def importance_estimate(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None,
                            chunk: int = 0) -> importance.ImportanceEstimate:
        """Returns log p(x) by importance sampling from q(z|x), with the bound and the effective sample size.

        All have shape (batch,); values are nats, densities of x. See `pae_zoo.models.parts.importance`.
        """
        preprocess_seed, proposal_seed, noise_seed = seeds.split(self.next_seed(seed), 3)
        y, log_det = self.preprocess(x, preprocess_seed)
        posterior = self.inferred(y, proposal_seed)
        log_likelihood = self.likelihood_of(y, posterior.point())

        def log_weight(noise):
            z, log_q = posterior.from_noise(noise)
            return log_likelihood(z) + self.log_prob_latent(z) - log_q

        found = importance.estimate(log_weight, self._noise_shape(y), num_samples, noise_seed, chunk, self.float_type)
        return found._replace(log_likelihood=found.log_likelihood + log_det, elbo=found.elbo + log_det)

    def likelihood_of(self, y: tf.Tensor, centre: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns z (..., batch, K) -> log p(y|z) (..., batch), for many z about `centre` (batch, K).

        Nothing is decoded where the decoder ends in a dense layer that widens and all data share their variance.
        """
        if laplace.LastLayer.fits(self.decoder, self.likelihood) and laplace.LastLayer.narrows(self.decoder):
            return laplace.QuadraticLikelihood(self.decoder, self.likelihood, y, centre)
        return lambda z: self.likelihood.log_prob(self.decoder_outputs(z), y)

    def ood_scores(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        """Returns -elbo, -log p(y|z), KL and -log p(x) (importance-sampled), nats, each (batch,)."""
        elbo_seed, likelihood_seed = seeds.split(self.next_seed(seed), 2)
        terms = self._elbo_terms(x, elbo_seed)
        return {
            "elbo": -terms["elbo"],
            "reconstruction": terms["reconstruction"],
            "kl": terms["kl"],
            "likelihood": -self.log_likelihood(x, OOD_SAMPLES, likelihood_seed),
        }

    def predictive(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        """Returns moments of p(y'|x) under q(z|x), y' a new observation, in the space of y.

        Keys: "mean", "aleatoric_variance" (mean of Var[y|z]), "epistemic_variance" (variance of E[y|z]), of
        shape (batch, *event); "latent_mean" and "latent_variance" of shape (batch, latent_dim), of the draws where q
        has no closed-form moments.
        """
        y, _ = self.preprocess(x)
        proposal_seed, noise_seed = seeds.split(self.next_seed(seed), 2)
        posterior = self.inferred(y, proposal_seed)
        z, _ = posterior.from_noise(self._noise(y, num_samples, noise_seed))
        mean, within, between = self._output_moments(self.decoder_outputs(z))
        latent_mean, latent_variance = posterior.moments(z)
        return {
            "mean": mean,
            "aleatoric_variance": within,
            "epistemic_variance": between,
            "latent_mean": latent_mean,
            "latent_variance": latent_variance,
        }

    def _output_moments(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the mean of E[y|z], the mean of Var[y|z] and the variance of E[y|z] over drawn z, (batch, *event)."""
        means = self.likelihood.mean(outputs)
        variances = tf.broadcast_to(self.likelihood.variance(outputs), tf.shape(means))
        mean, between = tf.nn.moments(means, axes=[0])
        return mean, tf.reduce_mean(variances, axis=0), between

    def predictive_log_prob(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns the importance-sampled log p(x), nats, shape (batch,), a density of x."""
        return self.log_likelihood(x, num_samples, seed)

    def draw_codes(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns draws of q(z|x), shape (num_samples, batch, latent_dim)."""
        y, _ = self.preprocess(x)
        proposal_seed, noise_seed = seeds.split(self.next_seed(seed), 2)
        return self.inferred(y, proposal_seed).from_noise(self._noise(y, num_samples, noise_seed))[0]

    def draw_reconstructions(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns the decoder's means at draws of q(z|x), in the space of x, shape (num_samples, batch, *event)."""
        z = self.draw_codes(x, num_samples, seed)
        frames = self.decode_mean(tf.reshape(z, (-1, self.latent_dim)))
        return tf.reshape(frames, (num_samples, -1, *self.event_shape))

    def _noise_shape(self, y: tf.Tensor) -> tuple:
        """Returns (batch, K); batch is a tensor where it is not static."""
        return (y.shape[0] if y.shape[0] is not None else tf.shape(y)[0], self.latent_dim)

    def _noise(self, y: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
        """Returns standard normal noise (count, batch, K) for y (batch, *event)."""
        return importance.latent_noise(self._noise_shape(y), count, seed, self.float_type)

    # ---- building and saving -----------------------------------------------------------------------

    def adapt(self, x: np.ndarray) -> None:
        super().adapt(x)
        if isinstance(self.learned_prior, priors.PseudoInputs):
            self.learned_prior.start_at(self.filled(self.preprocess(x)[0]))

    def inherited_parts(self, other: base.Autoencoder) -> tuple[str, ...]:
        same = self.learned_prior is not None and getattr(other, "prior_kind", None) == self.prior_kind
        return (*super().inherited_parts(other), *(["learned_prior"] if same else []))

    def initialise_from(self, other: base.Autoencoder) -> None:
        super().initialise_from(other)
        if isinstance(self.learned_prior, priors.PseudoInputs) and "learned_prior" not in self.inherited_parts(other):
            z = standard_normal(self.latent_dim, self.float_type).sample(self.prior_components, seed=(self.seed, 0))
            self.learned_prior.start_at(self.likelihood.mean(self.decoder_outputs(z)))

    @classmethod
    def inherit(cls, hparams: Any, before: Any, given: Collection[str]) -> Any:
        """Returns what every model inherits, and how the encoder's second output is read: --posterior_std."""
        found = super().inherit(hparams, before, given)
        if "posterior_std" in given or not hasattr(before, "posterior_std"):
            return found
        return dataclasses.replace(found, posterior_std=before.posterior_std)

    def get_config(self) -> dict[str, Any]:
        own = ("beta", "kl", "num_latent_samples", "bound", "gradient", "capacity", "capacity_steps", "free_bits",
               "posterior_std", "prior_components")  # fmt: skip
        steps = self.refining
        refining = {} if steps is None else {"refine": steps.update, "refine_updates": steps.num_updates}
        return {**super().get_config(), "prior": self.prior_kind, **{name: getattr(self, name) for name in own},
                **({"num_labels": self.num_labels} if getattr(self.learned_prior, "num_labels", 0) else {}), **refining}


MODEL = VAE
