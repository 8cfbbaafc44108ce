"""Settings of earlier versions with which a model imitated published code: with them it is a model of its own now."""

from typing import Any, NamedTuple

import keras

from pae_zoo.core.errors import UserError


class Former(NamedTuple):
    """Where such settings of a model went.

    Args:
      model: the name of the model that imitates now.
      registered: the name that Keras knows its class by.
      decisive: {setting: (its value in the model itself, its value in the imitation)}.
      kept: settings of before that the imitation still has.
    """

    model: str
    registered: str
    decisive: dict[str, tuple[Any, Any]]
    kept: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that the model itself has no more."""
        return tuple(dict.fromkeys((*self.decisive, *self.kept)))

    def split(self, config: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Returns whether settings of before are those of the imitation, and what is left of them now.

        Settings with a value that there never was stay as they are, for their reader to refuse.
        """
        found = {name: config.get(name, values[0]) for name, values in self.decisive.items()}
        if any(value not in self.decisive[name] for name, value in found.items()):
            return False, config
        imitates = any(value != self.decisive[name][0] for name, value in found.items())
        kept = self.kept if imitates else ()
        return imitates, {name: value for name, value in config.items() if name in kept or name not in self.settings}

    def advice(self, flag: str) -> str:
        """Returns what to do about a flag of before."""
        instead = f"take --model={self.model}{'' if flag in self.kept else ' without it'}"
        return f"what it imitated is a model of its own now: {instead}, or leave it out."


def of_config(cls: Any, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns the class that a configuration of `cls` is of now, and its arguments.

    Raises UserError for a subclass of before that imitated: it must be derived from another class now.
    """
    former = cls.former
    if former is None:
        return cls, config
    imitates, rest = former.split(config)
    if not imitates:
        return cls, rest
    found: Any = keras.saving.get_registered_object(former.registered)
    if "former" not in vars(cls):
        raise UserError(f"{cls.__name__} was saved with settings that {found.__name__} has now; derive it from that.")
    return found, rest
