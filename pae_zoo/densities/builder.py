"""Densities by name: what each consists of."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError, unknown
from pae_zoo.densities.factor_mixture import FactorMixture
from pae_zoo.densities.flow_matching import FlowMatching
from pae_zoo.densities.mixture import Mixture
from pae_zoo.densities.parameters import Parameters
from pae_zoo.flows.flow import Flow

#: names, each with what it is
NAMES: dict[str, str] = {
    "gaussian": "one Gaussian with the mean and covariance of the data",
    "gaussian_mixture": "Gaussians with full covariances, by EM",
    "student_mixture": "Student t with full scale matrices, by EM",
    "flow": "a normalizing flow from N(0, I)",
    "mixture_flow": "a normalizing flow from a mixture of Student t, which EM fits and training goes on with",
    "flow_matching": "an ordinary differential equation from N(0, I), trained by flow matching",
}
# In more dimensions than these a covariance of a mixture is so many factors and a diagonal.
MANY_DIMS, MANY_FACTORS = 64, 16
#: those that have a mixture; those that have layers to train
WITH_MIXTURE = ("gaussian_mixture", "student_mixture", "mixture_flow")
WITH_LAYERS = ("flow", "mixture_flow", "flow_matching")


def make(density: str, num_dims: int, layers: Union[str, Sequence[str]] = ("nsf",), depth: int = 4,
         hidden_units: Sequence[int] = (128, 128), bins: int = 8, components: int = 0, noise: float = 0.0,
         whiten: bool = True, seed: int = 0, dtype: Optional[str] = None, factors: Optional[int] = None,
         num_labels: int = 0, **options: Any) -> Flow:
    """Returns the density of this name over num_dims numbers, not fitted yet.

    Args:
      density: one of `NAMES`.
      layers, depth, hidden_units, bins, noise: of the flow, as in `pae_zoo.flows.Flow`; hidden_units are those of the
        velocity network too.
      components: number of components of a mixture; 0 chooses it on validation data.
      factors: columns of the factors behind each covariance of a mixture, 0 for whole covariances; None takes 0 up to
        64 dimensions and 16 above.
      num_labels: C, for p(z|c) of each label c beside p(z): a mixture has as many components for each, "gaussian" and
        "flow" have one Gaussian for each.
      whiten, seed, dtype, options: as in `pae_zoo.flows.Flow`; with context_dim layers take a context.

    Raises UserError for an unknown name, for components or factors of a density that has none, and for labels of
    "flow_matching".
    """
    if density not in NAMES:
        raise unknown("density", density, NAMES)
    shared: dict[str, Any] = dict(whiten=whiten, seed=seed, dtype=dtype, **options)
    for name, value in (("components", components), ("factors", factors)):
        if value and density not in WITH_MIXTURE:
            raise UserError(f"density {density!r} has no {name}; received {name}={value}. Leave it out, or take one of "
                            f"{', '.join(WITH_MIXTURE)}.")
    if density == "flow_matching" and num_labels:
        raise UserError(f"density 'flow_matching' has no labels; received num_labels={num_labels}. Take one of "
                        f"{', '.join(name for name in NAMES if name != density)}.")
    if density == "flow_matching":
        return FlowMatching(num_dims, hidden_units=hidden_units, **shared)
    base = None
    if density in WITH_MIXTURE or num_labels:
        student = density in WITH_MIXTURE and density != "gaussian_mixture"
        own: dict[str, Any] = dict(student=student, seed=seed, dtype=dtype, name="mixture")
        if num_labels:
            own["num_labels"] = num_labels
            components = components * num_labels if density in WITH_MIXTURE else num_labels
        if factors is None:
            factors = MANY_FACTORS if num_dims > MANY_DIMS else 0
        if factors:
            base = FactorMixture(num_dims, components, factors, **own)
        else:
            base = Mixture(num_dims, components, **own)
    if density not in WITH_LAYERS:
        layers = ()
    return Flow(num_dims, layers=layers, depth=depth, hidden_units=hidden_units, bins=bins, noise=noise, base=base,
                **shared)


def parameters_of(density: Flow) -> Parameters:
    """Returns a density without layers as a mixture in the coordinates of the data: weights, means, scales, dof.

    It has exact moments, marginals and conditionals of any columns. Raises NotImplementedError for one with layers.
    """
    if density.chain:
        raise NotImplementedError("A density with layers has no conditionals in closed form. Take gaussian, "
                                  "gaussian_mixture or student_mixture.")
    size = density.num_dims
    if density.base is not None and density.base.fitted_components:
        found = density.base.parameters()
    else:
        found = Parameters(np.zeros(1), np.zeros((1, size)), np.eye(size)[None], None)
    if density.whitening is None:
        return found
    mean, root = (np.asarray(tf.convert_to_tensor(one), np.float64)
                  for one in (density.whitening.mean, density.whitening.root))
    return found.moved(mean, root)
