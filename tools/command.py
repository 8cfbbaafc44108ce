"""What the tools' command lines share: one-line errors with status 2, and the package on the path."""

import argparse
import functools
import os
import sys
from pathlib import Path
from typing import Callable, NoReturn

ROOT = Path(__file__).resolve().parent.parent


class Parser(argparse.ArgumentParser):
    """An argument parser that tells an error in one line; status 2."""

    def __init__(self, **kwargs):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}. Use --help to see what is allowed.\n")


def natural(text: str, low: int = 0) -> int:
    """Returns a flag's value as an integer of at least `low`."""
    if not text.isascii() or not text.isdigit() or int(text) < low:
        raise argparse.ArgumentTypeError(f"an integer of at least {low} is needed; received {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Returns a flag's value as an integer of at least 1."""
    return natural(text, 1)


def path(text: str) -> str:
    """Returns a flag's value as a path, with a home folder for a leading ~."""
    found = os.path.expanduser(text)
    if found.startswith("~"):
        raise argparse.ArgumentTypeError(f"there is no home folder {found.split('/')[0]}; write the path in full")
    return found


def told(main: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """Returns `main(argv)` with whatever error it raises told in one line, as the launchers do."""

    @functools.wraps(main)
    def run(argv: list[str]) -> int:
        try:
            return main(argv)
        except Exception as error:
            use_package()
            from pae_zoo.experiment import launch

            return launch.tell(error, argv)

    return run


def use_package() -> None:
    """Puts this checkout first on the path and makes TensorFlow quiet, here and in child processes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    before = os.environ.get("PYTHONPATH")
    if str(ROOT) not in (before or "").split(os.pathsep):
        os.environ["PYTHONPATH"] = str(ROOT) + (os.pathsep + before if before else "")
