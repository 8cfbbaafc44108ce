"""vlae: variational Laplace autoencoder, whose q(z|x) is the Gaussian of the decoder linearised at a mode."""

import dataclasses
from typing import Any, Optional

import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo import laplace
from pae_zoo.core import hparams as hp
from pae_zoo.core import inputs, seeds
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.laplace import algebra, memory
from pae_zoo.models import base, vae
from pae_zoo.models.parts import priors
from pae_zoo.models.parts.posteriors import (
    DiagonalPosterior,
    Posterior,
    PrecisionPosterior,
    RootPosterior,
    standard_normal_log_prob,
)

SEARCH_GRADIENTS = ("full", "implicit", "detached", "held")
COVARIANCES = ("full", "diag", "low_rank", "matrix_free")


@dataclasses.dataclass(frozen=True)
class HParams(vae.BoundFlags):
    """Flags of the variational Laplace autoencoder."""

    num_updates: int = hp.option(4, "Updates T of the posterior's mean, from the encoder's.", low=0, high=1000)
    update_lr: float = hp.option(0.5, "Step length a in (0, 1] of the updates; 1 leaves the encoder no gradient.",
                                 above=0.0, high=1.0)
    update_schedule: str = hp.option(
        "harmonic", "Length of update t: a/(t+1), constant a, the best of a line search up to a, or a after "
        "Levenberg's test.", choices=laplace.SCHEDULES)
    linearisation: str = hp.option(
        "auto", "How the decoder's Jacobian is taken; auto: layerwise for dense networks, else forward.",
        choices=("auto", *laplace.BACKENDS))
    gram: bool = hp.option(True, "Form the last layer's Gram matrix once instead of Jacobians of data size, where that "
                           "is exact.")
    covariance: str = hp.option(
        "full", "Form of q's precision: full, its diagonal, identity plus low rank, or matrix_free (training forms no "
        "matrix; the search takes conjugate gradients).", choices=COVARIANCES)
    rank: int = hp.option(8, "Rank of the covariance low_rank.", low=1, high=65_536)
    search: str = hp.option("newton", "Each update by a factorisation, by cg: conjugate gradients after the first, or "
                            "by chord: the first factorisation for all.",
                            choices=laplace.SOLVERS)
    cg_iterations: int = hp.option(3, "Conjugate-gradient steps in an update.", low=1, high=10_000)
    cg_precondition: bool = hp.option(True, "With --search=cg: factor the first precision and precondition by it; "
                                      "otherwise the search forms no Jacobian.")
    lanczos_iterations: int = hp.option(12, "Products with the precision that a draw of matrix_free takes.",
                                        low=1, high=10_000)
    search_gradient: str = hp.option(
        "full", "Gradient through the updates: full; implicit: that of an affine decoder, from the last point alone; "
        "detached: the encoder's part of it alone; held: none, q is a constant and the encoder learns to propose "
        "mu_T.", choices=SEARCH_GRADIENTS)
    warmup_steps: int = hp.option(0, "First steps that train as vae does, by the encoder's own q.", low=0)
    algebra: str = hp.option("float32", "Precision of factorisations and solves.", choices=("float32", "float64"))
    fisher_floor: float = hp.option(0.0, "Added to the Fisher information of every value (1e-5 in the published code "
                                    "for Bernoulli).", low=0.0)


