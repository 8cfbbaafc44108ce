"""All commands behind one name: pae-zoo COMMAND [flags], the same as python -m pae_zoo.MODULE [flags]."""

import importlib
import sys
from collections.abc import Sequence
from typing import Optional

import pae_zoo
from pae_zoo.core.errors import UserError, suggestion
from pae_zoo.experiment import launch

#: command -> module of the package
COMMANDS = {"train": "main", "evaluate": "evaluate", "apply": "apply", "export": "export", "sweep": "sweep",
            "flow": "flow", "preset": "preset", "leaderboard": "leaderboard", "report": "report"}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command that the first word names, with the other words; returns the exit status."""
    return launch.run(_run, sys.argv[1:] if argv is None else argv)


def _run(argv: list[str]) -> int:
    if not argv or launch.wants_help(argv[:1]):
        print(help_page())
        return 0
    name, *rest = argv
    if name == "--version":
        print(f"pae_zoo {pae_zoo.__version__}")
        return 0
    if name not in COMMANDS:
        near = suggestion(name, list(COMMANDS)) or "."
        raise UserError(f"unknown command {name!r}{near} Commands: {', '.join(COMMANDS)}. Use --help to see more.")
    return _module(name).main(rest)


def help_page() -> str:
    """Returns a line of each command."""
    lines = [f"  {name:13}{_summary(name)}" for name in COMMANDS]
    return "\n".join([__doc__ or "", "", "Commands:", *lines, "", "All flags of a command: pae-zoo COMMAND --helpfull"])


def _module(name: str):
    return importlib.import_module(f"pae_zoo.{COMMANDS[name]}")


def _summary(name: str) -> str:
    return (_module(name).__doc__ or "").partition(": python -m")[0]
