"""Autoencoders whose weights are uncertain: moments, densities and scores from networks drawn one at a time."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional, Union

import keras
import numpy as np
import tensorflow as tf

from pae_zoo import likelihoods, networks
from pae_zoo.core import fit_data, seeds, trainable
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.models import base, codes
from pae_zoo.models.parts import geometry_decoders, weights

# Streams of a seed beside those of the networks, which are numbered from 0 on.
PREPROCESS, MEASURE = "bayesian/preprocess", "bayesian/measure"
# Held-out data behind the mean score that typicality is measured from.
TYPICAL_DATA = 2000

Map = Callable[[tf.Tensor], tf.Tensor]


class Network(NamedTuple):
    """One drawn network: y (batch, *event) -> z (batch, K), and z (batch, K) -> the decoder's outputs."""

    encode: Map
    decode: Map


class BayesianAE(codes.Codes):
    """An autoencoder with a distribution over its networks: y -> z_s = e_s(y) -> p(y | theta_s).

    A subclass defines `network`. The networks are those of the seed: networks s = 0, 1, ... have the seeds
    fold_in(seed, s), whatever the data, so that data given in several calls with one seed meet the same networks. They
    are drawn and applied one at a time, with running moments (Welford, Technometrics 4 (1962) 419), so that memory does
    not grow with their number. `encode`, `decode` and calling the model use the one network that stands for all.

    Args beyond `Autoencoder`:
      test_samples: networks behind `ood_scores`.
    """

    offers = codes.Codes.offers | {"predictive", "draws", "grid"}
    draws_are_shared = True
    codes_only = True
    noise_is_trained = True

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", test_samples: int = 50, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        self.test_samples = int(test_samples)
        self.typical = self.add_weight(name="typical", shape=(), initializer="zeros", trainable=False)

    # ---- what each model defines -------------------------------------------------------------------

    def network(self, seed: tf.Tensor) -> Network:
        """Returns the network that `seed` draws."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a network is drawn.")

    def drawn_weights(self, seed: tf.Tensor) -> tuple[Sequence, Sequence[tf.Tensor]]:
        """Returns (variables, values): what the network that `seed` draws has in the place of these weights."""
        raise NotImplementedError(f"{type(self).__name__} draws no weights.")

    def over_networks(self, num_samples: int, seed: seeds.Seed, step: Callable, state: Any) -> Any:
        """Returns the state after step(state, s + 1, network s) for each s below `num_samples`; a nest of tensors."""
        check_samples(num_samples)

        def body(s, state):
            found = step(state, tf.cast(s + 1, self.float_type), self.network(seeds.fold_in(seed, s)))
            return s + 1, tf.nest.map_structure(lambda new, old: tf.ensure_shape(new, old.shape), found, state)

        return tf.while_loop(lambda s, _: s < num_samples, body, (0, state), parallel_iterations=1)[1]

    def draw(self, y: tf.Tensor, num_samples: int, seed: seeds.Seed) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (z (S, batch, K), the decoder's outputs (S, batch, ...)) of S drawn networks at y (batch, *event)."""
        check_samples(num_samples)

        def one(s):
            network = self.network(seeds.fold_in(seed, s))
            z = network.encode(y)
            return z, network.decode(z)

        if tf.executing_eagerly():  # map_fn costs more than the networks there
            return tuple(tf.stack(values) for values in zip(*(one(s) for s in range(num_samples))))
        types = (self.float_type, self.float_type)
        return tf.map_fn(one, tf.range(num_samples), fn_output_signature=types, parallel_iterations=1)

    # ---- moments -----------------------------------------------------------------------------------

    def moments(self, y: tf.Tensor, num_samples: int, seed: seeds.Seed) -> dict[str, tf.Tensor]:
        """Returns what is known of y (batch, *event) from `num_samples` networks, variances with divisor S.

        Keys: those of `predictive`; "mean_log_prob" and "log_mean_prob", the mean over networks of log p(y | theta_s)
        and the log of the mean of p(y | theta_s), nats, densities of y, shape (batch,).
        """
        data, latents, none = (self._zeros(y, *shape) for shape in (self.event_shape, (self.latent_dim,), ()))
        start = (data, data, data, latents, latents, none, none - math.inf)

        def step(state, count, network):
            mean, square, within, latent_mean, latent_square, total, log_sum = state
            z = network.encode(y)
            outputs = network.decode(z)
            found = self.likelihood.mean(outputs)
            log_prob = self.likelihood.log_prob(outputs, y)
            mean, square = _welford(count, mean, square, found)
            latent_mean, latent_square = _welford(count, latent_mean, latent_square, z)
            variance = tf.broadcast_to(self.likelihood.variance(outputs), tf.shape(found))
            within += (variance - within) / tf.cast(count, within.dtype)
            log_sum = tf.reduce_logsumexp(tf.stack([log_sum, log_prob]), axis=0)
            return mean, square, within, latent_mean, latent_square, total + log_prob, log_sum

        found = self.over_networks(num_samples, seed, step, start)
        mean, square, within, latent_mean, latent_square, total, log_sum = found
        number = float(self.num_networks(num_samples))
        return {
            "mean": mean,
            "aleatoric_variance": within,
            "epistemic_variance": square / number,
            "latent_mean": latent_mean,
            "latent_variance": latent_square / number,
            "mean_log_prob": total / number,
            "log_mean_prob": log_sum - math.log(number),
        }

    def num_networks(self, num_samples: int) -> int:
        """Returns how many networks `over_networks` visits for `num_samples` asked."""
        return num_samples

    def num_draws(self, num_samples: int) -> int:
        """Returns how many networks are behind `moments` for `num_samples` asked; 0 where none is drawn."""
        return self.num_networks(num_samples)

    def predictive(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        """Returns moments of the mean over networks of p(y'|x, theta_s), y' a new observation, in the space of y.

        Keys: "mean", "aleatoric_variance" (mean of Var[y'|theta_s]), "epistemic_variance" (variance of E[y'|theta_s]),
        of shape (batch, *event); "latent_mean" and "latent_variance" of the codes, (batch, latent_dim). Variances have
        the divisor `num_samples`.
        """
        found = self.moments(self.preprocess(x)[0], num_samples, self.next_seed(seed))
        return {name: value for name, value in found.items() if not name.endswith("_prob")}

    def predictive_log_prob(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns log 1/S sum_s p(x | theta_s), nats, shape (batch,), a density of x; x is also what is encoded."""
        seed = self.next_seed(seed)
        y, log_det = self.preprocess(x, seeds.stream(seed, PREPROCESS))
        return self.moments(y, num_samples, seed)["log_mean_prob"] + log_det

    def draw_codes(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns the codes of x in drawn networks, shape (num_samples, batch, latent_dim)."""
        return self.draw(self.preprocess(x)[0], num_samples, self.next_seed(seed))[0]

    def draw_reconstructions(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns the reconstructions of x by drawn networks, in the space of x, shape (num_samples, batch, *event)."""
        outputs = self.draw(self.preprocess(x)[0], num_samples, self.next_seed(seed))[1]
        frames = self.likelihood.mean(tf.reshape(outputs, (-1, *outputs.shape[2:])))
        return tf.reshape(self.to_data(frames), (num_samples, -1, *self.event_shape))

    def decode_grid(self, z: TensorLike, num_samples: int,
                    seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and std over drawn decoders of E[y|z] at latents z (batch, K), each (batch, *event)."""
        z = self.latents(z)
        start = self._zeros(z, *self.event_shape)

        def step(state, count, network):
            mean, square = state
            return _welford(count, mean, square, self.likelihood.mean(network.decode(z)))

        mean, square = self.over_networks(num_samples, self.next_seed(seed), step, (start, start))
        return mean, tf.sqrt(square / float(self.num_networks(num_samples)))

    def geometry_decoder(self, num_members: int = 0, seed: Optional[seeds.Seed] = None) -> Any:
        """Returns `num_members` drawn decoders (0: ten) with `mean_and_members(z)`, those of the networks of the seed.

        They are drawn here and kept, with their weights stacked; later changes of the model do not reach them.
        """
        base = self.next_seed(seed)
        drawn = [seeds.fold_in(base, s) for s in range(num_members or geometry_decoders.DEFAULT_MEMBERS)]
        return geometry_decoders.Members(self.stacked_decoders(drawn), self.likelihood.mean)

    def stacked_decoders(self, drawn: Sequence[tf.Tensor]) -> networks.StackedDecoder:
        """Returns the decoders of the networks that the seeds `drawn` draw."""
        stacked = networks.StackedDecoder(self.decoder, len(drawn))
        layers = networks.as_sequential(self.decoder).layers
        values: dict[str, list] = {layer.name: [] for layer in layers}
        for seed in drawn:
            with weights.replaced(*self.drawn_weights(seed)):
                for layer in layers:
                    own = (*layer.trainable_variables, *layer.non_trainable_variables)
                    values[layer.name].append([tf.convert_to_tensor(variable) for variable in own])
        for name, members in values.items():
            stacked.assign_layer(name, [tf.stack(value) for value in zip(*members)])
        return stacked

    def _zeros(self, like: tf.Tensor, *shape: int) -> tf.Tensor:
        batch = like.shape[0] if like.shape[0] is not None else tf.shape(like)[0]
        return tf.zeros((batch, *shape), self.float_type)

    # ---- scores ------------------------------------------------------------------------------------

    def ood_scores(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        """Returns four scores from `test_samples` networks, each (batch,), higher = more unusual.

        latent: sum over k of the std of z_k; output: sum over values of the std of E[y|theta]; likelihood: mean over
        networks of -log p(y|theta_s), nats; typicality: its distance from the mean over held-out data, which `measure`
        sets (0 before) (Miani et al., arXiv 2206.15078, section 5; its code).
        """
        return self.scores_of(self.moments(self.preprocess(x)[0], self.test_samples, self.next_seed(seed)))

    def scores_of(self, found: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the four scores of `ood_scores`, (batch,) each, of what `moments` found."""
        likelihood = -found["mean_log_prob"]
        axes = list(range(1, found["mean"].shape.rank))
        return {
            "latent": tf.reduce_sum(tf.sqrt(found["latent_variance"]), axis=-1),
            "output": tf.reduce_sum(tf.sqrt(found["epistemic_variance"]), axis=axes),
            "likelihood": likelihood,
            "typicality": tf.abs(likelihood - tf.cast(tf.convert_to_tensor(self.typical), likelihood.dtype)),
        }

    def measure(self, x: np.ndarray, train: Optional[np.ndarray] = None, batch_size: int = 500) -> None:
        """Measures on held-out x: observation stds that were not trained, then the mean score of up to 2,000 data."""
        super().measure(x, train, batch_size)
        self.measure_typical(x, batch_size)

    def measure_typical(self, x: np.ndarray, batch_size: int = 500) -> None:
        """Measures on held-out x what `ood_scores` compares with, and the observation std where it was not trained."""
        rows = np.linspace(0, len(x) - 1, min(len(x), TYPICAL_DATA)).astype(int)
        if not self.noise_is_trained and isinstance(self.likelihood, likelihoods.GaussianLearned):
            self._measure_noise(x[rows], batch_size)
        scores = tf.function(lambda x, seed: self.ood_scores(x, seed)["likelihood"], autograph=False)
        base, total = seeds.stream((self.seed, 0), MEASURE), 0.0
        for number, start in enumerate(range(0, len(rows), batch_size)):
            batch = trainable.to_float(x[rows[start : start + batch_size]])
            seed = base if self.draws_are_shared else seeds.fold_in(base, number)
            total += float(tf.reduce_sum(tf.cast(scores(batch, seed), tf.float64)))
        self.typical.assign(total / len(rows))

    def leave_noise_out(self) -> None:
        """Tells that the objective has no observation noise: `measure` sets sigma, the root of E_q[squared error].

        Raises UserError for a decoder of variances, which nothing would train.
        """
        if isinstance(self.likelihood, likelihoods.GaussianDecoder):
            raise UserError("The published loss is the squared error of the mean alone, so the variances of likelihood "
                            "'gaussian_decoder' would not be trained. Take the likelihood gaussian_learned, or the "
                            "model without the published loss.")
        self.noise_is_trained = False

    @property
    def no_targets(self) -> str:
        if self.noise_is_trained:
            return super().no_targets
        return "its observation noise is measured on x after training. Take the model without the published loss"

    @property
    def trained_variables(self) -> list:
        """The weights of the network, and the observation std where the objective contains it."""
        own = set() if self.noise_is_trained else {id(v) for v in self.likelihood.trainable_variables}
        return [v for v in self.trainable_variables if id(v) not in own]

    def _measure_noise(self, x: np.ndarray, batch_size: int) -> None:
        variance, seed = tf.function(self._squared_error, autograph=False), seeds.stream((self.seed, 0), MEASURE)
        total = 0.0
        for start in range(0, len(x), batch_size):
            total += float(variance(trainable.to_float(x[start : start + batch_size]), seed))
        value = total / (len(x) * self.likelihood.num_values)
        self.likelihood.log_variance.assign(max(math.log(value), likelihoods.MIN_LOG_VARIANCE))

    def _squared_error(self, x: tf.Tensor, seed) -> tf.Tensor:
        """Returns the sum over x (batch, *event) of the mean over networks of the squared error, in float64."""
        y, _ = self.preprocess(x)
        found = self.moments(y, self.test_samples, seed)
        return tf.reduce_sum(tf.cast(tf.square(found["mean"] - y) + found["epistemic_variance"], tf.float64))

    reads_again = True

    def training_examples(self, train: fit_data.Source, steps: Optional[int] = None) -> np.ndarray:
        """Returns the training data that `measure` is given after `fit`, with `steps` batches an epoch if given.

        Args: train, the source of them (`fit_data`). Shape (n, *event); of batches the first 10,000 data.
        """
        return fit_data.examples(train, trainable.ADAPT_DATA)

    def after_fit(self, history: keras.callbacks.History, train: fit_data.Source, held_out: Optional[fit_data.Source],
                  steps: Optional[int], verbose: Union[str, int, None]) -> None:
        """Calls `measure` and `measure_scores`, on up to 10,000 validation data if there are, else on training data."""
        x = self.training_examples(train, steps)
        measured = x if held_out is None else fit_data.examples(held_out, trainable.ADAPT_DATA)
        if len(x) and len(measured):
            self.measure(measured, x)
            self.measure_scores(measured)

    # ---- building ----------------------------------------------------------------------------------

    def weights_from(self, other: base.Autoencoder, part: str) -> list[tf.Tensor]:
        found = super().weights_from(other, part)
        if part != "encoder":
            return found
        # The last layer of an encoder with raw scales beside the codes gives twice as many numbers, as ours may too.
        double = 2 * self.latent_dim
        own = [variable.shape for variable in self.encoder.weights[-2:]]
        last = [value[..., : self.latent_dim] if value.shape[-1] == double and value.shape != shape else value
                for value, shape in zip(found[-2:], own)]
        return [*found[:-2], *last]

    @classmethod
    def options(cls, hparams: Any, total_steps: int) -> dict[str, Any]:
        return {**super().options(hparams, total_steps), "test_samples": hparams.test_samples}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "test_samples": self.test_samples}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Optional[dict[str, Any]] = None) -> "BayesianAE":
        # Earlier versions wrote the settings of `ae` too, at the values that leave them out.
        left_out = ("objective_type", "hybrid_steps", "code_noise")
        kept = {key: value for key, value in config.items() if key not in left_out}
        return super().from_config(kept, custom_objects)


def check_samples(num_samples: int) -> None:
    """Raises ValueError unless there is at least one network."""
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; received {num_samples}.")


def _welford(count: tf.Tensor, mean: tf.Tensor, square: tf.Tensor, value: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and sum of squared deviations after `value`, the number `count` of the series."""
    delta = value - mean
    mean += delta / tf.cast(count, value.dtype)
    return mean, square + tf.maximum(delta * (value - mean), 0.0)
