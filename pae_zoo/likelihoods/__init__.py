"""Observation models p(y|z), as layers that turn a decoder's output into a distribution over one datum y.

D is the number of values in a datum, y the data after preprocessing, g the decoder's output. Log densities
are natural logarithms, summed over the D values. All of it runs eagerly, in tf.function and under XLA.
"""

from typing import Any, Optional, Sequence, Union

from pae_zoo.core import columns
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.core.records import LIKELIHOODS
from pae_zoo.likelihoods.base import (
    MIN_LOG_VARIANCE,
    Bernoulli,
    Gaussian,
    GaussianDecoder,
    GaussianLearned,
    GaussianPixel,
    Likelihood,
    SharedGaussian,
)
from pae_zoo.likelihoods.classes import Categorical
from pae_zoo.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from pae_zoo.likelihoods.levels import DiscretisedLogistic
from pae_zoo.likelihoods.library import (
    LibraryNegativeBinomial,
    LibraryPoisson,
    LibraryZeroInflatedNegativeBinomial,
)
from pae_zoo.likelihoods.mixed import Mixed
from pae_zoo.likelihoods.partial import Partial, Wrapping, innermost, takes_gaps
from pae_zoo.likelihoods.spread import Laplace, Spread, StudentT

__all__ = [
    "MIN_LOG_VARIANCE", "NAMES", "Bernoulli", "Categorical", "DiscretisedLogistic", "Gaussian", "GaussianDecoder",
    "GaussianLearned", "GaussianPixel", "Laplace", "LibraryNegativeBinomial", "LibraryPoisson",
    "LibraryZeroInflatedNegativeBinomial", "Likelihood", "Mixed", "NegativeBinomial", "Partial", "Poisson", "StudentT",
    "Wrapping", "ZeroInflatedNegativeBinomial", "build", "channels_factor", "check", "describe", "innermost",
    "is_linear", "of_columns", "register", "table_preprocess", "takes_gaps",
]  # fmt: skip

_CLASSES: dict[str, type[Likelihood]] = {}
#: the names of all likelihoods, those that are registered later too
NAMES = _CLASSES.keys()


_OWN: set[str] = set()


def check(name: str, cls: type[Likelihood]) -> None:
    """Raises UserError for a likelihood under a name of the package's."""
    if name in _OWN and _CLASSES[name] is not cls:
        raise UserError(f"There is a likelihood {name!r} already; take another name.")


def register(name: str, cls: type[Likelihood]) -> None:
    """Makes a likelihood known by a name, for `build` and --likelihood; see `check`."""
    check(name, cls)
    _CLASSES[name] = cls
    if name not in LIKELIHOODS:
        LIKELIHOODS.append(name)


for _name, _cls in dict(
    gaussian=Gaussian, gaussian_learned=GaussianLearned, gaussian_pixel=GaussianPixel,
    gaussian_decoder=GaussianDecoder, bernoulli=Bernoulli, student_t=StudentT, laplace=Laplace, poisson=Poisson,
    negative_binomial=NegativeBinomial, zero_inflated_negative_binomial=ZeroInflatedNegativeBinomial,
    library_poisson=LibraryPoisson, library_negative_binomial=LibraryNegativeBinomial,
    library_zero_inflated_negative_binomial=LibraryZeroInflatedNegativeBinomial, categorical=Categorical, mixed=Mixed,
    discretised_logistic=DiscretisedLogistic,
).items():  # fmt: skip
    register(_name, _cls)
_OWN.update(_CLASSES)


def describe() -> dict[str, str]:
    """Returns {name: one line} for help texts."""
    return {name: (cls.__doc__ or "").split("\n", 1)[0] for name, cls in _CLASSES.items()}


def channels_factor(likelihood: Union[str, Likelihood]) -> int:
    """Returns how many numbers a decoder must give per value; raises UserError for an unknown name."""
    return (_class(likelihood) if isinstance(likelihood, str) else likelihood).channels_factor


def is_linear(name: str) -> bool:
    """Returns whether a decoder's last map must be linear for a likelihood; raises UserError for an unknown name."""
    return _class(name).is_linear


def of_columns(name: str, kinds: Sequence[str]) -> str:
    """Returns the name of a likelihood with the kinds of the columns behind it, `mixed:real,category:3`, if it has any.

    The kinds are words of `core.columns`. Raises UserError where `categorical` is to take columns of other kinds.
    """
    if name == "categorical" and kinds:
        others = [word for word in kinds if not word.startswith(columns.CATEGORY)]
        if others:
            raise UserError(f"likelihood 'categorical' takes categories alone; {len(others)} columns are {others[0]}. "
                            "Take mixed, or name them in --categorical.")
    return f"{name}:{','.join(kinds)}" if name in ("categorical", "mixed") and kinds else name


def table_preprocess(name: str) -> tuple[str, ...]:
    """Returns the default of --preprocess for tables under a likelihood: what its values may be turned into."""
    cls = _class(name)
    if issubclass(cls, Mixed):
        return ("standardise_real",)
    return ("none",) if cls.is_linear else ("standardise",)


def build(
    name: str, event_shape: Sequence[int], scale: Optional[float] = None, **options: Any
) -> Likelihood:
    """Returns the named observation model for data of shape `event_shape`.

    `scale` is the standard deviation of gaussian (0.1 if None), and the one that gaussian_learned (1) and
    gaussian_pixel (0.1) start from, as the scale of student_t and laplace (1) does; the others have none and ignore
    it. `options` go to the class. Raises UserError for an unknown name or a scale that is not positive.

    Examples:
      >>> bernoulli = build("bernoulli", (3,))
      >>> round(float(bernoulli.log_prob([[0.0] * 3], [[1.0] * 3])[0]), 3)  # -3 log 2
      -2.079
    """
    cls, kinds = _class(name), [word for word in name.partition(":")[2].split(",") if word]
    if kinds and issubclass(cls, Categorical):
        options["sizes"] = [int(word.partition(":")[2]) for word in kinds]
    elif kinds:
        options["kinds"] = kinds
    if scale is not None and issubclass(cls, (SharedGaussian, Spread)):
        options["scale"] = scale
    return cls(event_shape, **options)


def _class(name: str) -> type[Likelihood]:
    name = name.partition(":")[0]
    if name not in _CLASSES:
        raise unknown("likelihood", name, NAMES)
    return _CLASSES[name]
