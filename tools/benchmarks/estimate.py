"""What training by a flagfile takes: some steps on random data of its shape, in processor time.

The path is the launcher's own, without validation. Steps are those that the flags ask for, on as many training data
as the data set has; early stopping may need fewer. Of models with later stages the first one alone is timed. Processor
time is about the same on a busy machine; two cores need between half of it and all of it.
"""

import tempfile
from typing import Iterator, NamedTuple

import numpy as np
from command import path, positive

from benchmarks import _contenders
from benchmarks._rounds import Baton, Finished, table


class Shape(NamedTuple):
    """Of a data set: a datum, and how many training data and classes there are; `held_out`: has its own validation."""

    event: tuple[int, ...]
    rows: int
    classes: int = 10
    held_out: bool = False


SHAPES = {
    "mnist": Shape((28, 28, 1), 60_000),
    "fashion_mnist": Shape((28, 28, 1), 60_000),
    "omniglot": Shape((28, 28, 1), 24_345, 50),
    "cifar10": Shape((32, 32, 3), 50_000),
    "svhn_cropped": Shape((32, 32, 3), 73_257),
    "celeb_a": Shape((64, 64, 3), 162_770, held_out=True),
}


def add_arguments(parser) -> None:
    parser.add_argument("flagfiles", nargs="+", type=path, metavar="FLAGFILE", help="such as configs/published/*/*.cfg")
    parser.add_argument("--steps", type=positive, default=10, help="steps to time, after as many more (default: 10)")


def run(args) -> dict[str, dict[str, float]]:
    found, rows = {}, []
    for name in args.flagfiles:
        one = found[name] = estimate(name, args.steps)
        cells = (name, f"{one['cpu_ms_per_step']:.1f}", f"{one['steps']:,.0f}", f"{one['cpu_hours']:.3g}")
        print(*cells, flush=True)
        rows.append(cells)
    print(f"\n{table(('flagfile', 'cpu ms/step', 'steps', 'cpu h'), rows)}\nmeasured over {args.steps} steps each")
    return found


def estimate(flagfile: str, steps: int) -> dict[str, float]:
    """Returns {cpu_ms_per_step, steps, cpu_hours} of the run that a flagfile describes; raises UserError."""
    import keras

    from pae_zoo import models
    from pae_zoo.core.errors import UserError
    from pae_zoo.experiment import fitting, launch, record

    argv = launch.expand_flagfiles([f"--flagfile={flagfile}"])
    hparams = record.narrow(launch.parse(record.widest(models.find(launch.value_of(argv, "model", "vae"))), argv)[0])
    if hparams.dataset not in SHAPES:
        raise UserError(f"{flagfile}: --dataset={hparams.dataset}; allowed are {', '.join(SHAPES)}.")
    shape = SHAPES[hparams.dataset]
    asked = fitting.total_steps(hparams, training_rows(hparams, shape) // hparams.batch_size)
    keras.backend.clear_session()
    with tempfile.TemporaryDirectory(prefix="estimate-") as folder:
        data = random_data(folder, shape.event, hparams.image_size, hparams.batch_size * steps, hparams.batch_size)
        kept = [word for word in argv if not word.startswith(("--classes=", "--num_train=", "--patience="))]
        own = [f"--dataset={data}", "--tasks=reconstruction", "--ood_datasets=", f"--max_steps={100 * steps}"]
        turns: list[dict[str, float]] = []
        try:
            _contenders.fit(Baton(turns_of(2).__next__, turns.append), [*kept, *own])
        except Finished:
            pass
    ms = turns[-1]["cpu_ms"]
    return {"cpu_ms_per_step": ms, "steps": asked, "cpu_hours": ms * asked / 3.6e6}


def training_rows(hparams, shape: Shape) -> int:
    """Returns about how many training data the flags leave; classes are taken to be of one size."""
    rows = shape.rows * (1.0 if shape.held_out else 1 - hparams.validation_fraction)
    if hparams.classes:
        rows *= len(hparams.classes) / shape.classes
    return min(int(rows), hparams.num_train or int(rows))


def turns_of(number: int) -> Iterator[bool]:
    """Yields True `number` times and then False."""
    yield from [True] * number
    while True:
        yield False


def random_data(folder: str, event: tuple[int, ...], image_size: int, rows: int, valid: int) -> str:
    """Writes random bytes and returns the value of --dataset."""
    if image_size:
        event = (image_size, image_size, *event[2:])
    generator = np.random.default_rng(0)
    parts = {"x_train": rows, "x_valid": valid, "x_test": 64}
    np.savez(f"{folder}/random.npz", **{k: generator.integers(0, 256, (n, *event), np.uint8) for k, n in parts.items()})
    return f"npz:{folder}/random.npz"
