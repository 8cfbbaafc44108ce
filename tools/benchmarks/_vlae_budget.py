"""The case budget of `benchmark.py vlae`: bounds after equal processor time, with each model's own codes and refined.

Every model trains alone in a process of one thread. Its clock counts the processor time of training steps and nothing
else: not building, not compiling, not evaluating. At each budget its test bound is taken on the first 500 test data. Of
a model with schedules a training of 400 steps, which is not counted, says how many steps a budget holds.
"""

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
from command import ROOT

from benchmarks._rounds import table

#: setting: the name of its configs, one for each model, where vae's has another name, and the data's share of the test
SETTINGS = {"gaussian": "fashion_mnist_cpu", "bernoulli": "mnist_bernoulli_cpu", "logit": "mnist_cpu",
            "cifar": "cifar10_cpu"}
VAE = {"bernoulli": "mnist_bernoulli_small_cpu"}
MODELS = ("vae", "iaf", "hf", "savae", "vlae")
STEPS, IMAGES, SAMPLES, BATCH, UPDATES = 20, 500, 100, 100, 2
#: steps of the training that says how many fit into a budget
PILOT = 400
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
                            "TF_NUM_INTEROP_THREADS"), "1")
SHOWN = ("elbo", "log_likelihood", "refined_elbo", "refined_log_likelihood")


def compare(args: Any, apart: Callable) -> dict[str, dict[str, float]]:
    """Trains what args.results does not hold yet, prints the tables and returns {setting/budget/model: numbers}."""
    done = _read(args.results)
    os.environ.update(ONE_THREAD)  # of the processes that train
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    for seed in seeds:
        for setting in args.settings:
            for variant in args.contenders:
                key = {"setting": setting, "model": variant, "seed": seed}
                missing = [budget for budget in args.budgets if not _find(done, budget=budget, **key)]
                if missing:
                    print(f"{setting}, {variant}, seed {seed}: {', '.join(map(str, args.budgets))} s", flush=True)
                    found = [{**key, **row} for row in apart(measure, setting, variant, seed, args)]
                    done += found
                    _write(args.results, done)
    rows: dict[str, dict[str, float]] = {}
    for setting in args.settings:
        for budget in args.budgets:
            body = []
            for variant in args.contenders:
                found = [row for seed in seeds
                         for row in _find(done, budget=budget, setting=setting, model=variant, seed=seed)]
                numbers = {name: statistics.mean(row[name] for row in found) for name in (*SHOWN, "steps", "ms")}
                spread = {name: statistics.pstdev([row[name] for row in found]) for name in SHOWN}
                rows[f"budget/{setting}/{budget}/{variant}"] = numbers
                body.append((variant, f"{numbers['steps']:.0f}", f"{numbers['ms']:.1f}",
                             *(f"{numbers[name]:.1f} ({spread[name]:.1f})" for name in SHOWN)))
            print(f"\n== budget: {setting}, {budget} s of processor time, seeds {seeds[0]} to {seeds[-1]}\n")
            print(table(("model", "steps", "CPU ms/step", "ELBO", f"log p(x), {SAMPLES}", "refined ELBO",
                         f"refined log p(x), {SAMPLES}"), body), flush=True)
    return rows


def _read(path: str) -> list[dict]:
    return json.loads(Path(path).read_text(encoding="utf-8")) if path and Path(path).exists() else []


def _write(path: str, rows: list[dict]) -> None:
    if path:
        Path(f"{path}.new").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        os.replace(f"{path}.new", path)


def _find(rows: list[dict], **key: Any) -> list[dict]:
    return [row for row in rows if all(row[name] == value for name, value in key.items())][:1]


