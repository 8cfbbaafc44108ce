"""Hyper-parameters: a field of a dataclass is an absl flag and a key of config.json.

Whoever reads a flag declares it: a model its `HParams`, a kind of network its options, a task its `Flags`. `compose`
makes one record of those that a command needs.
"""

import dataclasses
import functools
import math
import operator
import os
import re
import typing
from collections.abc import Callable, Collection
from typing import Any, Optional, Sequence

from absl import flags

from pae_zoo.core.errors import UserError, unknown

# Largest whole number of a flag that names no other, and the magnitudes that float32 holds in full precision.
MOST, SMALLEST, LARGEST = 2**31 - 1, 1.2e-38, 3.4e38
#: most widths of hidden layers
MOST_LAYERS = 200


def option(default: Any, help: str, *, low: Optional[float] = None, above: Optional[float] = None,
           high: Optional[float] = None, choices: Optional[Sequence[Any]] = None, group: str = "",
           operational: bool = False, smoke: Optional[int] = None, path: bool = False,
           before: Any = None, aside: bool = False) -> Any:
    """Declares one hyper-parameter of a dataclass.

    Args:
      default: its default; tuples become comma-separated flags.
      help: one sentence for `--helpfull`.
      low, high: inclusive bounds; above: exclusive lower bound; choices: the allowed words.
      group: heading under which `--helpfull` lists it.
      operational: True for what does not change the result, so that a resumed run may change it.
      smoke: the most that --smoke leaves of a number, or of each number of a tuple; None: all of it.
      before: the value that a config.json without it means, where that is not the default.
      aside: whether `--helpfull` counts it alone, unless it is asked for.
      path: whether it names a file or folder, alone or as in npz:FILE, so that a leading ~ stands for a home folder.
    """
    if isinstance(default, int) and not isinstance(default, bool) and high is None and not choices:
        high = MOST
    metadata = dict(help=help, low=low, above=above, high=high, choices=choices, group=group,
                    operational=operational, smoke=smoke, path=path, before=before, aside=aside, flag=True)
    return dataclasses.field(default=default, metadata=metadata)


RUN, DATA, NETWORK, TRAINING, EVALUATION = (
    "Run", "Data", "Networks and likelihood", "Training", "Evaluation",
)


@functools.cache
def compose(name: str, *records: type) -> type:
    """Returns the dataclass that has the fields of all records; of a field that two have, that of the earlier one."""
    chosen = [one for one in dict.fromkeys(records)
              if not any(other is not one and issubclass(other, one) for other in records)]
    return chosen[0] if len(chosen) == 1 else dataclasses.make_dataclass(name, [], bases=tuple(chosen), frozen=True)


def flag_fields(cls: type) -> list[dataclasses.Field]:
    """Returns the fields of a record that are flags."""
    return [field for field in dataclasses.fields(cls) if field.metadata.get("flag", False)]


# ---- flags -----------------------------------------------------------------------------------------


class _IntListParser(flags.ListParser):
    """Parses comma-separated integers."""

    def parse(self, argument: Any) -> Any:
        if isinstance(argument, (list, tuple)):
            return list(argument)
        words = [w.strip() for w in argument.split(",") if w.strip()]
        try:
            return [int(w) for w in words]
        except ValueError:
            raise ValueError(f"a comma-separated list of integers is needed, such as 0,5,7; received {argument!r}")


class _WordListParser(flags.ListParser):
    """Parses comma-separated words, none of them empty."""

    def parse(self, argument: Any) -> Any:
        if isinstance(argument, (list, tuple)):
            return list(argument)
        return [w.strip() for w in argument.split(",") if w.strip()]


