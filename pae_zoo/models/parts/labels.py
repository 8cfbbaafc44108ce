"""Labels as conditions: a model whose density of the latents is one for each label, and their mixture."""

import dataclasses
from typing import Any, Callable, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core import hparams as hp
from pae_zoo.core import labels as labels_lib
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike


@dataclasses.dataclass(frozen=True)
class LabelFlags:
    """Flags of the condition that latents have."""

    condition: str = hp.option(
        labels_lib.NONE, "What the density of the latents is given: nothing, or 'label': one for each label of the "
        "data, and their mixture where no label is given.", choices=(labels_lib.NONE, labels_lib.LABEL))
    num_labels: int = hp.option(0, "Labels of --condition=label, 0 .. num_labels - 1 (0: those of the data).", low=0,
                                high=10_000)


def of_flags(options: dict[str, Any]) -> dict[str, Any]:
    """Returns a constructor's arguments of flags with the number of labels alone, where there is a condition."""
    kept = {name: value for name, value in options.items() if name not in ("condition", "num_labels")}
    return {**kept, "num_labels": options["num_labels"]} if options.get("condition") == labels_lib.LABEL else kept


class TakesLabels:
    """The part of a model that knows of labels: p(x|c) of each label c = 0 .. C - 1, and p(x) = sum_c pi_c p(x|c).

    A label enters through the density of the latents: z ~ p(z|c), x ~ p(x|z). pi are the shares of labels in the
    training data. Without labels, `num_labels` is 0.
    """

    num_labels = 0
    #: the label, or one for each datum of a batch, of the model that `given` returns
    label: Optional[tf.Tensor] = None

    def given(self, label: Any) -> Any:
        """Returns the model of p(x|c): the same weights, nothing copied; densities, samples and scores are those of c.

        Args:
          label: c, a whole number, or one for each datum of a batch, (batch,): then `sample` draws one for each.

        Raises UserError for a model without labels, and for a label that there is none of.
        """
        model = object.__new__(type(self))
        model.__dict__.update(self.__dict__, label=labels_lib.given(label, self.num_labels))
        return model

    def log_joint_latent(self, z: TensorLike) -> tf.Tensor:
        """Returns log p(z, c) of every label c, nats, (..., K) -> (..., C); raises UserError without labels."""
        raise self._no_labels()

    def log_label_prob(self, x: TensorLike, num_samples: int = 100, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns log p(c|x) of every label c, nats, (batch, C), by Bayes' rule from p(x|c) and the shares of labels.

        Of a model with a posterior it is estimated from `num_samples` draws of it, of others it is p(c|z) at their
        code. Raises UserError for a model without labels.
        """
        raise self._no_labels()

    def count_labels(self, labels: np.ndarray, weights: Optional[np.ndarray] = None) -> None:
        """Takes pi, the shares of labels, from those of the training data, (n,)."""

    def _no_labels(self) -> UserError:
        return UserError(f"{type(self).__name__} has no labels: build it with num_labels, or train it with "
                         "--condition=label (vae, vlae, pae, rae, flow_vae).")


class LabelsFromDraws(TakesLabels):
    """The same for a model with a posterior q(z|x) and a learned prior: p(c|x) from draws of q."""

    learned_prior: Any

    def count_labels(self, labels: np.ndarray, weights: Optional[np.ndarray] = None) -> None:
        self.learned_prior.count_labels(labels, weights)

    def prior_curvature(self) -> Optional[Callable[[tf.Tensor], tf.Tensor]]:
        """Returns z (batch, K) -> -d^2 log p(z|c)/dz^2 where p(z|c) is one Gaussian, None elsewhere."""
        if self.label is None or self.learned_prior.per_label > 1:
            return None
        return lambda z: self.learned_prior.precision(z, self.label)

    def log_joint_latent(self, z: TensorLike) -> tf.Tensor:
        if not self.num_labels:
            raise self._no_labels()
        return self.learned_prior.log_joint(self.latents(z))  # pyright: ignore[reportAttributeAccessIssue]

    def log_label_prob(self, x: TensorLike, num_samples: int = 100, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        if not self.num_labels:
            raise self._no_labels()
        model: Any = self
        preprocess_seed, proposal_seed, noise_seed = seeds.split(model.next_seed(seed), 3)
        y, _ = model.preprocess(x, preprocess_seed)
        posterior = model.inferred(y, proposal_seed)
        z, log_q = posterior.from_noise(model._noise(y, num_samples, noise_seed))
        log_weights = model.likelihood_of(y, posterior.point())(z) - log_q
        joint = model.log_joint_latent(z) + log_weights[..., None]
        return tf.nn.log_softmax(tf.reduce_logsumexp(joint, axis=0))
