"""Adds models, kinds of network, tasks and likelihoods from outside the package."""

import dataclasses
from typing import Any, Optional

from pae_zoo import likelihoods, models, networks
from pae_zoo.core.errors import UserError


def register(name: str, *, model: Any = None, network: Optional[networks.Family] = None, task: Any = None,
             likelihood: Optional[type[likelihoods.Likelihood]] = None) -> None:
    """Adds what is given under a name, for this process; commands import the modules of --plugin first.

    Args:
      name: what flags call it: --model=NAME, --encoder=NAME, --tasks=NAME, --likelihood=NAME.
      model: a module, or another object, with `MODEL`, `HParams` and a docstring, as the modules of pae_zoo.models.
      network: a `pae_zoo.networks.Family`, with the record of the options that it reads.
      task: a module, or another object, with `run(context)` and, where it has flags of its own, a record `Flags`.
      likelihood: a subclass of `pae_zoo.likelihoods.Likelihood`, registered with Keras.

    Raises UserError for a name that is taken, and for what lacks one of these.
    """
    if not name.isidentifier():
        raise UserError(f"name={name!r} is no name of letters, digits and underscores; take one such as my_model.")
    if model is None and network is None and task is None and likelihood is None:
        raise UserError(f"Nothing is given to register as {name!r}; give model=, network=, task= or likelihood=.")
    if model is not None:
        models.register(name, model)
    if network is not None:
        networks.register(dataclasses.replace(network, kind=name))
    if likelihood is not None:
        likelihoods.register(name, likelihood)
    if task is not None:
        from pae_zoo import evaluation  # here, for it draws pictures, which importing the package should not load

        evaluation.register(name, task)