def define_flags(cls: type, values: flags.FlagValues) -> None:
    """Declares one absl flag per field of the dataclass `cls` in `values`."""
    for field in flag_fields(cls):
        if field.name in values:  # another record has it too
            continue
        kind = field.type if not isinstance(field.type, str) else typing.get_type_hints(cls)[field.name]
        text, name = field.metadata["help"], field.name
        default: Any = field.default
        if kind is bool:
            flags.DEFINE_boolean(name, default, text, flag_values=values)
        elif kind is int:
            flags.DEFINE_integer(name, default, text, flag_values=values)
        elif kind is float:
            flags.DEFINE_float(name, default, text, flag_values=values)
        elif kind is str:
            flags.DEFINE_string(name, default, text, flag_values=values)
        else:
            parser = _IntListParser() if typing.get_args(kind)[0] is int else _WordListParser()
            flags.DEFINE(parser, name, list(default), text, flag_values=values, serializer=flags.CsvListSerializer(","))


def from_flags(cls: type, values: flags.FlagValues) -> Any:
    """Returns an instance of `cls` from parsed flags, checked; raises UserError."""
    found = {}
    for field in flag_fields(cls):
        value = values[field.name].value
        found[field.name] = tuple(value) if isinstance(value, list) else value
    return check(_at_home(cls(**found)))


def expand(path: str, flag: str) -> str:
    """Returns `path`, or a word such as npz:FILE, with a home folder for a leading ~; raises UserError for nobody's."""
    match = re.fullmatch(r"((?:\w+:)?)(~?)(.*)", path, re.DOTALL)
    assert match is not None  # every text has this form
    kind, tilde, rest = match.groups()
    if not tilde:
        return path
    home = os.path.expanduser(tilde + rest)
    if home.startswith("~"):
        raise UserError(f"--{flag}={path}: there is no home folder {home.split('/')[0]}. Write the path in full, or "
                        "./~ for a name that begins so.")
    return kind + home


def _at_home(hparams):
    """Returns `hparams` with home folders for the leading ~ of paths."""
    found = {}
    for name in (field.name for field in dataclasses.fields(hparams) if field.metadata["path"]):
        value = getattr(hparams, name)
        found[name] = expand(value, name) if isinstance(value, str) else tuple(expand(one, name) for one in value)
    return dataclasses.replace(hparams, **found)


def check(hparams: Any) -> Any:
    """Returns `hparams` if every field lies in its range; raises UserError naming the first that does not."""
    return check_options(hparams, "--")


def check_options(record: Any, sign: str = "") -> Any:
    """Returns a record if every option in it lies in its range; raises UserError for the first that does not.

    `sign` is put before its name: -- for flags.
    """
    for field in dataclasses.fields(record):
        if field.metadata:
            _check_one(f"{sign}{field.name}", getattr(record, field.name), field)
    return record


def _check_one(name: str, value: Any, field: dataclasses.Field) -> None:
    rule = field.metadata
    items = value if isinstance(value, tuple) else (value,)
    for item in [item for item in items if isinstance(item, (int, float)) and not isinstance(item, bool)]:
        if isinstance(item, float) and not math.isfinite(item):
            raise UserError(f"{name}={item} is not a finite number; {allowed_range(field)}.")
        outside = (
            (rule["low"] is not None and item < rule["low"])
            or (rule["above"] is not None and item <= rule["above"])
            or (rule["high"] is not None and item > rule["high"])
        )
        if outside:
            raise UserError(f"{name}={item} is out of range; {allowed_range(field)}.")
        if isinstance(item, float) and item and not SMALLEST <= abs(item) <= LARGEST:
            raise UserError(f"{name}={item} is out of range; allowed: 0 and magnitudes from {SMALLEST} to "
                            f"{LARGEST}, those of float32.")
    if any(isinstance(item, int) and abs(item) >= 2**63 for item in items):
        raise UserError(f"{name}={value} is out of range; allowed: whole numbers below 2^63.")
    if any(isinstance(item, str) and "\0" in item for item in items):
        raise UserError(f"{name}={value!r} holds a NUL byte; give it without.")
    choices = rule["choices"]
    if choices and value not in choices:
        raise unknown(name, value, choices)
    if field.name.endswith("_units") and isinstance(value, tuple) and len(value) > MOST_LAYERS:
        raise UserError(f"{name} lists {len(value)} widths; allowed: at most {MOST_LAYERS}.")