@register_keras_serializable("pae_zoo")
class VLAE(vae.VAE):
    """VAE whose q(z|y) is a Laplace approximation of p(z|y) (Park, Kim & Kim, ICML 2019, arXiv 2211.17267).

    From the encoder's mean mu_0, T damped Newton steps on the linearised decoder search the mode of p(z|y), and
    q(z|y) = N(mu_T, Lambda_T^-1) with Lambda = I + J^T R J, J the decoder's Jacobian and R the Fisher information of
    its output. The encoder's scale is not used. Everything is differentiated through, unless search_gradient
    is "implicit", "detached" or "held". The decoder is linearised at inference (no dropout).

    Args beyond `VAE`: num_updates, update_lr, update_schedule, linearisation, gram, covariance, rank, search,
      cg_iterations, cg_precondition, lanczos_iterations, search_gradient, algebra, fisher_floor, warmup_steps: see the
      flags' help.

    Raises UserError for a value out of its range, or a decoder whose Jacobian cannot be taken.
    """

    #: the search takes its gradient and Hessian from N(0, I)
    takes_priors = (priors.STANDARD,)
    tracked = (*vae.VAE.tracked, "jitter")

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", num_updates: int = 4, update_lr: float = 0.5,
                 update_schedule: str = "harmonic", linearisation: str = "auto", gram: bool = True,
                 covariance: str = "full", rank: int = 8, search: str = "newton", cg_iterations: int = 3,
                 cg_precondition: bool = True, lanczos_iterations: int = 12, search_gradient: str = "full",
                 algebra: str = "float32", fisher_floor: float = 0.0, warmup_steps: int = 0, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        if covariance not in COVARIANCES:
            raise UserError(f"covariance={covariance!r} is unknown; it is one of {', '.join(COVARIANCES)}.")
        if search_gradient not in SEARCH_GRADIENTS or algebra not in ("float32", "float64"):
            raise UserError(f"search_gradient is one of {', '.join(SEARCH_GRADIENTS)}, algebra 'float32' or 'float64'; "
                            f"received {search_gradient!r} and {algebra!r}.")
        if covariance == "matrix_free" and search_gradient == "implicit":
            raise UserError("search_gradient='implicit' solves with the precision, which covariance='matrix_free' does "
                            "not form. Take 'full' or 'detached'.")
        if covariance == "matrix_free" and self.kl == "analytic":
            raise UserError("covariance='matrix_free' has no closed form of the KL in training; set kl='mc'.")
        if covariance == "matrix_free" and self.gradient == "sticking_the_landing":
            raise UserError("covariance='matrix_free' has no density to hold fixed; set gradient='pathwise'.")
        self.num_updates, self.update_lr, self.update_schedule = int(num_updates), float(update_lr), update_schedule
        self.linearisation, self.gram, self.covariance = linearisation, bool(gram), covariance
        self.rank = int(rank)
        self.search, self.cg_iterations, self.cg_precondition = search, int(cg_iterations), bool(cg_precondition)
        self.lanczos_iterations = int(lanczos_iterations)
        self.search_gradient, self.algebra, self.fisher_floor = search_gradient, algebra, float(fisher_floor)
        self.warmup_steps, self._amortised = int(warmup_steps), False
        if covariance == "low_rank" and not 1 <= self.rank <= self.latent_dim:
            raise UserError(f"rank={rank} must lie between 1 and the number of latents, {self.latent_dim}.")
        if search_gradient == "held" and (not self.num_updates or covariance != "full" or self.bound == "iwae"):
            raise UserError("search_gradient='held' takes 1 update or more, covariance='full' and bound='elbo'; "
                            f"received {num_updates}, {covariance!r} and {self.bound!r}.")
        self.search_settings()
        laplace.choose(self.decoder, linearisation)
        laplace.check_differentiable(self.decoder, self.latent_dim)

    def search_settings(self, num_updates: Optional[int] = None) -> laplace.Search:
        """Returns how the mode is searched; raises UserError for a value out of its range."""
        free = self.covariance == "matrix_free"
        return laplace.Search(
            self.num_updates if num_updates is None else num_updates, self.update_lr, self.update_schedule,
            "cg" if free else self.search, self.cg_iterations, precondition=self.cg_precondition and not free,
            double=self.algebra == "float64",
        )  # fmt: skip

    @classmethod
    def from_hparams(cls, hparams: Any, event_shape: tuple[int, ...], total_steps: int) -> base.Autoencoder:
        model = super().from_hparams(hparams, event_shape, total_steps)
        if hparams.covariance != "matrix_free":
            formed = hparams.num_updates if hparams.search == "newton" else int(hparams.cg_precondition)
            kept = formed + 1 if hparams.search_gradient == "full" else 1
            explicit = not model.uses_gram()
            needed = memory.step_bytes(model.decoder, hparams.latent_dim, hparams.batch_size, kept, explicit)
            memory.check(needed, "Take --covariance=matrix_free --kl=mc, or lower --latent_dim, --batch_size or "
                         "--num_updates.")
        return model

    @property
    def xla_pays(self) -> bool:
        """Whether XLA makes the compiled loops faster: on a GPU; its CPU code for batches of small matrices is slow."""
        return super().xla_pays and bool(tf.config.list_logical_devices("GPU"))

    # ---- training ----------------------------------------------------------------------------------

    def _step(self, x: tf.Tensor, weight: Optional[tf.Tensor], target: Optional[tf.Tensor]) -> tf.Tensor:
        own = super()._step
        if not self.warmup_steps:
            return own(x, weight, target)

        def amortised():
            self._amortised = True
            try:
                return own(x, weight, target)
            finally:
                self._amortised = False

        # The whole step is chosen, not the loss: TensorFlow fails on gradients of a choice inside of a loop.
        return tf.cond(self.step < self.warmup_steps, amortised, lambda: own(x, weight, target))

    @property
    def schedule_steps(self) -> int:
        return max(super().schedule_steps, self.warmup_steps)

    # ---- posterior ---------------------------------------------------------------------------------

    # The posterior is the one of x itself.
    objective_takes = ()

    def posterior(self, y: tf.Tensor, seed: Optional[seeds.Seed] = None, training: bool = False) -> Posterior:
        """Returns N(mu_T, Lambda_T^-1), in the form that `covariance` says; the seed is not used."""
        if self._amortised:
            encoded = self.encoder_posterior(y, training)
            return _tell(encoded, tf.zeros_like(encoded.mean[:, 0]))
        system = self.system(y, training)
        start = self.encoder_outputs(y, training)[0]
        found = laplace.run(self.search_settings(), system, start)
        if self.search_gradient == "held" and training:
            return self._held(start, system, found)
        if self.search_gradient in ("full", "held"):
            return self._about(found.path[-1], system, found.jitter, training)
        mean, kept = tf.stop_gradient(found.path[-1]), tf.stop_gradient(found.kept)[:, None]
        # Under an affine decoder mu_T = kept mu_0 + (1 - kept) mode, and a full step from mu_T ends at the mode.
        affine = self.likelihood.has_shared_precision or found.rise is None
        pulled = kept * _rise(start) if affine else tf.zeros_like(start)
        if self.search_gradient == "implicit":
            gram, gradient = system.at(mean)
            step = self.search_settings().step(gram, gradient)
            posterior = self._gaussian(mean + pulled + (1.0 - kept) * _rise(step), gram, found.jitter)
        else:
            posterior = self._about(mean + pulled, system, found.jitter, training)
        if not affine:
            # Where R depends on z, the gradient at mu_T tells nothing of the way that led there: far from the data p is
            # 0 or 1, Lambda falls to I, steps overshoot, and means that follow that rule run away.
            posterior.lesson = -_rise(tf.reduce_sum(tf.stop_gradient(found.rise) * start, axis=-1))
        return posterior

    def _held(self, start: tf.Tensor, system: laplace.System, found: laplace.Found) -> Posterior:
        """Returns what was found, by the search's own factor, as a constant; the encoder learns to propose its mean."""
        mean, lower = found.path[-1], found.factor
        if lower is None:
            lower = algebra.cholesky(system.at(mean).gram + tf.eye(self.latent_dim, dtype=mean.dtype)).lower
        posterior = HeldPosterior(mean, inputs.only_finite(tf.cast(lower, mean.dtype), mean, axes=2))
        away = tf.linalg.matvec(posterior.factor, start - posterior.mean, transpose_a=True)
        posterior.lesson = _rise(0.5 * tf.reduce_sum(tf.square(away), axis=-1))
        return _tell(posterior, found.jitter)

    def _about(self, mean: tf.Tensor, system: laplace.System, jitter: tf.Tensor, training: bool) -> Posterior:
        """Returns the Gaussian about `mean` of the decoder linearised there, in the form that `covariance` says."""
        if self.covariance != "matrix_free":
            return self._gaussian(mean, system.at(mean).gram, jitter)
        product = system.products(mean)[0]
        if training:
            return KrylovPosterior(mean, product, self.lanczos_iterations)
        precision = algebra.cholesky(algebra.matrix_of(product, mean))
        factor = inputs.only_finite(precision.lower, mean, axes=2)
        return _tell(PrecisionPosterior(mean, factor), precision.jitter)

    def _gaussian(self, mean: tf.Tensor, gram: tf.Tensor, jitter: tf.Tensor) -> Posterior:
        """Returns the Gaussian of precision I + gram about `mean`, in the form that `covariance` says."""
        gram = inputs.only_finite(gram, mean, axes=2)  # NaN, not the plausible one of a relu's derivative there
        double = tf.cast(gram, tf.float64) if self.algebra == "float64" else gram
        if self.covariance == "diag":
            return _tell(DiagonalPosterior(mean, tf.math.rsqrt(1.0 + tf.linalg.diag_part(gram))), jitter)
        if self.covariance == "low_rank":
            roots = [algebra.function_of(double, _power(p), self.rank) for p in (-0.5, 0.5)]
            eye = tf.eye(self.latent_dim, dtype=double.dtype)
            log_det = 0.5 * algebra.log_det_one_plus(double, self.rank)
            parts = (tf.cast(part, mean.dtype) for part in (roots[0] + eye, roots[1] + eye, log_det))
            return _tell(RootPosterior(mean, *parts), jitter)
        factor = algebra.cholesky(double + tf.eye(self.latent_dim, dtype=double.dtype))
        jitter = tf.maximum(jitter, tf.cast(factor.jitter, jitter.dtype))
        return _tell(PrecisionPosterior(mean, tf.cast(factor.lower, mean.dtype)), jitter)

    def uses_gram(self) -> bool:
        """Whether updates go through the last layer's Gram matrix, which no Jacobian of data size is needed for."""
        layerwise = laplace.choose(self.decoder, self.linearisation) == "layerwise"
        allowed = self.gram and layerwise and not self.fisher_floor
        return allowed and laplace.LastLayer.fits(self.decoder, self.likelihood)

    def system(self, y: tf.Tensor, training: bool = False) -> laplace.System:
        """Returns the linearised model of p(y, z), for y (batch, *event)."""
        scale = self.scale_now() if training else None
        if self.uses_gram():
            return laplace.GramSystem(self.decoder, self.likelihood, y, scale)
        return laplace.ExplicitSystem(self.decoder, self.likelihood, y, scale, self.linearisation, self.fisher_floor)

    def latent_path(self, x: TensorLike, seed: Optional[seeds.Seed] = None,
                    num_updates: Optional[int] = None) -> tf.Tensor:
        """Returns mu_0 .. mu_T for x, (T + 1, batch, K); `num_updates` takes the place of T."""
        y, _ = self.preprocess(x)
        found = laplace.run(self.search_settings(num_updates), self.system(y), self.encoder_outputs(y)[0])
        return self._refined_path(y, tf.stack(found.path))

    def get_config(self) -> dict[str, Any]:
        own = [f.name for f in dataclasses.fields(HParams) if f.name not in _INHERITED]
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


