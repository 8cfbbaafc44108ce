"""What all launchers share: flags to records, errors to one line, device, start line."""

import importlib
import io
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Callable, Sequence, Union

import keras
from absl import flags

from pae_zoo import models
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError, one_line, suggestion
from pae_zoo.experiment import flagfiles, mirrors, record, saved

if TYPE_CHECKING:
    from pae_zoo.data import Dataset

#: in the work directory of a run: what an error that nobody foresaw came from
TRACEBACK = "error.txt"
LONGEST_NAME = 100
# Of the command under way, for its errors: where it works, and its flags.
_workdirs: list[Path] = []
_options: list[Any] = []


def run(main: Callable[[list[str]], int], argv: Sequence[str]) -> int:
    """Calls main(argv) and returns its exit status; whatever goes wrong is told in one line.

    Bad input has status 2. Any other error has status 1; its traceback goes to error.txt in the work directory of the
    run, or to stderr with --verbosity=1.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    status = 1
    try:
        status = main(list(argv)) or 0
    except Exception as error:
        status = tell(error, argv)
    except KeyboardInterrupt:
        print("pae_zoo: stopped", file=sys.stderr)
        status = 130
    finally:  # what follows in the same process is not this command's
        _workdirs.clear()
        _options.clear()
        problem = mirrors.here.finish()
        if problem:
            print(f"pae_zoo: error: {problem}", file=sys.stderr)
    return status or (1 if problem else 0)


def tell(error: Exception, argv: Sequence[str]) -> int:
    """Prints an error of the command `argv` in one line and returns the exit status."""
    from pae_zoo.core import sizes
    from pae_zoo.experiment.fitting import Interrupted

    if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, Interrupted):
        print(f"pae_zoo: {error}. Start the same command again to go on.", file=sys.stderr)
        return 128 + error.signum
    if isinstance(error, UserError):
        print(f"pae_zoo: error: {one_line(str(error))}", file=sys.stderr)
        return 2
    if sizes.is_lack_of_memory(error):
        asked = " and ".join(filter(None, map(sizes.large_flags, _options)))
        print(f"pae_zoo: error: there is not enough memory for this: {one_line(str(error), 300)} Lower "
              f"{asked or '--batch_size, or take fewer data'}. {_kept(error, argv)}", file=sys.stderr)  # fmt: skip
        return 2
    words = one_line(f"{type(error).__name__}: {error}").rstrip(".: ")
    print(f"pae_zoo: error: {words}. {_kept(error, argv)}", file=sys.stderr)
    return 1


def _kept(error: Exception, argv: Sequence[str]) -> str:
    """Keeps the traceback of an error and returns a sentence that says where."""
    text = "".join(traceback.format_exception(error))
    if {"--verbosity=1", "--verbosity=2"} & set(argv):
        print(text, file=sys.stderr)
        return "The traceback is above."
    for workdir in _workdirs:
        try:
            if (workdir / "config.json").is_file():
                (workdir / TRACEBACK).write_text(text, encoding="utf-8", errors="backslashreplace")
                return f"The traceback is in {workdir / TRACEBACK}."
        except OSError:  # the error may be that nothing can be written
            break
    return "Give --verbosity=1 to see the traceback."


def works_in(workdir: Union[str, Path]) -> None:
    """Says that the command works in `workdir`, where the traceback of an error is to be kept."""
    _workdirs.append(Path(workdir))


def expand_flagfiles(argv: Sequence[str]) -> list[str]:
    """Returns argv with every --flagfile replaced by its lines; raises UserError for one that cannot be read."""
    return flagfiles.expand(argv)


def begin(argv: Sequence[str], keep: Sequence[str] = ()) -> list[str]:
    """Returns argv with its flagfiles expanded, once the modules of --plugin are imported; raises UserError.

    Work directories and outputs at URLs become local copies (`mirrors`), but for flags in `keep`.
    """
    argv = expand_flagfiles(argv)
    if not wants_help(argv):
        argv = mirrors.here.replace(argv, keep)
    for name in value_of(argv, "plugin", "").split(","):
        if name.strip():
            _import_plugin(name.strip())
    return argv


def _import_plugin(name: str) -> None:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"--plugin={name} is no name of a module, such as my_parts or my_package.parts; give no path, "
                        "no .py.")
    if os.getcwd() not in sys.path:  # a console script does not look in the folder where it is called
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"--plugin={name}: there is no module {error.name}. Give the name of an installed module, or "
                        "of one in this folder, without .py.") from error
    except (Exception, SystemExit) as error:
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"--plugin={name} failed: {words}") from error
    # Classes that it has registered are here already: reading a model imports nothing more for them.
    registered = keras.saving.get_custom_objects().values()
    saved.trusted |= {name.split(".")[0], *(getattr(one, "__module__", "").split(".")[0] for one in registered)}


def value_of(argv: Sequence[str], name: str, default: str) -> str:
    """Returns the last value of --name in expanded argv."""
    found = default
    for i, word in enumerate(argv):
        if word in (f"--{name}", f"-{name}"):
            found = argv[i + 1] if i + 1 < len(argv) else ""
        elif word.startswith((f"--{name}=", f"-{name}=")):
            found = word.split("=", 1)[1]
    return found


def wants_help(argv: Sequence[str]) -> bool:
    """Whether argv asks for help in any of absl's spellings."""
    return any(word.lstrip("-") in ("help", "helpfull", "helpshort", "h") and word.startswith("-") for word in argv)


