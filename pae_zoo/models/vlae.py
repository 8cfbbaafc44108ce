"""vlae: variational Laplace autoencoder, whose q(z|x) is the Gaussian of the decoder linearised at a mode."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Optional

import keras
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo import laplace
from pae_zoo.core import hparams as hp
from pae_zoo.core import inputs, optimizers, parts, records, replicas, seeds
from pae_zoo.core.errors import UserError, check_choice
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

SEARCH_GRADIENTS = ("auto", "full", "implicit", "detached", "held")
COVARIANCES = ("full", "diag", "low_rank", "matrix_free")
SEARCHES = ("auto", *laplace.SOLVERS)
#: part of a training that --warmup_steps=-1 stands for
WARMUP_SHARE = optimizers.LATE


@dataclasses.dataclass(frozen=True)
class HParams(priors.PriorFlags, vae.BoundFlags):
    """Flags of the variational Laplace autoencoder."""

    lr_schedule: str = records.with_default("lr_schedule", "late_cosine")

    num_updates: int = hp.option(2, "Updates T of the posterior's mean in training, from the encoder's.", low=0,
                                 high=1000)
    update_lr: float = hp.option(1.0, "Step length a in (0, 1] of the updates; 1 leaves the encoder no gradient "
                                 "through them.", above=0.0, high=1.0)
    update_schedule: str = hp.option(
        "backtracking", "Length of update t: a/(t+1), constant a, the best of a line search up to a, a after "
        "Levenberg's test, or the longest up to a that does not lower log p(x, z).", choices=laplace.SCHEDULES)
    test_updates: int = hp.option(4, "Updates at test: Newton steps of the best of seven lengths (0: those of "
                                  "training).", low=0, high=1000, before=0)
    linearisation: str = hp.option(
        "auto", "How the decoder's Jacobian is taken; auto: layerwise for dense networks, else forward.",
        choices=("auto", *laplace.BACKENDS))
    gram: bool = hp.option(True, "Form the last layer's Gram matrix once instead of Jacobians of data size, where that "
                           "is exact.")
    covariance: str = hp.option(
        "full", "Form of q's precision: full, its diagonal, identity plus low rank, or matrix_free (training forms no "
        "matrix; the search takes conjugate gradients).", choices=COVARIANCES)
    rank: int = hp.option(8, "Rank of the covariance low_rank.", low=1, high=65_536)
    search: str = hp.option("auto", "Each update by a factorisation, by cg: conjugate gradients after the first, or "
                            "by chord: the first factorisation for all; auto: chord where the posterior is held, else "
                            "newton.", choices=SEARCHES)
    cg_iterations: int = hp.option(3, "Conjugate-gradient steps in an update.", low=1, high=10_000)
    cg_precondition: bool = hp.option(True, "With --search=cg: factor the first precision and precondition by it; "
                                      "otherwise the search forms no Jacobian.")
    lanczos_iterations: int = hp.option(12, "Products with the precision that a draw of matrix_free takes.",
                                        low=1, high=10_000)
    search_gradient: str = hp.option(
        "auto", "Gradient through the updates: full; implicit: that of an affine decoder, from the last point alone; "
        "detached: the encoder's part of it alone; held: none, q is a constant and the encoder learns to propose "
        "mu_T; auto: held where it can be, else full.", choices=SEARCH_GRADIENTS)
    warmup_steps: int = hp.option(-1, "First steps that train as vae does, by the encoder's own q (-1: four fifths "
                                  "of all).", low=-1)
    algebra: str = hp.option("float32", "Precision of factorisations and solves.", choices=("float32", "float64"))
    fisher_floor: float = hp.option(0.0, "Added to the Fisher information of every value (1e-5 in the published code "
                                    "for Bernoulli).", low=0.0)


@register_keras_serializable("pae_zoo")
class VLAE(vae.VAE):
    """VAE whose q(z|y) is a Laplace approximation of p(z|y) (Park, Kim & Kim, ICML 2019, arXiv 2211.17267).

    From the encoder's mean mu_0, T damped Newton steps on the linearised decoder search the mode of p(z|y), and
    q(z|y) = N(mu_T, Lambda_T^-1) with Lambda = I + J^T R J, J the decoder's Jacobian and R the Fisher information of
    its output. The decoder is linearised at inference (no dropout).

    A training begins as vae's, by the encoder's own q, for `warmup_steps`. Then q is a constant of every step, unless
    search_gradient is "full" (as published: everything is differentiated through), "implicit" or "detached". At test
    the mode is searched by `test_updates` Newton steps, none of which lowers log p(y, z). The published search is
    `pae_zoo.models.published.vlae`.

    Args beyond `VAE`: num_updates, update_lr, update_schedule, test_updates, linearisation, gram, covariance, rank,
      search, cg_iterations, cg_precondition, lanczos_iterations, search_gradient, algebra, fisher_floor, warmup_steps:
      see the flags' help.

    Raises UserError for a value out of its range, or a decoder whose Jacobian cannot be taken.
    """

    tracked = (*vae.VAE.tracked, "jitter")

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", num_updates: int = 2, update_lr: float = 1.0,
                 update_schedule: str = "backtracking", linearisation: str = "auto", gram: bool = True,
                 covariance: str = "full", rank: int = 8, search: str = "auto", cg_iterations: int = 3,
                 cg_precondition: bool = True, lanczos_iterations: int = 12, search_gradient: str = "auto",
                 algebra: str = "float32", fisher_floor: float = 0.0, warmup_steps: int = -1, test_updates: int = 4,
                 **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        check_choice(covariance, COVARIANCES, "covariance")
        check_choice(search_gradient, SEARCH_GRADIENTS, "search_gradient")
        check_choice(search, SEARCHES, "search")
        check_choice(algebra, ("float32", "float64"), "algebra")
        self.num_updates, self.update_lr, self.update_schedule = int(num_updates), float(update_lr), update_schedule
        self.test_updates = int(test_updates)
        self.linearisation, self.gram, self.covariance = linearisation, bool(gram), covariance
        self.rank, self.algebra, self.fisher_floor = int(rank), algebra, float(fisher_floor)
        self.cg_iterations, self.cg_precondition = int(cg_iterations), bool(cg_precondition)
        self.lanczos_iterations = int(lanczos_iterations)
        holds = self.num_updates > 0 and covariance == "full" and self.bound == "elbo"
        self.search_gradient = _held_where(holds) if search_gradient == "auto" else search_gradient
        quick = self.search_gradient == "held" and update_schedule != "levenberg"
        self.search = ("chord" if quick else "newton") if search == "auto" else search
        self.warmup_steps, self._amortised, self._phase = int(warmup_steps), False, False
        # A plain variable, which is no part of the model: `fit` knows how long it is.
        self._warm_until = tf.Variable(0, trainable=False, dtype=tf.int64,
                                       aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
        self._check(holds)
        self.search_settings()
        laplace.choose(self.decoder, linearisation)
        laplace.check_differentiable(self.decoder, self.latent_dim)

    def _check(self, holds: bool) -> None:
        free = self.covariance == "matrix_free"
        if free and self.search_gradient == "implicit":
            raise UserError("search_gradient='implicit' solves with the precision, which covariance='matrix_free' does "
                            "not form. Take 'full' or 'detached'.")
        if free and self.kl == "analytic":
            raise UserError("covariance='matrix_free' has no closed form of the KL in training; set kl='mc'.")
        if free and self.gradient == "sticking_the_landing":
            raise UserError("covariance='matrix_free' has no density to hold fixed; set gradient='pathwise'.")
        if self.covariance == "low_rank" and not 1 <= self.rank <= self.latent_dim:
            raise UserError(f"rank={self.rank} must lie between 1 and the number of latents, {self.latent_dim}.")
        if self.search_gradient == "held" and not holds:
            raise UserError("search_gradient='held' takes 1 update or more, covariance='full' and bound='elbo'; "
                            f"received {self.num_updates}, {self.covariance!r} and {self.bound!r}.")
        if self.learned_prior is not None and self.search_gradient != "held":
            raise UserError(f"prior={self.prior_kind!r} needs search_gradient='held'; received "
                            f"{self.search_gradient!r}. No gradient is taken through the curvature of a learned prior.")
        if self.test_updates < 0 or self.warmup_steps < -1:
            raise UserError("test_updates is 0 or more and warmup_steps -1 or more; received "
                            f"{self.test_updates} and {self.warmup_steps}.")

    def search_settings(self, num_updates: Optional[int] = None) -> laplace.Search:
        """Returns how the mode is searched in training; raises UserError for a value out of its range."""
        free = self.covariance == "matrix_free"
        return laplace.Search(
            self.num_updates if num_updates is None else num_updates, self.update_lr, self.update_schedule,
            "cg" if free else self.search, self.cg_iterations, precondition=self.cg_precondition and not free,
            double=self.algebra == "float64",
        )  # fmt: skip

    def test_settings(self, num_updates: Optional[int] = None) -> laplace.Search:
        """Returns how the mode is searched at test, by `num_updates` in place of the model's."""
        if not self.test_updates:
            return self.search_settings(num_updates)
        updates = self.test_updates if num_updates is None else num_updates
        if self.covariance == "matrix_free":
            return dataclasses.replace(self.search_settings(updates), schedule="line_search", update_lr=1.0)
        return laplace.Search(updates, 1.0, "line_search", double=self.algebra == "float64")

    @classmethod
    def options(cls, hparams: Any, total_steps: int) -> dict[str, Any]:
        found = super().options(hparams, total_steps)
        warmup = found["warmup_steps"]
        return {**found, "warmup_steps": int(WARMUP_SHARE * total_steps) if warmup < 0 else warmup}

    @classmethod
    def length_matters(cls, hparams: Any) -> bool:
        return hparams.warmup_steps < 0 or super().length_matters(hparams)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "VLAE":
        # What a model of before says nothing of is what it did.
        return super().from_config({"test_updates": 0, "warmup_steps": 0, **config}, custom_objects)

    @classmethod
    def from_hparams(cls, hparams: Any, event_shape: tuple[int, ...], total_steps: int) -> base.Autoencoder:
        model = super().from_hparams(hparams, event_shape, total_steps)
        if hparams.covariance != "matrix_free":
            formed = hparams.num_updates if model.search == "newton" else int(hparams.cg_precondition)
            kept = formed + 1 if model.search_gradient == "full" else 1
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

    def _step(self, x: tf.Tensor, weight: Optional[tf.Tensor], target: Optional[tf.Tensor],
              label: Optional[tf.Tensor] = None) -> tf.Tensor:
        own = functools.partial(super()._step, x, weight, target, label)
        if not self.warmup_steps:
            return own()

        def amortised():
            self._amortised = True
            try:
                return own()
            finally:
                self._amortised = False

        if parts.current() is not None:  # replicas cannot meet inside of a choice
            return amortised() if self._phase else own()
        # The whole step is chosen, not the loss: TensorFlow fails on gradients of a choice inside of a loop.
        until = tf.cast(self.warmup_steps, tf.int64) if self.warmup_steps > 0 else self._warm_until
        return tf.cond(self.step < until, amortised, own)

    def phase(self) -> bool:
        """Returns whether the next step is one of the warm-up."""
        until = self.warmup_steps if self.warmup_steps >= 0 else replicas.value(self._warm_until)
        return bool(replicas.value(self.step) < until)

    @contextlib.contextmanager
    def in_phase(self, phase: Any) -> Iterator[None]:
        self._phase = phase
        try:
            yield
        finally:
            self._phase = False

    @property
    def schedule_steps(self) -> int:
        return max(super().schedule_steps, self.warmup_steps)

    def own_callbacks(self) -> list[keras.callbacks.Callback]:
        return [*super().own_callbacks(), *([_WarmUp(self._warm_until)] if self.warmup_steps < 0 else [])]

    # ---- posterior ---------------------------------------------------------------------------------

    # The posterior is the one of x itself.
    objective_takes = ()

    def posterior(self, y: tf.Tensor, seed: Optional[seeds.Seed] = None, training: bool = False) -> Posterior:
        """Returns N(mu_T, Lambda_T^-1), in the form that `covariance` says; the seed is not used."""
        if self._amortised:
            encoded = self.encoder_posterior(y, training)
            return _tell(encoded, tf.zeros_like(encoded.mean[:, 0]))
        return self._searched(y, self.search_settings(), training)

    def inferred(self, y: tf.Tensor, seed: Optional[seeds.Seed] = None) -> Posterior:
        found = self._searched(y, self.test_settings())
        return found if self.refining is None else self.refining.posterior(self._joint(y), found.point())

    def _searched(self, y: tf.Tensor, search: laplace.Search, training: bool = False) -> Posterior:
        system = self._joint(y, training)
        start = self.encoder_outputs(y, training)[0]
        found = laplace.run(search, system, start)
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
            step = search.step(gram, gradient)
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
        """Returns mu_0 .. mu_T of the search at test, (T + 1, batch, K); `num_updates` takes the place of T."""
        y, _ = self.preprocess(x)
        found = laplace.run(self.test_settings(num_updates), self._joint(y), self.encoder_outputs(y)[0])
        return self._refined_path(y, tf.stack(found.path))

    def get_config(self) -> dict[str, Any]:
        own = [f.name for f in dataclasses.fields(HParams) if f.name not in _INHERITED]
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _held_where(holds: bool) -> str:
    return "held" if holds else "full"


class _WarmUp(keras.callbacks.Callback):
    """Sets the step at which the warm-up of a plain `fit` ends; a model that has steps behind it is past it."""

    def __init__(self, until: tf.Variable):
        super().__init__()
        self.until = until

    def on_train_begin(self, logs: Optional[dict] = None) -> None:
        known: Any = self.params or {}  # of a list of callbacks that a caller has made they are the caller's
        steps = known.get("steps")
        whole = known.get("epochs", 0) * steps if steps else self.until.dtype.max
        trained: Any = self.model
        self.until.assign(0 if replicas.value(trained.step) else int(WARMUP_SHARE * whole))

    def on_epoch_begin(self, epoch: int, logs: Optional[dict] = None) -> None:
        # Of data of unknown length whole epochs are the measure.
        known: Any = self.params or {}
        if not known.get("steps") and epoch + 1 > WARMUP_SHARE * known.get("epochs", 0):
            self.until.assign(0)


_INHERITED = {f.name for record in (vae.BoundFlags, priors.PriorFlags) for f in dataclasses.fields(record)}


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
