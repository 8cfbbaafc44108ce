"""Adds models, kinds of network, tasks and likelihoods from outside the package."""

import dataclasses
from typing import Any, Optional

import keras

from pae_zoo import likelihoods, models, networks
from pae_zoo.core import hparams as hp
from pae_zoo.core import records
from pae_zoo.core.errors import UserError


def register(name: str, *, model: Any = None, network: Optional[networks.Family] = None, task: Any = None,
             likelihood: Optional[type[likelihoods.Likelihood]] = None) -> None:
    """Adds what is given under a name, for this process; commands import the modules of --plugin first.

    All of it is checked before any of it is added. A name of one's own may be registered again, as a notebook does;
    those of the package may not.

    Args:
      name: what flags call it: --model=NAME, --encoder=NAME, --tasks=NAME, --likelihood=NAME.
      model: a module, or another object, with `MODEL`, `HParams` and a docstring, as the modules of pae_zoo.models;
        the class is registered with Keras.
      network: a `pae_zoo.networks.Family`, with the record of the options that it reads.
      task: a module, or another object, with `run(context)` and, where it has flags of its own, a record `Flags`, each
        of them with group=hp.EVALUATION.
      likelihood: a subclass of `pae_zoo.likelihoods.Likelihood`, registered with Keras.

    Raises UserError for a name that is taken, for what lacks one of these, and for a flag whose name another has.

    Examples:
      >>> class Count:
      ...     "Counts the test data."
      ...
      ...     @staticmethod
      ...     def run(context):
      ...         "Counts the test data."
      ...         yield "count/test", len(context.dataset.test.x)
      >>> register("count", task=Count)
      >>> from pae_zoo import evaluation
      >>> evaluation.describe()["count"]
      'Counts the test data.'
    """
    from pae_zoo import evaluation  # here, for it draws pictures, which importing the package should not load

    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"name={name!r} is no name of letters, digits and underscores; take one such as my_model.")
    if model is None and network is None and task is None and likelihood is None:
        raise UserError(f"Nothing is given to register as {name!r}; give model=, network=, task= or likelihood=.")
    if model is not None:
        models.check(name, model)
        _check_class(f"the model {name!r}", model.MODEL, keras.Model)
        _check_record(f"HParams of the model {name!r}", model.HParams, _known_flags(name, of_models=False))
    if network is not None:
        if not isinstance(network, networks.Family):
            raise UserError(f"The network {name!r} must be a pae_zoo.networks.Family; received {network!r}.")
        network = dataclasses.replace(network, kind=name)
        networks.check(network)
        _check_record(f"the options of the network {name!r}", network.options, _known_flags(name, of_models=True),
                      hp.NETWORK)
    if likelihood is not None:
        likelihoods.check(name, likelihood)
        _check_class(f"the likelihood {name!r}", likelihood, likelihoods.Likelihood)
    if task is not None:
        evaluation.check_task(name, task)
        if hasattr(task, "Flags"):
            _check_record(f"Flags of the task {name!r}", task.Flags, _known_flags(name, of_models=True), hp.EVALUATION)
    if model is not None:
        models.register(name, model)
    if network is not None:
        networks.register(network)
    if likelihood is not None:
        likelihoods.register(name, likelihood)
    if task is not None:
        evaluation.register(name, task)


def _check_class(what: str, cls: Any, base: type) -> None:
    """Raises UserError unless `cls` is a class of the right kind that Keras finds when it loads a model."""
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise UserError(f"{what[0].upper()}{what[1:]} must be a subclass of {base.__name__}; received {cls!r}.")
    if keras.saving.get_registered_name(cls) == cls.__name__:
        raise UserError(f"The class {cls.__name__} of {what} is not registered with Keras, so that no saved model of "
                        "it could be loaded; put @keras.saving.register_keras_serializable(\"my_package\") above it.")


def _check_record(what: str, record: Any, known: dict[str, list], group: str = "") -> None:
    """Raises UserError unless the fields of a record are made by `hp.option`, of the right group, under new names."""
    start = f"{what[0].upper()}{what[1:]}"
    if not isinstance(record, type) or not dataclasses.is_dataclass(record):
        raise UserError(f"{start} must be a dataclass of hp.option fields; received {record!r}.")
    for field in dataclasses.fields(record):
        if "flag" not in field.metadata:
            raise UserError(f"{start}: {field.name} is not declared by pae_zoo.core.hparams.option.")
        mine = _rule(field)
        if field.name in known and mine not in known[field.name]:
            raise UserError(f"{start}: there is a flag --{field.name} already; take another name.")
        if field.name not in known and group and field.metadata["group"] != group:
            constant = "EVALUATION" if group == hp.EVALUATION else "NETWORK"
            raise UserError(f"{start}: {field.name} needs group=hp.{constant} in its option.")


def _rule(field: dataclasses.Field) -> dict[str, Any]:
    return {key: value for key, value in field.metadata.items() if key != "flag"}


def _known_flags(name: str, of_models: bool) -> dict[str, list]:
    """Returns {flag: what is declared of it} of all that a command may have beside a part of this name.

    Two models never stand in one command, so that they may have flags of one name.
    """
    from pae_zoo import evaluation

    found: list[type] = [records.SharedHParams]
    found += [module.HParams for other, module in models.every().items() if of_models and other != name]
    found += [networks.options_of(kind) for kind in networks.KINDS if kind != name]
    found += [flags for other, flags in evaluation.flag_records().items() if other != name]
    known: dict[str, list] = {}
    for record in found:
        for field in dataclasses.fields(record):
            known.setdefault(field.name, []).append(_rule(field))
    return known
