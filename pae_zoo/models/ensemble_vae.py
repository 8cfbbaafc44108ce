"""ensemble_vae: variational autoencoder with one encoder and several decoders, whose disagreement is uncertainty."""

import dataclasses
import functools
import math
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo import laplace, likelihoods, networks
from pae_zoo.core import hparams as hp
from pae_zoo.core import inputs, parts, seeds, trainable
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.models import base, vae
from pae_zoo.models.parts import builder, geometry_decoders, importance
from pae_zoo.models.parts.mixtures import MemberMixture

ASSIGNMENTS = ("split", "per_batch", "all")
# Stream of the seed behind a step's latents that says which member decodes what.
ASSIGNMENT = "ensemble_vae/assignment"


@dataclasses.dataclass(frozen=True)
class HParams(vae.HParams):
    """Flags of the variational autoencoder with an ensemble of decoders."""

    num_members: int = hp.option(10, "Decoders in the ensemble.", low=1, high=1000, smoke=3)
    assignment: str = hp.option(
        "split", "Which decoders train on a batch: 'split' gives every datum one of them, at random and evenly; "
        "'per_batch' gives one drawn decoder the whole batch; 'all' gives everything to all.", choices=ASSIGNMENTS)


@register_keras_serializable("pae_zoo")
class EnsembleVAE(vae.VAE):
    """VAE with S decoders f_s, p(y|z) = 1/S sum_s p(y|f_s(z)) (Syrota et al., arXiv 2408.07507, section 3).

    The members stand in for draws from a posterior over decoder weights: they differ in their initial weights and in
    what they are given to decode. Training takes log p(y|f_s(z)) of the members that a datum is assigned to; validation
    takes the mean over all members. `elbo`, `log_likelihood` and `decode` are those of the mixture.

    Args beyond `VAE`:
      decoder: a `networks.StackedDecoder`, or a list of built `keras.Sequential` decoders of one architecture, or one.
      assignment: "split", "per_batch" or "all": see the flag's help.

    Raises UserError for another assignment, or decoders that differ in their layers.
    """

    offers = vae.VAE.offers | {"grid"}

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", assignment: str = "split", **kwargs):
        if not isinstance(decoder, networks.StackedDecoder):
            decoder = decoder if isinstance(decoder, (list, tuple)) else [decoder]
            decoder = networks.StackedDecoder.stack(decoder, name="decoder")
        if assignment not in ASSIGNMENTS:
            raise UserError(f"assignment is one of {', '.join(ASSIGNMENTS)}; received {assignment!r}.")
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        self.assignment = assignment
        self.member_errors = self.add_weight(
            name="member_errors", shape=(self.num_members,), initializer="zeros", trainable=False)

    @property
    def num_members(self) -> int:
        """S, the number of decoders."""
        return self.decoder.num_members

    @property
    def xla_pays(self) -> bool:
        # Stacked kernels have one axis more than those that the base class looks for.
        return super().xla_pays and (not self.decoder.takes_turns or bool(tf.config.list_logical_devices("GPU")))

    def observation_model(self, likelihood: likelihoods.Likelihood) -> likelihoods.Likelihood:
        return likelihood if isinstance(likelihood, MemberMixture) else MemberMixture(likelihood, name="likelihood")

    # ---- decoders ----------------------------------------------------------------------------------

    def decoder_outputs(self, z: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the outputs of all members for z (..., K), with the members in front: (S, ..., *event)."""
        z = inputs.ending(z, (self.latent_dim,), "z")
        flat = z if z.shape.rank == 2 else tf.reshape(z, (-1, self.latent_dim))
        outputs = tf.cast(self.decoder.members(flat, training), self._outputs_type(z))
        return self._unflatten(self._drawn_from(outputs, flat, training), z, 1)

    def _unflatten(self, outputs: tf.Tensor, z: tf.Tensor, axis: int) -> tf.Tensor:
        """Gives outputs the leading axes of z (..., K) in the place of their flat one, `axis`."""
        if z.shape.rank == 2:
            return outputs
        leading = [size if size is not None else tf.shape(z)[i] for i, size in enumerate(z.shape[:-1])]
        return tf.reshape(outputs, (*outputs.shape[:axis], *leading, *outputs.shape[axis + 1 :]))

    def mean_and_members(self, z: TensorLike) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the mean over members of E[y|z] and that of every member, (n, *event) and (S, n, *event)."""
        members = self.likelihood.member_means(self.decoder_outputs(self.latents(z)))
        return tf.reduce_mean(members, axis=0), members

    def decode_member(self, z: TensorLike, member: TensorLike) -> tf.Tensor:
        """Returns E[y|z] of chosen members, (n, *event); `member` is an integer or one for each of z (n, K)."""
        members = self.mean_and_members(z)[1]
        chosen = tf.broadcast_to(tf.cast(member, tf.int32), tf.shape(members)[1:2])
        return tf.gather(keras.ops.moveaxis(members, 0, 1), chosen, axis=1, batch_dims=1)

    def decode_grid(self, z: TensorLike, num_samples: int,
                    seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and std over all members of E[y|z] at z (batch, K), whatever number and seed are asked for."""
        mean, members = self.mean_and_members(z)
        return mean, tf.math.reduce_std(members, axis=0)

    def num_networks(self, num_samples: int) -> int:
        """Returns how many decoders `decode_grid` has behind it: all of them."""
        return self.num_members

    def geometry_decoder(self, num_members: int = 0, seed: Optional[seeds.Seed] = None) -> Any:
        """Returns the first `num_members` members (0: all) with `mean_and_members(z)`; `seed` changes nothing."""
        some = 0 < num_members < self.num_members
        stacked = self.decoder.first(num_members) if some else self.decoder
        return geometry_decoders.Members(stacked, self.likelihood.member_means)

    # ---- objective ---------------------------------------------------------------------------------

    def reconstruction_log_prob(self, z: tf.Tensor, y: tf.Tensor, seed: tf.Tensor, training: bool) -> tf.Tensor:
        component, scale = self.likelihood.component, self.scale_now()
        if not training or self.assignment == "all":
            return tf.reduce_mean(component.log_prob(self.decoder_outputs(z, training), y, scale=scale), axis=0)
        seed = seeds.stream(seed, ASSIGNMENT)
        if self.assignment == "per_batch":
            member = tf.cast(seeds.uniform((), seed, batch=None) * self.num_members, tf.int32)
            outputs = self.decoder.member(tf.reshape(z, (-1, self.latent_dim)), member, training)
        else:
            outputs = self._split(z, seed, training)
        return component.log_prob(self._unflatten(trainable.to_float(outputs), z, 0), y, scale=scale)

    def _split(self, z: tf.Tensor, seed, training: bool) -> tf.Tensor:
        """Decodes every one of z (L, n, K) with one member, drawn at random and evenly: (L n, *event).

        The latents fill S rows of ceil(L n / S) places in random order. Where S does not divide their number, some
        places hold zeros, whose outputs are dropped; each latent falls to each member with probability 1/S.
        """
        flat = tf.reshape(z, (-1, self.latent_dim))
        part = parts.current()
        if part is not None:
            return self._own_members(flat, part, seed, training)
        num = flat.shape[0] if flat.shape[0] is not None else tf.shape(flat)[0]
        rows = -(-num // self.num_members)
        places = seeds.permutation(rows * self.num_members, seed, None)  # of latent i: the i-th
        padded = tf.pad(flat, [[0, rows * self.num_members - num], [0, 0]])
        order = tf.argsort(places)
        spread = tf.reshape(tf.gather(padded, order), (self.num_members, -1, self.latent_dim))
        outputs = self.decoder.each(spread, training)
        return tf.gather(tf.reshape(outputs, (-1, *outputs.shape[2:])), places[:num])

    def _own_members(self, flat: tf.Tensor, part: parts.Part, seed: tf.Tensor, training: bool) -> tf.Tensor:
        """Decodes a part's latents (L size, K) by the members that they fall to in the whole batch: (L size, *event).

        Members have not equally many of them here, so that all decode all.
        """
        own = tf.reshape(flat, (-1, part.size, self.latent_dim))
        place = tf.range(tf.shape(own)[0])[:, None] * part.total + part.offset + tf.range(part.size)
        rows = -(-(tf.shape(own)[0] * part.total) // self.num_members)
        member = tf.gather(seeds.permutation(rows * self.num_members, seed, None), tf.reshape(place, (-1,)))
        outputs = tf.stack(tf.unstack(self.decoder.members(flat, training)), axis=1)
        return tf.gather(outputs, member // tf.cast(rows, member.dtype), axis=1, batch_dims=1)

    @property
    def not_divided(self) -> str:
        if self.assignment == "split" and self.decoder.drops_out:
            return "its decoders have dropout, whose noise goes by the places that a whole batch has in them"
        return super().not_divided

    # ---- evaluation --------------------------------------------------------------------------------

    def importance_estimate(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None,
                            chunk: int = 0) -> importance.ImportanceEstimate:
        given = inputs.shaped(x, self.event_shape)
        # A latent is decoded S times here, so fewer of them are held at once.
        batch = given.shape[0]
        if not chunk and isinstance(batch, int):
            chunk = max(1, importance.DECODES_PER_CHUNK // (batch * self.num_members))
        return super().importance_estimate(given, num_samples, seed, chunk)

    def system(self, y: tf.Tensor, training: bool = False) -> laplace.System:
        """Returns the model of p(y, z) whose members are linearised together, for y (batch, *event)."""
        scale = self.scale_now() if training else None

        def flat(members):  # behind the batch: (S, batch, *event) -> (batch, S * values)
            behind = tf.transpose(members, (1, 0, *range(2, len(members.shape))))
            return tf.reshape(behind, (-1, math.prod(behind.shape[1:])))

        def in_front(values):
            *event, channels = self.event_shape
            shape = (-1, self.num_members, *event, channels * self.likelihood.channels_factor)
            return tf.transpose(tf.reshape(values, shape), (1, 0, *range(2, len(shape))))

        def score_and_fisher(values):
            score, fisher = self.likelihood.score_and_fisher(in_front(values), y, scale=scale)
            return flat(score), flat(fisher)

        return laplace.FunctionSystem(
            lambda z: flat(self.decoder_outputs(z)),
            lambda values: self.likelihood.log_prob(in_front(values), y, scale), score_and_fisher)

    def _output_moments(self, outputs):
        # Over drawn latents and all members, which are equally uncertain about y.
        mean, between = tf.nn.moments(self.likelihood.member_means(outputs), axes=[0, 1])
        return mean, tf.reduce_mean(self.likelihood.component.variance(outputs), axis=[0, 1]), between

    def ood_scores(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        """Returns the scores of `VAE.ood_scores` and "output": the sum over values of the members' std at the code."""
        spread = self.decode_grid(self.point(self.preprocess(x)[0]), self.num_members)[1]
        return {**super().ood_scores(x, seed), "output": tf.reduce_sum(spread, axis=list(range(1, spread.shape.rank)))}

    def measure(self, x: np.ndarray, train: Optional[np.ndarray] = None, batch_size: int = 500) -> None:
        """Measures on held-out x each member's squared error, and the stds of "gaussian_pixel" as mean over members."""

        def squares(x):
            y, _ = self.preprocess(x)
            residual = self.residual(y, self.likelihood.member_means(self.decoder_outputs(self.point(y))))
            return tf.reduce_sum(tf.cast(tf.square(residual), tf.float64), axis=1)

        # Partial: TensorFlow warns of retracing where one piece of code is traced for model after model.
        squares = tf.function(functools.partial(squares), autograph=False)
        batches = (trainable.to_float(x[i : i + batch_size]) for i in range(0, len(x), batch_size))
        total: Any = sum(squares(batch) for batch in batches) / len(x)
        self.member_errors.assign(tf.reduce_sum(total, axis=list(range(1, total.shape.rank))))
        if isinstance(self.component, likelihoods.GaussianPixel):
            self.component.assign_scale(tf.sqrt(tf.reduce_mean(total, axis=0)))

    def findings(self) -> dict[str, float]:
        """Returns the members' squared errors on validation data, sums over a datum's values: each, and their spread.

        Keys: members/squared_error/0, 1, ...; members/squared_error_spread, the largest over the least, minus 1.
        """
        errors = np.array(self.member_errors)
        found = {f"members/squared_error/{number}": float(error) for number, error in enumerate(errors)}
        if errors.min() > 0:
            found["members/squared_error_spread"] = float(errors.max() / errors.min() - 1)
        return found

    # ---- building ----------------------------------------------------------------------------------

    def inherited_parts(self, other: base.Autoencoder) -> tuple[str, ...]:
        # The one decoder of another model would make all members alike: they keep initial weights of their own.
        if isinstance(other, EnsembleVAE):
            return super().inherited_parts(other)
        return ("encoder", "preprocessing", "likelihood")

    @classmethod
    def options(cls, hparams: Any, total_steps: int) -> dict[str, Any]:
        found = super().options(hparams, total_steps)
        del found["num_members"]
        return found

    @classmethod
    def from_hparams(cls, hparams: Any, event_shape: tuple[int, ...], total_steps: int) -> base.Autoencoder:
        encoder, first, preprocessing = builder.parts(hparams, event_shape)
        others = [builder.decoder(hparams, event_shape, member) for member in range(1, hparams.num_members)]
        return cls(
            encoder, networks.StackedDecoder.stack([first, *others], name="decoder"), likelihood=hparams.likelihood,
            preprocessing=preprocessing, scale=hparams.scale, seed=hparams.seed, name=hparams.model,
            **cls.options(hparams, total_steps),
        )  # fmt: skip

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "assignment": self.assignment}

    def serving_signatures(self) -> dict[str, Any]:
        """Returns the signature decode_members: images of all members (n, S, *event) at z, their mean and std."""

        def decode_members(z):
            mean, members = self.mean_and_members(z)
            frames = self.to_data(tf.reshape(members, (-1, *self.event_shape)))
            frames = tf.reshape(frames, (self.num_members, -1, *self.event_shape))
            return {"x": keras.ops.moveaxis(frames, 0, 1), "mean": self.to_data(mean),
                    "std": tf.math.reduce_std(frames, axis=0)}  # fmt: skip

        return {"decode_members": (("z",), decode_members)}


MODEL = EnsembleVAE
