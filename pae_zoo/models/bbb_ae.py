"""bbb_ae: autoencoder with a Gaussian over every weight, trained by Bayes by backprop."""

import dataclasses
import math
from typing import Any, Optional

import keras
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core import hparams as hp
from pae_zoo.core import records, seeds, trainable
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.core.errors import UserError, check_choice
from pae_zoo.models.base import Autoencoder
from pae_zoo.models.bayesian import BayesianAE, Network
from pae_zoo.models.parts import weights
from pae_zoo.models.parts.former import Former

# Stream of a step's seed that its networks are drawn from.
NETWORKS = "bbb_ae/networks"
PRIORS = ("mixture", "gaussian")
RHO_RANGE = (-5.0, -4.0)


@dataclasses.dataclass(frozen=True)
class HParams(records.SampleFlags, records.SharedHParams):
    """Flags of the autoencoder trained by Bayes by backprop."""

    weight_prior: str = hp.option(
        "mixture", "Prior of the weights: 'gaussian' N(0, --prior_std^2), its KL in closed form, or 'mixture' of that "
        "and N(0, --prior_narrow_std^2), its KL from the drawn weights.", choices=PRIORS)
    prior_std: float = hp.option(1.0, "Std of the prior, of the wide component of the mixture.", above=0.0)
    prior_narrow_std: float = hp.option(0.0024787522, "Std of the narrow component of the mixture (e^-6).", above=0.0)
    prior_share: float = hp.option(0.5, "Share of the wide component of the mixture.", above=0.0, high=0.999)
    kl_weight: float = hp.option(1.0, "Weight of the KL term (1: the evidence lower bound).", low=0.0)
    train_samples: int = hp.option(1, "Networks drawn in each training step.", low=1, high=1000)