_INHERITED = {f.name for f in dataclasses.fields(vae.BoundFlags)}


class HeldPosterior(PrecisionPosterior):
    """N(mean, Lambda^-1) as a constant, drawn in pairs z = mean +- Lambda^-1/2 e.

    At the posterior itself the bound's gradient by q is 0, so that the decoder needs none of it; in a pair cancels what
    is odd in e.
    """

    def __init__(self, mean: tf.Tensor, factor: tf.Tensor):
        super().__init__(tf.stop_gradient(mean), tf.stop_gradient(factor))

    def from_noise(self, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Maps noise (samples, batch, K) to twice as many draws."""
        return super().from_noise(tf.concat([noise, -noise], axis=0))


class KrylovPosterior(Posterior):
    """N(mean, Lambda^-1) of which only products with Lambda are known, for training.

    Lanczos' method from the noise e gives z = mean + Lambda^-1/2 e and e^T log(Lambda) e, whose mean over e is
    log |Lambda|: so the log density of a draw is right on average, and its gradient too, but not draw by draw.
    """

    def __init__(self, mean: tf.Tensor, product: algebra.Product, iterations: int):
        self.mean, self.product = mean, product
        self.iterations = min(iterations, mean.shape[-1])
        self.diagnostics = {"jitter": tf.zeros_like(mean[:, 0])}  # nothing is factored

    def from_noise(self, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows, tridiagonal, norm = algebra.lanczos(self.product, noise, self.iterations)
        root = algebra.function_of(tridiagonal, lambda s: (s**-0.5, -0.5 * s**-1.5))[..., 0]
        logs = algebra.function_of(tridiagonal, lambda s: (tf.math.log(s), 1.0 / s))[..., 0, 0]
        z = self.mean + norm[..., None] * tf.linalg.matvec(rows, root, transpose_a=True)
        return z, standard_normal_log_prob(noise) + 0.5 * tf.square(norm) * logs

    def point(self) -> tf.Tensor:
        return self.mean


def _rise(value: tf.Tensor) -> tf.Tensor:
    """Returns zeros whose gradient is that of `value`."""
    return value - tf.stop_gradient(value)


def _power(exponent: float):
    """Returns s -> ((1 + s)^p - 1, its derivative): what a function of I + M adds to I."""

    def function(values):
        base = 1.0 + tf.maximum(values, 0.0)
        return base**exponent - 1.0, exponent * base ** (exponent - 1.0)

    return function


def _tell(posterior: Posterior, jitter: tf.Tensor) -> Posterior:
    """Returns the posterior with 1 for data whose factorisation took jitter, else 0, among its diagnostics."""
    posterior.diagnostics = {"jitter": tf.cast(tf.stop_gradient(jitter) > 0, jitter.dtype)}
    return posterior


MODEL = VLAE