def typed_options(record: Any) -> dict[str, Any]:
    """Returns the options of a record as their fields' types; raises UserError for one of another type."""
    kinds = typing.get_type_hints(type(record))
    found = {}
    for field in dataclasses.fields(record):
        if field.metadata:
            value = getattr(record, field.name)
            plain = [operator.index(one) if hasattr(one, "__index__") and not isinstance(one, bool) else one
                     for one in (value if isinstance(value, (list, tuple)) else [value])]
            value = plain if isinstance(value, (list, tuple)) else plain[0]
            found[field.name] = _typed(field.name, kinds[field.name], value, "Give one.")
    return found


def allowed_range(field: dataclasses.Field) -> str:
    """Returns the range of a field in words, '' if it has none."""
    rule = field.metadata
    parts = []
    if rule["low"] is not None:
        parts.append(f"at least {rule['low']}")
    if rule["above"] is not None:
        parts.append(f"above {rule['above']}")
    if rule["high"] is not None:
        parts.append(f"at most {rule['high']}")
    return "allowed: " + " and ".join(parts) if parts else ""


def to_config(hparams: Any) -> dict[str, dict[str, Any]]:
    """Returns the hyper-parameters as plain values for config.json: those of the training, and of evaluation."""
    found: dict[str, dict[str, Any]] = {"hparams": {}, "evaluation": {}}
    for field in dataclasses.fields(hparams):
        value = getattr(hparams, field.name)
        part = "evaluation" if field.metadata["group"] == EVALUATION else "hparams"
        found[part][field.name] = list(value) if isinstance(value, tuple) else value
    return found


#: {name of a flag in a config.json of before: its name now}
RENAMED: dict[str, str] = {}
#: {name of a flag: {a value of before: the same now}}
RENAMED_VALUES: dict[str, dict[str, str]] = {"mix_pattern": {"upstream": "dense"}}


def value_now(name: str, value: Any) -> Any:
    """Returns the value of a flag of before, or of a setting of its name, as it is called now."""
    return RENAMED_VALUES.get(name, {}).get(value, value) if isinstance(value, str) else value


def from_config(cls: type, config: dict[str, Any], evaluation: Optional[dict[str, Any]] = None,
                say: Callable[[str], Any] = print) -> Any:
    """Rebuilds an instance of `cls` from the two parts of `to_config`; raises UserError for unknown keys or types.

    Unknown flags of evaluation come from another version and are told, not refused.
    """
    kinds = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    meant = {name: field.metadata["before"] for name, field in known.items() if field.metadata["before"] is not None}
    mine = {**meant, **{RENAMED.get(name, name): value for name, value in config.items()}}
    asked = {RENAMED.get(name, name): value for name, value in (evaluation or {}).items()}
    lost = sorted(set(mine) - set(known))
    if lost:
        raise UserError(f"config.json has keys that {config.get('model', 'this model')} does not know: "
                        f"{', '.join(lost)}. It was written by another version of pae_zoo; train anew.")
    strange = sorted(set(asked) - set(known))
    if strange:
        say(f"config.json has flags of evaluation that this version does not know, left out: {', '.join(strange)}")
    found = {name: _typed(name, kinds[name], value_now(name, value)) for name, value in {**asked, **mine}.items()
             if name in known}
    return check(_at_home(cls(**found)))


#: what config.json may hold for a field of a type, and how that is called
_JSON_TYPES = {bool: ((bool,), "true or false"), int: ((int,), "a whole number"), float: ((int, float), "a number"),
               str: ((str,), "a text")}


def _typed(name: str, kind: type, value: Any, remedy: str = "Restore the file, or train anew.") -> Any:
    """Returns a value, such as one of config.json, as the field's type; raises UserError for one of another type."""
    if kind in _JSON_TYPES:
        types, words = _JSON_TYPES[kind]
        right = isinstance(value, types) and (kind is bool or not isinstance(value, bool))
        right = right and (not isinstance(value, int) or abs(value) < 2**63)  # what float() takes
    else:
        types, words = _JSON_TYPES[typing.get_args(kind)[0]]
        right = isinstance(value, (list, tuple)) and all(type(item) in types for item in value)
        words = f"a list, each of it {words}"
    if not right:
        raise UserError(f"{name} is {value!r}, not {words}. {remedy}")
    return tuple(value) if isinstance(value, (list, tuple)) else kind(value)