def parse(cls: type, argv: Sequence[str]) -> tuple:
    """Parses expanded argv (without the program) into an instance of the dataclass `cls`.

    Returns (instance, names of the flags that were given). Raises UserError for an unknown flag, a wrong
    type or a stray word.
    """
    values = flags.FlagValues()
    hp.define_flags(cls, values)
    for word in argv:  # absl looks for names like an unknown one by recursion over its letters
        if word.startswith("-") and len(word.partition("=")[0]) > LONGEST_NAME:
            raise UserError(f"unknown flag {word[:LONGEST_NAME]}... Use --helpfull to see all flags.")
    try:
        rest = values(["pae_zoo", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        name = error.flagname.removeprefix("no")
        moved = models.advice(name) or models.advice(error.flagname)
        if moved:
            raise UserError(f"unknown flag --{error.flagname}: {moved}")
        readers = record.models_with(name) or record.models_with(error.flagname)
        known = f": it is one of {', '.join(readers)}." if readers else suggestion(name, list(values)) or "."
        raise UserError(f"unknown flag --{error.flagname}{known} Use --helpfull to see all flags.")
    except (flags.Error, ValueError) as error:  # such as an argument of --noNAME
        raise UserError(f"{str(error).replace('flag --', '--', 1)}. Use --helpfull to see types and ranges.")
    if rest:
        raise UserError(f"unexpected word {rest[0]!r}: flags are written --name=value.")
    given = {name for name in values if values[name].present}
    _options[:] = [hp.from_flags(cls, values)]
    return _options[0], given


def parse_model(module: ModuleType, argv: Sequence[str]) -> tuple:
    """Parses expanded argv into the record of a model with its kinds of network and the tasks (`record`).

    Returns (instance, names of the flags that were given); raises UserError as `parse` does.
    """
    hparams, given = parse(record.widest(module), argv)
    return record.narrow(hparams), given


def set_device(device: str, precision: str = "float32") -> str:
    """Chooses the device, lets GPU memory grow, sets the dtype policy; returns the device in words.

    Raises UserError when --device=gpu and TensorFlow sees none.
    """
    import keras
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise UserError("--device=gpu, but TensorFlow sees no GPU. Install pae_zoo[gpu] and check nvidia-smi, or use "
                        "--device=cpu.")
    keras.config.set_dtype_policy(precision)
    if gpus and device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    elif gpus:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return f"CPU, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def load_dataset(hparams: Any) -> "Dataset":
    """Returns the data set that the flags describe, and prints what was left out of it; raises UserError."""
    from pae_zoo import data

    found = data.of_hparams(hparams)
    for note in found.info.notes:
        print(f"{found.name}: {note}", flush=True)
    return found
