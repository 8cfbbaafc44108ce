"""lae: Laplacian autoencoder: a Gaussian over all weights, refreshed in every training step from the GGN."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, Optional, Union

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo import curvature, likelihoods
from pae_zoo.core import hparams as hp
from pae_zoo.core import parts, records, replicas, seeds, trainable
from pae_zoo.core.errors import UserError, check_choice
from pae_zoo.curvature.matrices.gauss_newton import BLOCK, DIAG, KRON
from pae_zoo.curvature.matrices.kron import Kron, KronDiagonal
from pae_zoo.curvature.posteriors import build as posteriors
from pae_zoo.curvature.posteriors.running_block import RunningBlock
from pae_zoo.curvature.posteriors.running_kron import RunningKron
from pae_zoo.models.base import Autoencoder
from pae_zoo.models.bayesian import Network
from pae_zoo.models.parts import weights
from pae_zoo.models.parts.former import Former
from pae_zoo.models.weight_posterior import AUTO, MC, CurvatureFlags, LaplaceAE

# Streams of a step's seed; trainable.py has the others.
WEIGHTS, PROBES, FINAL = "lae/weights", "lae/probes", "lae/final"
UPDATES = ("accumulate", "ema")
STRUCTURES = (DIAG, KRON, BLOCK)
# Posteriors whose parts are factorised now and then, for draws.
RUNNING = {KRON: RunningKron, BLOCK: RunningBlock}
Running = (RunningKron, RunningBlock)
# About what the evidence finds for trained autoencoders; at 1 few data leave draws so wide that the bound is best where
# the network ignores them all.
PRIOR_PRECISION = 50.0
# Share of a training batch whose error at the mean weights is logged: it costs a forward pass.
MEAN_SHARE = 8


@dataclasses.dataclass(frozen=True)
class HParams(CurvatureFlags):
    """Flags of the Laplacian autoencoder with online curvature."""

    curvature_structure: str = hp.option(
        KRON, "What is kept of the curvature: its diagonal, two running Kronecker factors of each layer, or all of "
        "each layer (block; small layers alone).",
        choices=STRUCTURES, before=DIAG)
    predictive: str = records.with_default("predictive", AUTO, CurvatureFlags)
    prior_precision: float = records.with_default("prior_precision", PRIOR_PRECISION, CurvatureFlags)
    train_samples: int = hp.option(1, "Networks drawn in a training step.", low=1, high=1000)
    hessian_update: str = hp.option(
        "ema", "h <- m h + (1 - m) g (ema), or h <- m h + g (accumulate, the paper's), for the curvature g of a step; "
        "over 1 - m^t after t steps, since h begins at 0.", choices=UPDATES)
    hessian_memory_factor: float = hp.option(0.999, "The factor m.", low=0.0, high=0.999999)
    hessian_every: int = hp.option(4, "Steps between two refreshes of h; each then counts for all of them.", low=1,
                                   before=1)
    hessian_subset: int = hp.option(0, "Data of the batch that the curvature is computed on (0: all).", low=0)
    factor_every: int = hp.option(50, "kron, block: steps between two factorisations that draws are made with.", low=1)
    draw_every: int = hp.option(4, "Steps that are taken at one draw from q, with its sign changed in every other one.",
                                low=1, before=1)
    one_hessian_per_sampling: bool = hp.option(
        False, "Curvature at the mean weights, once a step, instead of at each of the sampled ones.")
    final_curvature_data: int = hp.option(
        10_000, "Training data whose curvature at the mean weights takes the place of h after training (0: none, h "
        "stays).", low=0, before=0)
    curvature_constant: float = hp.option(
        0.0, "Factor of the curvature for sigma = 1; 0: the objective's own, 1/sigma^2 for a Gaussian.", low=0.0)


@register_keras_serializable("pae_zoo")
class LAE(LaplaceAE):
    """Autoencoder with q(theta) = N(mu, (kappa h + gamma)^-1) over its weights (Miani et al., arXiv 2206.15078).

    mu are the weights of encoder and decoder, trained at weights drawn from q; h sums up the generalised Gauss-Newton
    matrix over the data, its diagonal, two Kronecker factors of each layer (`RunningKron`) or the matrix of each layer
    (`RunningBlock`), and is refreshed in the training step itself. For the diagonal:

        theta_k = mu + eps_k / sqrt(kappa h + gamma),   g = c (N/B) mean_k sum_b diag J_b(theta_k)^T H J_b(theta_k)
        h <- m h + (1 - m) g   or, as in the paper,   h <- m h + g

    h begins at 0, and h / (1 - m^t) takes its place after t steps, as Adam corrects its moments; the first step, before
    there is any, is taken at the means. A refresh every n steps counts for n equal ones, h <- m^n h + (1 + m + ... +
    m^(n-1)) w g with w the weight of g above. Factors and blocks move so one by one, and draws take new ones every
    `factor_every` steps, and after 1, 2, 4, 8 and so on of the first ones. After training, `measure` replaces h by the
    curvature of training data at mu, which finds other data better. A draw theta_k - mu serves `draw_every`
    steps, with its sign changed in every other one: each is a draw from q, and neighbours cancel their noise. The
    objective of a datum is -mean_k log p(y|theta_k) + KL(q || N(0, 1/gamma)) / N; no gradient goes through h.

    Args beyond `AE`: the flags of the model, see `HParams`.
    """

    tracked = ("nll", "mse", "mse_mean", "regularizer")
    upstream_tags = {"train/loss": "train_loss", "train/mse": "mse_loss", "train/regularizer": "weight_decay",
                     "valid/loss": "val_loss", "valid/mse": "val_mse", "valid/regularizer": "val_regularizer"}

    former = Former("lae_published", "pae_zoo>LAEPublished", {"objective": ("elbo", "upstream")}, kept=("alpha",))

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", curvature_structure: str = KRON,
                 train_samples: int = 1, hessian_update: str = "ema", hessian_memory_factor: float = 0.999,
                 hessian_every: int = 4, hessian_subset: int = 0, factor_every: int = 50, draw_every: int = 4,
                 one_hessian_per_sampling: bool = False, final_curvature_data: int = 10_000,
                 curvature_constant: float = 0.0, predictive: str = AUTO, prior_precision: float = PRIOR_PRECISION,
                 **kwargs):
        check_choice(curvature_structure, STRUCTURES, "curvature_structure")
        super().__init__(encoder, decoder, likelihood=likelihood, structure=curvature_structure, predictive=predictive,
                         prior_precision=prior_precision, **kwargs)
        check_choice(hessian_update, UPDATES, "hessian_update")
        self.train_samples = int(train_samples)
        self.hessian_update, self.memory_factor = hessian_update, float(hessian_memory_factor)
        self.hessian_every, self.hessian_subset = int(hessian_every), int(hessian_subset)
        self.factor_every, self.draw_every = int(factor_every), int(draw_every)
        self.one_hessian_per_sampling = bool(one_hessian_per_sampling)
        self.final_curvature_data = int(final_curvature_data)
        self.curvature_constant = float(curvature_constant)
        if isinstance(self.likelihood, likelihoods.GaussianPixel):
            raise UserError("likelihood 'gaussian_pixel' is measured after training, and the curvature of lae is that "
                            "of training. Take gaussian, gaussian_learned or gaussian_decoder, or lae_posthoc.")
        _check_deterministic(self.graph)
        self.blocks = self.graph.select(self.curvature_flags["bayesian_layers"])
        self.uncertain = [variable for block in self.blocks for variable in block.variables]
        self.num_data = self.add_weight(name="num_data", shape=(), initializer="ones", trainable=False)
        self.held, self._phase = None, False
        if self.draw_every > 1:
            shape = (self.train_samples, sum(block.size for block in self.blocks))
            self.held = self.add_weight(name="held", shape=shape, initializer="zeros", trainable=False)

    before = {"predictive": MC, "curvature_structure": DIAG, "hessian_every": 1, "draw_every": 1,
              "prior_precision": 1.0, "final_curvature_data": 0}

    def _build_posterior(self) -> posteriors.WeightPosterior:
        running = RUNNING.get(self.curvature_options["structure"])
        if running is not None:
            return running(self.graph, layers=self.curvature_options["layers"])
        return super()._build_posterior()

    @property
    def hessian(self) -> keras.Variable:
        """The variable h / (1 - m^t), (P,), of the diagonal: the curvature of `posterior`, whose sigma is 1."""
        return self.posterior.curvature

    def count_data(self, num: float) -> None:
        """Sets N, the number of training data or the sum of their weights, and scales h to it."""
        factor = float(num) / self.num_data.value
        if isinstance(self.posterior, Running):
            self.posterior.rescale(factor)
        else:
            self.hessian.assign(tf.convert_to_tensor(self.hessian) * factor)
        self.num_data.assign(float(num))

    # ---- the posterior over weights ----------------------------------------------------------------

    def precision(self) -> Any:
        """Returns Lambda = kappa h + gamma, that of `posterior`: its diagonal (P,), or a matrix for each layer."""
        return self.posterior.precision()

    def draw_weights(self, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns one draw of the weights `uncertain`; its derivative by their means is the identity."""
        return self._at(self._deviation(seed))

    def _at(self, deviation: tf.Tensor) -> list[tf.Tensor]:
        """Returns the weights `uncertain` at a deviation (P,) from their means, through which no gradient goes."""
        parts = self.graph.unflatten(tf.stop_gradient(deviation), self.blocks)
        return [tf.convert_to_tensor(mean) + part for mean, part in zip(self.uncertain, parts)]

    def _deviation(self, seed: tf.Tensor) -> tf.Tensor:
        """Returns a draw of the chosen weights less their means, (P,)."""
        if isinstance(self.posterior, Running):
            return tf.concat(self.posterior.deviation(seed), axis=0)
        # Layer by layer: with a vector put together of all their priors XLA takes four times as long for the draw.
        noise = seeds.normal(self.hessian.shape, seed, tf.as_dtype(self.hessian.dtype), None)
        pairs = zip(self._precisions(), tf.split(noise, self.posterior.layout.sizes))
        return tf.concat([tf.math.rsqrt(precision) * part for precision, part in pairs], axis=0)

    def _precisions(self) -> list[tf.Tensor]:
        """Returns the precision of the diagonal, layer by layer."""
        curvature = tf.split(tf.convert_to_tensor(self.hessian), self.posterior.layout.sizes)
        return [self.posterior.scale() * one + prior for one, prior in zip(curvature, self.posterior.priors())]

    def training_draws(self, seed: tf.Tensor) -> list[list[tf.Tensor]]:
        """Returns the weights of the networks that a training step is taken at, the means before there is any h."""
        every = [seeds.fold_in(seed, k) for k in range(self.train_samples)]
        if self.held is None:
            return [self.at_the_start(self.draw_weights(one)) for one in every]
        # The first steps have h of next to no data, which changes from one to the next.
        is_new = (self.step % self.draw_every == 0) | (self.step < self.draw_every)
        held = tf.convert_to_tensor(self.held)
        held = tf.cond(is_new, lambda: tf.stack([self._deviation(one) for one in every]), lambda: held)
        self.held.assign(held)
        sign = tf.cast(tf.where(self.step == 0, 0, tf.where(self.step % 2 == 0, 1, -1)), held.dtype)
        return [self._at(sign * one) for one in tf.unstack(held)]

    def network(self, seed: tf.Tensor) -> Network:
        """Returns the network whose weights `seed` draws from q."""
        return self.network_at(*self.drawn_weights(seed))

    def drawn_weights(self, seed: tf.Tensor) -> tuple[list, list[tf.Tensor]]:
        return self.uncertain, self.draw_weights(seed)

    # ---- training ----------------------------------------------------------------------------------

    # The curvature is that of x.
    objective_takes = ("weight",)
    divides = True

    def objective(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: tf.Tensor, seed: tf.Tensor, training: bool, weight: Optional[tf.Tensor] = None
    ) -> dict[str, tf.Tensor]:
        y, _ = self.preprocess(x, seeds.stream(seed, trainable.PREPROCESS) if training else None)
        base = seeds.stream(seed, WEIGHTS)
        if training:
            draws = self.training_draws(base)
        else:
            draws = [self.draw_weights(seeds.fold_in(base, k)) for k in range(self.train_samples)]
        networks = [self.network_at(self.uncertain, values) for values in draws]
        outputs = [network.decode(network.encode(y)) for network in networks]
        axes = list(range(1, y.shape.rank))
        squares = [tf.reduce_mean(tf.square(y - self.likelihood.mean(one)), axis=axes) for one in outputs]
        mse = tf.add_n(squares) / len(squares)
        nll = -tf.add_n([self.likelihood.log_prob(one, y) for one in outputs]) / len(outputs)
        loss, regularizer = self.loss_of(nll, mse)
        # At the mean weights; of a part of a training batch, since it is another forward pass.
        part = parts.current()
        count = -(-(tf.shape(y)[0] if part is None else part.total) // MEAN_SHARE)
        rows = y if not training else y[:count] if part is None else y[: tf.maximum(0, count - part.offset)]
        mean = self.likelihood.mean(tf.stop_gradient(self.decoder_outputs(self.point(rows))))
        mse_mean = tf.reduce_mean(tf.square(rows - mean), axis=axes)
        if training:
            ratio = 1.0 if part is None else tf.cast(part.total / tf.maximum(part.size, 1), mse_mean.dtype)
            mse_mean = tf.fill(tf.shape(mse), ratio * tf.reduce_sum(mse_mean) / tf.cast(count, mse_mean.dtype))
            if weight is not None and part is not None:
                raise UserError("Replicas cannot share the batches of an LAE whose data have weights. "
                                f"{replicas.ONE_DEVICE}.")
            self.refresh(y if weight is None else in_proportion(y, weight), draws, seeds.stream(seed, PROBES))
        return {"loss": loss, "nll": nll, "mse": mse, "mse_mean": mse_mean,
                "regularizer": tf.fill(tf.shape(mse), regularizer)}

    @property
    def not_divided(self) -> str:
        return "hessian_subset takes the first rows of a batch" if self.hessian_subset else super().not_divided

    def phase(self) -> bool:
        """Returns whether the next step refreshes the curvature."""
        return bool(replicas.value(self.step) % self.hessian_every == 0)

    @contextlib.contextmanager
    def in_phase(self, phase: Any) -> Iterator[None]:
        self._phase = phase
        try:
            yield
        finally:
            self._phase = False

    def loss_of(self, nll: tf.Tensor, mse: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the loss of each datum (batch,), and its term that depends on the weights alone, a number.

        nll and mse, (batch,), are means over drawn networks: of -log p(y|theta), and of the squared error per value.
        """
        regularizer = self.kl() / self.num_data.value
        return nll + regularizer, regularizer

    def refresh(self, y: tf.Tensor, draws: Sequence[Sequence[tf.Tensor]], seed: tf.Tensor) -> None:
        """Moves h by the curvature of y (batch, *event) at the drawn weights, in every n-th step."""
        if self.hessian_subset:
            y = y[: self.hessian_subset]
        if isinstance(self.posterior, Running):
            self._refresh_factors(self.posterior, y, draws, seed)
            return
        old = tf.convert_to_tensor(self.hessian)
        part = parts.current()

        def moved():
            found, share = self.curvature_of(y, draws, seed), self.share_of_refresh()
            return old + share * (self.curvature_gain * found - old)

        if self.hessian_every == 1:
            self.hessian.assign(moved())
        elif part is not None:  # replicas cannot meet inside of a choice
            self.hessian.assign(moved() if self._phase else old)
        else:
            self.hessian.assign(tf.cond(self.step % self.hessian_every == 0, moved, lambda: old))

    def _refresh_factors(self, posterior: Union[RunningKron, RunningBlock], y, draws, seed) -> None:
        def moved():
            found = self._ggn(y, draws, seed)
            return posterior.moved(found, self.share_of_refresh(), self.curvature_gain * self._share_of_data(y, draws))

        if self.hessian_every == 1:
            posterior.assign_factors(moved())
        elif parts.current() is not None:
            posterior.assign_factors(moved() if self._phase else posterior.factors_now())
        else:
            posterior.assign_factors(tf.cond(self.step % self.hessian_every == 0, moved, posterior.factors_now))
        # At the steps of a power of two too, while there are few: h of so few steps soon changes.
        doubled = (tf.bitwise.bitwise_and(self.step, self.step - 1) == 0) & (self.step < self.factor_every)
        is_due = (self.step % self.factor_every == 0) | (doubled & (self.step % self.hessian_every == 0))
        posterior.factorise(is_due)

    @property
    def curvature_gain(self) -> float:
        """What h tends to for a constant curvature g, in units of it."""
        return 1.0 / (1.0 - self.memory_factor) if self.hessian_update == "accumulate" else 1.0

    def share_of_refresh(self) -> tf.Tensor:
        """Returns the weight of the newest curvature in h / (1 - m^t): (1 - m^n) / (1 - m^t), at first 1."""
        m, n = tf.constant(self.memory_factor, tf.float64), self.hessian_every
        refreshes = tf.cast(self.step // n + 1, tf.float64)
        # At m = 0 every refresh is the first.
        return tf.cast((1.0 - m**n) / (1.0 - m ** (n * refreshes)), self.num_data.dtype)

    def at_the_start(self, draw: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the weights to train at for a draw: the means, before the first curvature is known."""
        means = [tf.convert_to_tensor(variable) for variable in self.uncertain]
        return [tf.where(self.step > 0, value, mean) for value, mean in zip(draw, means)]

    def curvature_of(self, y: tf.Tensor, draws: Sequence[Sequence[Any]], seed: seeds.Seed) -> Any:
        """Returns g = c (N/B) mean_k sum_b diag J^T H J of y (B, *event), estimating the whole data's, (P,).

        Of Kronecker factors it is what `ggn` gives, whose output factors have all of the scale.
        """
        found, share = self._ggn(y, draws, seed), self._share_of_data(y, draws)
        if isinstance(self.posterior, RunningBlock):
            return [share * one for one in found]
        if not isinstance(self.posterior, RunningKron):
            return share * found
        return [one._replace(output_factor=share * one.output_factor) if isinstance(one, Kron)
                else KronDiagonal(share * one.diagonal) for one in found]

    def _ggn(self, y: tf.Tensor, draws: Sequence[Sequence[Any]], seed: seeds.Seed) -> Any:
        """Returns the sum over drawn weights of the curvature of y."""
        places = [self.uncertain] if self.one_hessian_per_sampling else draws
        found = []
        for k, values in enumerate(places):
            with weights.replaced(self.uncertain, [tf.stop_gradient(value) for value in values]):
                found.append(curvature.ggn_fn(self.graph, y, seed=seeds.fold_in(seed, k), **self.curvature_options))
        return replicas.sum_of_all(tf.nest.map_structure(lambda *some: tf.stop_gradient(tf.add_n(some)), *found))

    def _share_of_data(self, y: tf.Tensor, draws: Sequence) -> tf.Tensor:
        """Returns c (N/B) / K, what a sum over a batch and K drawn weights is multiplied by."""
        part = parts.current()
        count = tf.cast(tf.shape(y)[0] if part is None else part.total, self.num_data.dtype)
        number = 1 if self.one_hessian_per_sampling else len(draws)
        return tf.stop_gradient(self._constant() * self.num_data.value / (count * number))

    def _constant(self) -> tf.Tensor:
        """Returns the factor c of the curvature for sigma = 1."""
        if self.curvature_constant:
            return tf.constant(self.curvature_constant, self.num_data.dtype)
        return self.natural_constant()

    def natural_constant(self) -> tf.Tensor:
        """Returns the factor c that belongs to the objective: 1/sigma^2 for a Gaussian."""
        if self.is_gaussian:
            return tf.stop_gradient(self.likelihood.shared_precision(tf.as_dtype(self.num_data.dtype)))
        return tf.constant(1.0, self.num_data.dtype)

    def score_ratio(self) -> tf.Tensor:
        # h has the factor c, and of accumulated steps that of their number.
        return self.curvature_flags["score_precision"] / (self._constant() * self.curvature_gain)

    def kl(self) -> tf.Tensor:
        """Returns KL(q || N(0, 1/gamma)) over the chosen weights, in nats."""
        if isinstance(self.posterior, Running):
            priors = tf.convert_to_tensor(self.posterior.prior_precision)
            sizes = tf.constant(self.posterior.layout.sizes, priors.dtype)
            log_dets, traces = tf.unstack(tf.convert_to_tensor(self.posterior.sums), axis=1)
            found = tf.reduce_sum(priors * traces - sizes + log_dets - sizes * tf.math.log(priors))
            return 0.5 * (self._weighted_square() + found)
        ratios = [prior / precision for prior, precision in zip(self.posterior.priors(), self._precisions())]
        found = tf.add_n([tf.reduce_sum(ratio - 1.0 - tf.math.log(ratio)) for ratio in ratios])
        return 0.5 * (self._weighted_square() + found)

    def _weighted_square(self) -> tf.Tensor:
        """Returns the sum of gamma mu^2 over the chosen weights."""
        return tf.add_n([
            gamma * tf.reduce_sum(tf.square(tf.convert_to_tensor(variable)))
            for gamma, block in zip(self.posterior.priors(), self.blocks) for variable in block.variables
        ])  # fmt: skip

    def timings(self, x: np.ndarray) -> dict[str, float]:
        """Returns the seconds of a step's curvature and of a forward pass of x, at the mean weights, compiled."""
        y, _ = self.preprocess(x)
        some = y[: self.hessian_subset or None]
        parts = {
            "time/compute_hessian": lambda: tf.nest.flatten(self.curvature_of(some, [self.uncertain], (0, 0))),
            "time/forward_nn": lambda: [self.decoder_outputs(self.point(y))],
        }
        xla = bool(self.jit_compile)
        return {name: _seconds(tf.function(part, jit_compile=xla, autograph=False)) for name, part in parts.items()}

    def measure(self, x: np.ndarray, train: Optional[np.ndarray] = None, batch_size: int = 500) -> None:
        """Gives the posterior its last curvature, `settle_on` training data, then measures on held-out x."""
        if self.final_curvature_data:
            self.settle_on(x if train is None else train)
        elif isinstance(self.posterior, Running):
            self.posterior.settle()
        super().measure(x, train, batch_size)

    def settle_on(self, x: np.ndarray, batch_size: int = 256) -> None:
        """Sets h to the curvature at the mean weights of up to `final_curvature_data` of x (n, *event), for all data.

        A running average is of weights that have moved on, and of drawn ones.
        """
        rows = np.linspace(0, len(x) - 1, min(len(x), self.final_curvature_data)).astype(int)
        total = None
        for _, found in self.curvatures(x[rows], seeds.stream((self.seed, 0), FINAL), batch_size):
            total = found if total is None else posteriors.add(total, found)
        scale = self.curvature_gain * self._constant() * self.num_data.value / len(rows)
        total = posteriors.add(total, total, scale, 0.0)
        if isinstance(self.posterior, RunningBlock):
            self.posterior.assign_factors(total)
            self.posterior.settle()
        else:
            self.posterior.assign_curvature(total)

    # ---- building ----------------------------------------------------------------------------------

    @classmethod
    def from_hparams(cls, hparams: Any, event_shape: tuple[int, ...], total_steps: int) -> Autoencoder:
        if hparams.dropout_rate:
            raise UserError(f"--dropout_rate={hparams.dropout_rate} would do nothing: the weights that lae draws in "
                            "training take the place of dropout. Leave it out.")
        return super().from_hparams(hparams, event_shape, total_steps)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(), "train_samples": self.train_samples, "draw_every": self.draw_every,
            "hessian_update": self.hessian_update, "hessian_memory_factor": self.memory_factor,
            "hessian_every": self.hessian_every, "hessian_subset": self.hessian_subset,
            "factor_every": self.factor_every, "curvature_structure": self.posterior.structure,
            "one_hessian_per_sampling": self.one_hessian_per_sampling,
            "final_curvature_data": self.final_curvature_data,
            "curvature_constant": self.curvature_constant,
        }  # fmt: skip


def in_proportion(y: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Returns as many rows of y (batch, *event), each as often as its share of the weights (batch,), up to one."""
    count = tf.shape(weight)[0]
    places = (tf.cast(tf.range(count), weight.dtype) + 0.5) / tf.cast(count, weight.dtype)
    ends = tf.cumsum(weight) / tf.reduce_sum(weight)
    return tf.gather(y, tf.minimum(tf.searchsorted(ends, places), count - 1))


def _seconds(function) -> float:
    """Returns the median time of five calls, after one that compiles."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        function()[0].numpy()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def _check_deterministic(graph: curvature.Graph) -> None:
    """Refuses layers whose training couples the data of a batch: its curvature is not a sum over data."""
    for step in graph.chain.flat():
        if isinstance(step.layer, keras.layers.BatchNormalization):
            raise UserError(f"Layer {step.layer.name!r} is a batch normalisation, which couples the data of a batch "
                            "while it trains; the curvature of lae is a sum over data. Take --batch_norm=affine.")


MODEL = LAE