def flagfile_lines(hparams: Any) -> list[str]:
    """Returns the lines of a flagfile that repeats the run: every flag that is not at its default."""
    lines = [f"--model={hparams.model}"]
    for field in dataclasses.fields(hparams):
        value = getattr(hparams, field.name)
        if field.name in ("model", "workdir") or value == field.default or not field.metadata["flag"]:
            continue
        if isinstance(value, bool):
            lines.append(f"--{'' if value else 'no'}{field.name}")
        else:
            lines.append(f"--{field.name}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return lines


def differences(old: Any, new: Any) -> list[str]:
    """Returns 'name: old -> new' for each hyper-parameter that would change the result of a training."""
    found = []
    for field in dataclasses.fields(new):
        # What only one of them has belongs to another kind of network, which differs too.
        before, after = getattr(old, field.name, getattr(new, field.name)), getattr(new, field.name)
        if before != after and not field.metadata["operational"] and field.metadata["group"] != EVALUATION:
            found.append(f"{field.name}: {before!r} -> {after!r}")
    return found


def settings(hparams: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """Returns {name: plain value} of the hyper-parameters that change the result of a training, but for some."""
    values = {field.name: getattr(hparams, field.name) for field in dataclasses.fields(hparams)
              if field.metadata.get("group") != EVALUATION and not field.metadata.get("operational")
              and field.name not in without}  # fmt: skip
    values["epochs"] = hparams.epochs
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def group_names(groups: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Returns a name for each (model, its `settings`): the model, and in what it differs from others of its kind."""
    names = []
    for model, own in groups:
        like = [other for name, other in groups if name == model]
        differ = [key for key in own if any(other.get(key) != own[key] for other in like)]
        text = ", ".join(f"{key}={_short(own[key])}" for key in differ)
        names.append(model + (f" ({text})" if text else ""))
    return names


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def smoke(hparams: Any) -> Any:
    """Returns `hparams` shrunk to a run of seconds; what was set below the fields' smoke limits stays."""
    changed = {}
    for field in dataclasses.fields(hparams):
        limit, value = field.metadata["smoke"], getattr(hparams, field.name)
        if limit is None:
            continue
        # 0 means "all" or "automatic" for some of them.
        small = tuple(min(width, limit) for width in value) if isinstance(value, tuple) else min(value or limit, limit)
        changed[field.name] = small
    if hparams.max_steps:
        changed["max_steps"] = min(hparams.max_steps, 16)
    return dataclasses.replace(hparams, **changed)


def help_text(cls: type, hidden: Collection[str] = (), heading: str = "Flags") -> str:
    """Returns the flags of `cls` under their headings, each with default, range and help, but for those `hidden`.

    `heading` stands over flags that have no group.
    """
    groups: dict[str, list[str]] = {}
    for field in flag_fields(cls):
        if field.name in hidden:
            continue
        rule, default = field.metadata, field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        flag = f"--[no]{field.name}" if isinstance(default, bool) else f"--{field.name}={shown}"
        choices = rule["choices"]
        notes = [", ".join(map(str, choices))] if choices else []
        notes += [allowed_range(field)] if allowed_range(field) else []
        if isinstance(default, bool):
            notes.append(f"default: {default}")
        note = f" ({'; '.join(notes)})" if notes else ""
        groups.setdefault(rule["group"] or heading, []).append(f"  {flag}\n      {rule['help']}{note}")
    order = [g for g in (heading, RUN, DATA, NETWORK, TRAINING, EVALUATION) if g in groups]
    return "\n\n".join(f"{name}:\n" + "\n".join(groups[name]) for name in order)
