"""Codes refined at test: q(z|y) moved to the mode of p(z|y) from where the model put it, with the precision there."""

import dataclasses

import tensorflow as tf

from pae_zoo import laplace
from pae_zoo.core import records
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import only_finite
from pae_zoo.laplace import algebra
from pae_zoo.models.parts.posteriors import PrecisionPosterior

#: how a refinement's steps are chosen, and the schedule of the search that is
UPDATES: dict[str, str] = dict(zip(records.REFINING, ("backtracking", "line_search")))
#: updates that leave little to gain: a fourth adds about half a nat to a second
NUM_UPDATES = 2
MOST_UPDATES = 1000


@dataclasses.dataclass(frozen=True)
class Refinement:
    """How codes are refined.

    Args:
      update: "newton" takes full Newton steps, shortened where they would lower log p(y, z); "line_search" takes of
        seven lengths the one that raises it most.
      num_updates: steps, 1 or more.

    Raises UserError for another update or number.
    """

    update: str = "line_search"
    num_updates: int = NUM_UPDATES

    def __post_init__(self):
        if self.update not in UPDATES:
            raise UserError(f"A refinement is one of {', '.join(UPDATES)}; received {self.update!r}.")
        if not 1 <= self.num_updates <= MOST_UPDATES:
            raise UserError(f"A refinement takes between 1 and {MOST_UPDATES} updates; received {self.num_updates}. "
                            "Without any, leave the model as it is.")

    @property
    def search(self) -> laplace.Search:
        """The search from where q is: log p(y, z) never falls."""
        return laplace.Search(self.num_updates, 1.0, UPDATES[self.update])

    def path(self, system: laplace.System, start: tf.Tensor) -> list[tf.Tensor]:
        """Returns mu_0 .. mu_T from the latents `start` (batch, K), T + 1 of them."""
        return laplace.run(self.search, system, start).path

    def posterior(self, system: laplace.System, start: tf.Tensor) -> PrecisionPosterior:
        """Returns N(mu_T, Lambda_T^-1) from the latents `start` (batch, K), Lambda the precision at mu_T."""
        mean = self.path(system, start)[-1]
        gram = only_finite(system.at(mean).gram, mean, axes=2)
        factor = algebra.cholesky(gram + tf.eye(gram.shape[-1], dtype=gram.dtype))
        return PrecisionPosterior(mean, factor.lower)