def measure(setting: str, variant: str, seed: int, args: Any) -> list[dict[str, float]]:
    """Returns a row of numbers for each budget.

    A model whose schedules depend on the length of its training is trained anew for each, of as many steps as a
    short training says that fit in; any other goes on from one budget to the next.
    """
    trained = _Training(setting, variant, seed, args, PILOT)
    if not trained.length_matters:
        return [trained.until(budget) for budget in sorted(args.budgets)]
    ms = trained.until(steps=PILOT)["ms"]
    rows = []
    for budget in sorted(args.budgets):
        steps = max(STEPS, int(1e3 * budget / ms) // STEPS * STEPS)
        rows.append({**_Training(setting, variant, seed, args, steps).until(steps=steps), "budget": budget})
    return rows


class _Training:
    """A model of one of the configs, in training, told of `steps` steps in all."""

    def __init__(self, setting: str, variant: str, seed: int, args: Any, steps: int):
        import tensorflow as tf

        from pae_zoo import models
        from pae_zoo.experiment import fitting, launch

        self.name, *words = variant.split()
        module = models.find(self.name)
        config = ROOT / "configs" / module.__name__.rpartition(".")[2] / f"{_config(setting, self.name)}.cfg"
        argv = launch.begin([f"--flagfile={config}", f"--model={self.name}", f"--learning_rate={args.learning_rate}",
                             f"--seed={seed}", f"--data_dir={args.data_dir}", "--workdir=none",
                             *(f"--{word}" for word in words)])
        hparams, _ = launch.parse_model(module, argv)
        dataset = launch.load_dataset(hparams)
        self.length_matters = module.MODEL.length_matters(hparams)
        model = module.MODEL.from_hparams(hparams, dataset.event_shape, steps)
        model.adapt(dataset.train.x)
        model.compile(fitting.make_optimizer(hparams, steps))
        model.optimizer.build(model.trained_variables)
        x = tf.constant(dataset.train.x)

        def block(rows):
            def body(i, loss):
                return i + 1, model.update(_floats(tf.gather(x, rows[i])))

            return tf.while_loop(lambda i, loss: i < STEPS, body, (0, 0.0))[1]

        self.compiled = tf.function(block, jit_compile=fitting.uses_xla(model, hparams), autograph=False)
        self.generator, self.rows, self.batch = np.random.default_rng(seed), len(dataset.train.x), hparams.batch_size
        self.used, self.steps = 0.0, 0
        self.bounds = _bounds(model, dataset.test.x[: args.test_images])

    def until(self, budget: float = float("inf"), steps: float = float("inf")) -> dict[str, float]:
        """Trains until `budget` seconds are used or `steps` steps taken, and returns a row of numbers."""
        import tensorflow as tf

        while self.used < budget and self.steps < steps:
            chosen = tf.constant(self.generator.integers(0, self.rows, (STEPS, self.batch)))
            start = time.process_time()
            loss = float(self.compiled(chosen))
            # The first block compiles; its steps are a gift to every model.
            self.used += time.process_time() - start if self.steps else 0.0
            self.steps += STEPS
            if not np.isfinite(loss):
                raise RuntimeError(f"{self.name}: the loss is {loss} after {self.steps} steps.")
        return {"budget": budget, "steps": self.steps, "ms": 1e3 * self.used / max(STEPS, self.steps - STEPS),
                "seconds": self.used, **self.bounds()}


def _config(setting: str, name: str) -> str:
    return VAE.get(setting, SETTINGS[setting]) if name == "vae" else SETTINGS[setting]


def _floats(x: Any) -> Any:
    import tensorflow as tf

    return tf.cast(x, tf.float32) / 255.0 if x.dtype == tf.uint8 else x


def _bounds(model: Any, x: np.ndarray) -> Callable[[], dict[str, float]]:
    """Returns what gives the test bounds of the model as it is then, of its own codes and of refined ones."""
    import tensorflow as tf

    views = {"": model, "refined_": model.refined("line_search", UPDATES)}
    estimates = {
        prefix: tf.function(lambda x, seed, one=one: one.importance_estimate(x, SAMPLES, seed), autograph=False,
                            jit_compile=model.xla_pays)
        for prefix, one in views.items()
    }  # fmt: skip
    batches = [_floats(tf.constant(x[i : i + BATCH])) for i in range(0, len(x) - BATCH + 1, BATCH)]

    def take() -> dict[str, float]:
        found = {}
        for prefix, estimate in estimates.items():
            parts = [estimate(batch, tf.constant([1, number])) for number, batch in enumerate(batches)]
            for name in ("elbo", "log_likelihood"):
                found[f"{prefix}{name}"] = float(np.mean([getattr(part, name) for part in parts]))
            found[f"{prefix}unreliable"] = float(np.mean([part.pareto_k > 0.7 for part in parts]))
        return found

    return take
