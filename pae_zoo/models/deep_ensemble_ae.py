"""deep_ensemble_ae: several autoencoders that differ in their initial weights alone, trained side by side."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo import networks
from pae_zoo.core import hparams as hp
from pae_zoo.core import records, seeds, trainable
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.models import ae, base
from pae_zoo.models.bayesian import BayesianAE, Network, check_samples
from pae_zoo.models.parts import builder, geometry_decoders


@dataclasses.dataclass(frozen=True)
class HParams(records.SampleFlags, records.SharedHParams):
    """Flags of the deep ensemble of autoencoders."""

    num_members: int = hp.option(5, "Autoencoders in the ensemble.", low=1, high=1000, smoke=2)
    member_workdirs: tuple[str, ...] = hp.option(
        (), "Finished runs of ae that become the members, as they are, in the place of a training (empty: none).",
        group=hp.RUN, path=True)


@register_keras_serializable("pae_zoo")
class DeepEnsembleAE(BayesianAE):
    """M autoencoders, each maximising its own log p(y | z = e_m(y)) (Lakshminarayanan et al., arXiv 1612.01474).

    One step trains all members on one batch and minimises the sum of their losses. They share nothing but the
    observation model, and Adam scales each weight by itself, so that with a constant observation std every member is
    what it would be alone. The networks of the contract are the members: predictions take all of them once, whatever
    number and seed are asked for; draw s of `draw_codes` and `draw_reconstructions` is member s modulo M.

    Codes of different members live in different coordinates. `measure` aligns those of member m to member 0's by the
    translation and rotation (or reflection) that fit the codes of the training data best: z -> (z - c_m) R_m + c_0,
    R_m = U V' of the singular value decomposition of the codes' cross-covariance (Schönemann, Psychometrika 31 (1966)
    1). Drawn codes, their moments and the score "latent" are aligned; they say how well the members' codes agree up
    to such a map. `encode` and `decode` are member 0's; calling the model gives the mean of all reconstructions.

    Args beyond `Autoencoder`:
      members: pairs (encoder, decoder) besides the first, as one list: encoder, decoder, encoder, ...

    Raises UserError where a member's shapes differ from the first's.
    """

    parts = (*BayesianAE.parts, "members")

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", members: Optional[list] = None, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        self.members = list(members or [])
        if len(self.members) % 2:
            raise UserError(f"members is a list encoder, decoder, encoder, ...; received {len(self.members)} networks.")
        factor = self.likelihood.channels_factor
        for pair in self._pairs()[1:]:
            event_shape, latent_dim = networks.check_pair(*pair, channels_factor=factor, deterministic=True)
            if (event_shape, latent_dim) != (self.event_shape, self.latent_dim):
                raise UserError(
                    f"Members take the same data and latents; the first has {self.event_shape} and {self.latent_dim}, "
                    f"{pair[0].name} has {event_shape} and {latent_dim}."
                )
        self.num_members = len(self._pairs())
        size = self.latent_dim
        self.rotations = self.add_weight(
            name="rotations", shape=(self.num_members, size, size), trainable=False,
            initializer=lambda shape, dtype: tf.eye(size, batch_shape=[shape[0]], dtype=dtype),
        )  # fmt: skip
        self.shifts = self.add_weight(
            name="shifts", shape=(self.num_members, size), initializer="zeros", trainable=False)

    def _pairs(self) -> list[tuple[keras.Model, keras.Model]]:
        return [(self.encoder, self.decoder), *zip(self.members[::2], self.members[1::2])]

    # ---- networks ----------------------------------------------------------------------------------

    def member_codes(self, y: tf.Tensor, member: int, training: bool = False) -> tf.Tensor:
        """Returns the codes of y (batch, *event) in the member's own coordinates, (batch, K)."""
        return self._mean_and_raw(self._told(self._pairs()[member][0](y, training=training), y, training))[0]

    def member_outputs(self, z: tf.Tensor, member: int, training: bool = False) -> tf.Tensor:
        """Returns what the member's decoder gives at z (batch, K) in its own coordinates, (batch, *event)."""
        outputs = tf.cast(self._pairs()[member][1](z, training=training), self._outputs_type(z))
        return self._drawn_from(outputs, z, training)

    def member(self, number: int) -> Network:
        """Returns the member `number`, its latents aligned to those of member 0."""
        rotation, shift = tf.convert_to_tensor(self.rotations)[number], tf.convert_to_tensor(self.shifts)[number]
        return Network(
            lambda y: self.member_codes(y, number) @ rotation + shift,
            lambda z: self.member_outputs((z - shift) @ tf.transpose(rotation), number),
        )

    def mean_and_members(self, z: TensorLike) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the mean over members of E[y|z] at aligned z (n, K) and that of every member, (S, n, *event)."""
        z = self.latents(z)
        outputs = tf.stack([self.member(number).decode(z) for number in range(self.num_members)])
        members = self.likelihood.mean(outputs)
        return tf.reduce_mean(members, axis=0), members

    def geometry_decoder(self, num_members: int = 0, seed: Optional[seeds.Seed] = None) -> Any:
        """Returns copies of the first `num_members` members (0: all), aligned, with `mean_and_members(z)`."""
        num = min(num_members or self.num_members, self.num_members)
        stacked = networks.StackedDecoder.stack([decoder for _, decoder in self._pairs()[:num]])
        alignment = tuple(tf.identity(weight)[:num] for weight in (self.rotations, self.shifts))
        return geometry_decoders.Members(stacked, self.likelihood.mean, alignment)

    def over_networks(self, num_samples: int, seed: seeds.Seed, step: Callable, state: Any) -> Any:
        check_samples(num_samples)
        for number in range(self.num_members):
            state = step(state, tf.constant(number + 1.0), self.member(number))
        return state

    def num_networks(self, num_samples: int) -> int:
        return self.num_members

    def draw(self, y: tf.Tensor, num_samples: int, seed: seeds.Seed) -> tuple[tf.Tensor, tf.Tensor]:
        check_samples(num_samples)
        codes, outputs = [], []
        for number in range(self.num_members):
            network = self.member(number)
            codes.append(network.encode(y))
            outputs.append(network.decode(codes[-1]))
        order = tf.range(num_samples)
        if num_samples < self.num_members:  # not the first ones whatever the seed
            order += tf.cast(seeds.uniform((), seed) * self.num_members, tf.int32)
        order %= self.num_members
        return tf.gather(tf.stack(codes), order), tf.gather(tf.stack(outputs), order)

    def call(self, x: TensorLike, training: bool = False) -> tf.Tensor:
        """Returns the mean of the members' reconstructions of x (batch, *event), in the space of x."""
        y, _ = self.preprocess(x)
        means = [
            self.likelihood.mean(self.member_outputs(self.member_codes(y, number, training), number, training))
            for number in range(self.num_members)
        ]
        return self.to_data(tf.add_n(means) / self.num_members)

    # ---- training ----------------------------------------------------------------------------------

    objective_takes = ("target",)

    def objective(self, x: tf.Tensor, seed: seeds.Seed, training: bool,  # pyright: ignore[reportIncompatibleMethodOverride]
                  target: Optional[tf.Tensor] = None) -> dict[str, tf.Tensor]:
        preprocess_seed = seeds.stream(seed, trainable.PREPROCESS) if training else None
        seen, _ = self.preprocess(x, preprocess_seed)
        y = seen if target is None else self.preprocess(target, preprocess_seed)[0]
        axes = list(range(1, y.shape.rank))
        log_prob: Any = 0.0
        square: Any = 0.0
        for number in range(self.num_members):
            outputs = self.member_outputs(self.member_codes(seen, number, training), number, training)
            log_prob += self.likelihood.log_prob(outputs, y, scale=self.scale_now())
            square += tf.reduce_mean(tf.square(y - self.likelihood.mean(outputs)), axis=axes)
        return {"loss": -log_prob, "nll": -log_prob / self.num_members, "mse": square / self.num_members}

    def measure(self, x: np.ndarray, train: Optional[np.ndarray] = None, batch_size: int = 500) -> None:
        """Aligns the members on the training data (held-out x if they are not given), then measures as the others."""
        self._align(x if train is None else train, batch_size)
        super().measure(x, train, batch_size)

    def _align(self, x: np.ndarray, batch_size: int) -> None:
        def encode(x):
            y, _ = self.preprocess(x)
            return tf.stack([self.member_codes(y, number) for number in range(self.num_members)])

        encode = tf.function(encode, autograph=False)
        batches = [encode(trainable.to_float(x[i : i + batch_size])) for i in range(0, len(x), batch_size)]
        codes = np.concatenate(batches, axis=1).astype(np.float64)
        centres = codes.mean(axis=1)
        rotations = np.stack([procrustes(member - centre, codes[0] - centres[0])
                              for member, centre in zip(codes, centres)])  # fmt: skip
        rotations[0] = np.eye(self.latent_dim)
        self.rotations.assign(rotations)
        self.shifts.assign(centres[0] - np.einsum("mk,mkl->ml", centres, rotations))

    # ---- building ----------------------------------------------------------------------------------

    def check_start(self, other: base.Autoencoder) -> None:
        super().check_start(other)
        if isinstance(other, DeepEnsembleAE) and other.num_members != self.num_members:
            raise UserError(f"--init_workdir holds an ensemble of {other.num_members} members, this one has "
                            f"{self.num_members}. Take --num_members={other.num_members}.")

    @classmethod
    def starts(cls, hparams: Any) -> tuple[str, ...]:
        return hparams.member_workdirs or super().starts(hparams)

    @classmethod
    def skips_first_stage(cls, hparams: Any) -> bool:
        return bool(hparams.member_workdirs)

    @classmethod
    def inherit(cls, hparams: Any, before: Any, given: Collection[str]) -> Any:
        """Returns what every model inherits and, of --member_workdirs, their number; raises UserError for another."""
        found, runs = super().inherit(hparams, before, given), hparams.member_workdirs
        if not runs:
            return found
        if hparams.init_workdir or ("num_members" in given and hparams.num_members != len(runs)):
            raise UserError(f"--member_workdirs names {len(runs)} runs, which are all members that there are; leave "
                            "--num_members and --init_workdir out.")
        inherited = {"likelihood": before.likelihood} if "likelihood" not in given else {}
        return dataclasses.replace(found, num_members=len(runs), **inherited)

    def check_starts(self, others: Sequence[base.Autoencoder]) -> None:
        """Raises UserError unless there is one model, or one `ae` for each member, all of one preprocessing."""
        if len(others) == 1 and not isinstance(others[0], ae.AE):
            self.check_start(others[0])
            return
        for number, other in enumerate(others):
            if not isinstance(other, ae.AE):
                raise UserError(f"--member_workdirs takes runs of ae; run {number + 1} holds a {type(other).__name__}.")
            self.check_start(other)
            pairs = zip(other.preprocessing.weights, others[0].preprocessing.weights)
            if not all(np.array_equal(one, first) for one, first in pairs):
                raise UserError(f"Run {number + 1} of --member_workdirs was trained on other data than the first: its "
                                "preprocessing has other statistics.")

    def initialise_from_all(self, others: Sequence[base.Autoencoder]) -> None:
        """Takes the weights of one model, or those of each member from its own, and the mean of what they share."""
        super().initialise_from_all(others)
        if len(others) == 1:
            return
        for mine, other in zip(zip(self.members[::2], self.members[1::2]), others[1:]):
            for network, part in zip(mine, ("encoder", "decoder")):
                for weight, value in zip(network.weights, self.weights_from(other, part)):
                    weight.assign(value)
        for mine, *theirs in zip(self.likelihood.weights, *(other.likelihood.weights for other in others)):
            mine.assign(np.mean(np.stack([np.asarray(one) for one in theirs]), axis=0))

    def initialise_from(self, other: base.Autoencoder) -> None:
        """Takes the weights of another ensemble of as many members, or those of member 0 from another model."""
        super().initialise_from(other)
        if not isinstance(other, DeepEnsembleAE):
            return
        for mine, theirs in zip(self.members, other.members):
            mine.set_weights(theirs.get_weights())

    @classmethod
    def options(cls, hparams: Any, total_steps: int) -> dict[str, Any]:
        found = super().options(hparams, total_steps)
        del found["num_members"]
        return found

    @classmethod
    def from_hparams(cls, hparams: Any, event_shape: tuple[int, ...], total_steps: int) -> base.Autoencoder:
        if hparams.clip_norm:
            raise UserError(
                f"--clip_norm={hparams.clip_norm} would bind the members of deep_ensemble_ae to one another, since the "
                "norm is that of all weights. Leave it out."
            )
        encoder, decoder, preprocessing = builder.parts(hparams, event_shape, codes_only=True)
        members = [net for number in range(1, hparams.num_members)
                   for net in builder.parts(hparams, event_shape, number, codes_only=True)[:2]]  # fmt: skip
        return cls(
            encoder, decoder, likelihood=hparams.likelihood, preprocessing=preprocessing, scale=hparams.scale,
            seed=hparams.seed, name=hparams.model, members=members, **cls.options(hparams, total_steps),
        )


def procrustes(codes: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the orthogonal R (K, K) that minimises |codes R - target|^2, for centred rows (n, K)."""
    left, _, right = np.linalg.svd(codes.T @ target)
    return left @ right


MODEL = DeepEnsembleAE
