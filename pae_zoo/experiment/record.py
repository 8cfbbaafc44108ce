"""The record of one command: the flags of its model, of the kinds of network that are chosen, and of the tasks.

A command is parsed with the options of every kind, for which kinds are chosen may depend on the run that it starts
from; `narrow` keeps those that are read.
"""

import dataclasses
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from pae_zoo import evaluation, models, networks
from pae_zoo.core import hparams as hp
from pae_zoo.core import records
from pae_zoo.core.errors import UserError


def has_networks(module: ModuleType) -> bool:
    """Whether a model is built of networks, so that their kinds are flags."""
    return any(field.name == "encoder" for field in hp.flag_fields(module.HParams))


def widest(module: ModuleType) -> type:
    """Returns the record of all flags that a command of the model may have."""
    kinds = [networks.options_of(kind) for kind in networks.KINDS]
    return _composed(module, tuple(kinds))


def record(module: ModuleType, kinds: Sequence[str]) -> type:
    """Returns the record of a model whose networks are of these kinds; raises UserError for an unknown kind."""
    return _composed(module, tuple(networks.options_of(kind) for kind in kinds) if has_networks(module) else ())


def _composed(module: ModuleType, options: tuple[type, ...]) -> type:
    return hp.compose(f"{module.MODEL.__name__}HParams", module.HParams, *options, *evaluation.flag_records().values())


def narrow(hparams: Any) -> Any:
    """Returns the record of a command without the options of kinds that are not chosen; raises UserError."""
    cls = record(models.find(hparams.model), (hparams.encoder, hparams.decoder))
    return cls(**{field.name: getattr(hparams, field.name) for field in dataclasses.fields(cls)})


def make(model: str, **values: Any) -> Any:
    """Returns the checked record of a model with some values, the others at their defaults; raises UserError.

    Examples:
      >>> hparams = make("vae", latent_dim=3, likelihood="bernoulli")
      >>> model = models.find("vae").MODEL.from_hparams(hparams, (8, 8, 1), total_steps=100)
      >>> model.latent_dim, type(model.likelihood).__name__
      (3, 'Bernoulli')
    """
    module = models.find(model)
    return hp.check(narrow(widest(module)(**{"model": model, **values})))


def read(config: dict[str, Any], tasks: Any = None) -> Any:
    """Returns the record of a run from the two parts of its config.json; raises UserError."""
    try:
        config = models.as_now(config)
        return narrow(hp.from_config(widest(models.find(config["model"])), config, tasks))
    except UserError as error:
        plugins = config.get("plugin")
        if isinstance(plugins, list) and plugins and not set(map(str, plugins)) <= set(sys.modules):
            names = ",".join(map(str, plugins))
            raise UserError(f"{error} The run was trained with --plugin={names}: give that here too.") from error
        raise


def unread(module: ModuleType, hparams: Any, given: set[str]) -> dict[str, str]:
    """Returns {flag that was given: who would read it}, of those that the model's chosen kinds of network do not."""
    mine = {field.name for field in dataclasses.fields(hparams)}
    lost = {name: _readers()[name] for name in sorted(given) if name not in mine and name in _readers()}
    if not has_networks(module):
        return dict.fromkeys(lost, f"{hparams.model} has no networks")
    return {name: f"networks of kind {', '.join(kinds)} read it" for name, kinds in lost.items()}


def models_with(flag: str) -> list[str]:
    """Returns the models that have a flag of their own of this name; imitations, where no other has it."""

    def among(modules: dict[str, ModuleType]) -> list[str]:
        return [name for name, module in modules.items()
                if flag in {field.name for field in records.own_fields(module.HParams)}]

    return among(models.MODULES) or among(models.PUBLISHED)


def _readers() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind in networks.KINDS:
        for name in networks.option_names(networks.options_of(kind)):
            found.setdefault(name, []).append(kind)
    return found


def help_text(module: ModuleType, kinds: Sequence[str], tasks: Sequence[str], training: bool = False) -> str:
    """Returns the flags of a model, of its kinds of network and of the tasks asked for; of others how many there are.

    `training`: whether those that are set aside are shown too. Raises UserError for an unknown kind or task.
    """
    evaluation.check_tasks(tasks)
    cls = record(module, kinds)
    of_tasks = {name: {field.name for field in hp.flag_fields(flags)}
                for name, flags in evaluation.flag_records().items()}
    own = {field.name for field in hp.flag_fields(module.HParams)}
    asked = set().union(*(of_tasks.get(name, set()) for name in tasks))
    aside = {field.name for field in hp.flag_fields(cls) if field.metadata["aside"] and not training}
    hidden = set().union(*of_tasks.values()) - asked - own | aside
    shown = {field.name for field in hp.flag_fields(cls)} - hidden
    lines = [hp.help_text(cls, hidden, heading="Model")]
    more = [f"  {name}: {len(names - shown)} more with --tasks={name} --helpfull"
            for name, names in of_tasks.items() if names - shown]
    more += [f"  training: {len(aside)} more with --lr_schedule=constant --helpfull"] if aside else []
    if has_networks(module):
        for kind in networks.KINDS:
            names = sorted(set(networks.option_names(networks.options_of(kind))) - shown)
            more += [f"  {kind}: {len(names)} more with --encoder={kind} --helpfull"] if names else []
    if more:
        lines.append("Flags of other tasks and networks, and of training:\n" + "\n".join(more))
    return "\n\n".join(lines)