@register_keras_serializable("pae_zoo")
class BBBAE(BayesianAE):
    """Autoencoder with q(w) = N(mu, softplus(rho)^2) over all weights of encoder and decoder (arXiv 1505.05424).

    With N training data the loss of a datum is E_q[-log p(y|w)] + kl_weight KL(q || p) / N, estimated by
    `train_samples` networks, each of which the whole batch goes through (Blundell et al., eqs. 2, 7). The means mu are
    the networks' own weights, which `encode`, `decode` and calling the model use.

    Args beyond `Autoencoder`: weight_prior ("mixture" or "gaussian"), prior_std, prior_narrow_std, prior_share,
      kl_weight, train_samples: see the flags' help.

    Raises UserError for settings that do not exist.
    """

    tracked = ("nll", "mse", "kl", "log_prior", "log_posterior")
    upstream_tags = {
        f"{ours}/{name}": f"{theirs}_{tag}"
        for ours, theirs in (("train", "train"), ("valid", "val"))
        for name, tag in (("loss", "loss"), ("log_prior", "log_prior"), ("nll", "negative_log_likelihood"),
                          ("log_posterior", "log_variational_posterior"))
    }  # fmt: skip

    former = Former("bbb_ae_published", "pae_zoo>BBBAEPublished",
                    {"bbb_loss": ("elbo", "legacy"), "bbb_init": ("network", "upstream")},
                    kept=("bbb_loss", "bbb_init"))

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", weight_prior: str = "mixture",
                 prior_std: float = 1.0, prior_narrow_std: float = math.exp(-6.0), prior_share: float = 0.5,
                 kl_weight: float = 1.0, train_samples: int = 1, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        check_choice(weight_prior, PRIORS, "weight_prior")
        if not (prior_std > 0 and prior_narrow_std > 0 and 0 < prior_share < 1 and train_samples >= 1):
            raise UserError(
                "The prior's stds must be above 0, its share between 0 and 1 and train_samples at least 1; received "
                f"{prior_std}, {prior_narrow_std}, {prior_share} and {train_samples}."
            )
        if not self.means:
            raise UserError("Encoder and decoder hold no weight that trains, so there is none to be uncertain of. Take "
                            "layers with weights, and set trainable=True where they are frozen.")
        self.weight_prior = weight_prior
        self.prior_std, self.prior_narrow_std = float(prior_std), float(prior_narrow_std)
        self.prior_share, self.kl_weight = float(prior_share), float(kl_weight)
        self.train_samples = int(train_samples)
        self.num_data = self.add_weight(name="num_data", shape=(), initializer="ones", trainable=False)
        self.rhos = [
            self.add_weight(name=f"rho_{index}", shape=mean.shape, dtype=mean.dtype,
                            initializer=uniform(RHO_RANGE, self.seed, 2 * index))
            for index, mean in enumerate(self.means)
        ]  # fmt: skip

    @property
    def means(self) -> list[keras.Variable]:
        """The weights that q is over, which hold its means: the encoder's, then the decoder's."""
        return [*self.encoder.trainable_weights, *self.decoder.trainable_weights]

    # ---- weights -----------------------------------------------------------------------------------

    def stds(self) -> list[tf.Tensor]:
        """Returns softplus(rho) of every weight, of the shapes of `means`."""
        return [tf.nn.softplus(tf.convert_to_tensor(rho)) for rho in self.rhos]

    def network(self, seed: tf.Tensor) -> Network:
        """Returns the network whose weights `seed` draws from q."""
        values = self.drawn_weights(seed)[1]

        def at(net):
            def apply(inputs):
                with weights.replaced(self.means, values):
                    return net(inputs)

            return apply

        return Network(at(lambda y: self.encoder_outputs(y)[0]), at(self.decoder_outputs))

    def drawn_weights(self, seed: tf.Tensor) -> tuple[list[keras.Variable], list[tf.Tensor]]:
        return self.means, weights.drawn(self.means, self.stds(), seed)

    def log_densities(self, values: list, noise: list, stds: list) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (log q, log p) in nats: of drawn weights mu + std noise, or their means over q (gaussian prior)."""
        log_q: Any = 0.0
        log_p: Any = 0.0
        for mean, value, eps, std in zip(self.means, values, noise, stds):
            log_std = tf.reduce_sum(tf.math.log(std))
            size = float(math.prod(mean.shape)) * 0.5 * LOG_2PI
            if self.weight_prior == "gaussian":
                square = tf.reduce_sum(std**2 + tf.convert_to_tensor(mean) ** 2) / self.prior_std**2
                log_q -= log_std + size + 0.5 * math.prod(mean.shape)
                log_p -= size + 0.5 * square + math.prod(mean.shape) * math.log(self.prior_std)
            else:
                log_q -= log_std + size + 0.5 * tf.reduce_sum(eps**2)
                log_p += tf.reduce_sum(self._log_mixture(value)) - size
        return log_q, log_p

    def _log_mixture(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the log density of the mixture, without -1/2 log 2 pi, of the shape of `value`."""
        wide = math.log(self.prior_share / self.prior_std) - 0.5 * (value / self.prior_std) ** 2
        narrow = math.log((1 - self.prior_share) / self.prior_narrow_std) - 0.5 * (value / self.prior_narrow_std) ** 2
        return tf.maximum(wide, narrow) + tf.math.log1p(tf.exp(-tf.abs(wide - narrow)))

    # ---- training ----------------------------------------------------------------------------------

    objective_takes = ("target",)

    def objective(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: tf.Tensor, seed: tf.Tensor, training: bool, target: Optional[tf.Tensor] = None
    ) -> dict[str, tf.Tensor]:
        preprocess_seed = seeds.stream(seed, trainable.PREPROCESS) if training else None
        seen, _ = self.preprocess(x, preprocess_seed)
        y = seen if target is None else self.preprocess(target, preprocess_seed)[0]
        stds, base = self.stds(), seeds.stream(seed, NETWORKS)
        state = [*self.encoder.non_trainable_weights, *self.decoder.non_trainable_weights] if training else []
        log_prob: Any = 0.0
        log_q: Any = 0.0
        log_p: Any = 0.0
        mean: Any = 0.0
        for number in range(self.train_samples):
            noise: list = []
            values = weights.drawn(self.means, stds, seeds.fold_in(base, number), noise)
            with weights.replaced(self.means, values, state):
                outputs = self.decoder_outputs(self.encoder_outputs(seen, training)[0], training)
            log_prob += self.likelihood.log_prob(outputs, y, scale=self.scale_now()) / self.train_samples
            mean += self.likelihood.mean(outputs) / self.train_samples
            found = self.log_densities(values, noise, stds)
            log_q, log_p = log_q + found[0] / self.train_samples, log_p + found[1] / self.train_samples
        mse = tf.reduce_mean(tf.square(y - mean), axis=list(range(1, y.shape.rank)))
        share = self.kl_weight * (log_q - log_p) / tf.convert_to_tensor(self.num_data)
        loss = self.loss_of(-log_prob, mse, share)
        every = tf.zeros_like(log_prob)
        return {"loss": loss, "nll": -log_prob, "mse": mse, "kl": every + (log_q - log_p), "log_prior": every + log_p,
                "log_posterior": every + log_q}  # fmt: skip

    def loss_of(self, nll: tf.Tensor, mse: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        """Returns the loss of each datum (batch,), from its -log p(y|w) and its squared error per value, both (batch,).

        `share` is kl_weight KL(q || p) / N, what a datum has of the KL.
        """
        return nll + share

    def count_data(self, num: float) -> None:
        """Sets N, the number of training data or the sum of their weights."""
        self.num_data.assign(float(num))

    def initialise_from(self, other: Autoencoder) -> None:
        """Takes the means of the weights from another trained model."""
        super().initialise_from(other)
        if isinstance(other, BBBAE):
            for rho, theirs in zip(self.rhos, other.rhos):
                rho.assign(theirs)

    def get_config(self) -> dict[str, Any]:
        own = ("weight_prior", "prior_std", "prior_narrow_std", "prior_share", "kl_weight", "train_samples")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def uniform(bounds: tuple[float, float], seed: int, index: int) -> keras.initializers.Initializer:
    """Returns an initializer of uniform numbers, one of many of a seed: rho_i has the index 2 i, mu_i 2 i + 1."""
    return keras.initializers.RandomUniform(*bounds, seed=seeds.integer(seed, seeds.number_of(NETWORKS), index))


MODEL = BBBAE
