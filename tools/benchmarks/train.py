"""Steps per second of the launcher's `fit`, against a hand-written XLA loop, PyTorch, bare matrix products.

Cases: mlp (the 784-512-256-128-2 autoencoder), conv (the network `conv`), startup (import to first step,
and --helpfull) and first (import to a fitted flow, vae and pae in plain Python). Each contender has a process
of its own and they take turns; a figure is the median over rounds, a ratio the median of the ratios within
rounds. PyTorch takes part where it is installed.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable

import numpy as np
from command import ROOT, positive

from benchmarks import _contenders, _first
from benchmarks._network import Network, describe
from benchmarks._rounds import KEEP_MEMORY, Contender, alternate, cores, load, median, ratio, table

BATCH_SIZE = 128
CASES = ("mlp", "conv", "startup", "first")
MODEL = ["--model=ae", f"--batch_size={BATCH_SIZE}", "--epochs=100000000"]
FLAGS = {
    "mlp": [*MODEL, "--hidden_units=512,256,128", "--latent_dim=2"],
    # 10 steps an epoch: a step takes some fifty times as long.
    "conv": [*MODEL, "--encoder=conv", "--decoder=conv", "--num_train=1280", "--validation_fraction=0.01"],
}
FIT, HAND, PLAIN = "launcher's fit", "(a) hand-written XLA epoch", "hand-written epoch, no XLA"
GRADIENTS = "hand-written, without Adam"
TORCH, FOREACH, FUSED = "(b) PyTorch, default Adam", "PyTorch, foreach Adam", "PyTorch, fused Adam"
KEPT = "PyTorch, default Adam, malloc keeps memory"
ARRAYS, OWN, CUBE = "model.fit(array)", "matrix products of a step", "matrix product 1024^3"
CUBE_FLOPS = 2 * 1024**3
FIRST_CPU_S = 6.0

Cases = dict[str, dict[str, float]]


def add_arguments(parser) -> None:
    parser.add_argument(
        "--data_dir", default="", help="folder with fashion_mnist/ (default: random bytes of its shape)"
    )
    parser.add_argument("--rounds", type=positive, default=7, help="turns of each contender (default: 7)")
    parser.add_argument(
        "--cases", type=_cases, default=CASES, help=f"some of {','.join(CASES)} (default: all)"
    )


def _cases(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if not set(words) <= set(CASES):
        raise argparse.ArgumentTypeError(f"allowed: {','.join(CASES)}; received {text!r}")
    return words


def run(args) -> Cases:
    found: Cases = {"machine": {"cores": cores(), "load_before": load()}}
    print(f"{cores()} cores, load {load():.2f}; rounds: {args.rounds}", flush=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        data = _data_flags(args.data_dir, folder)
        for case in args.cases:
            print(f"\n== {case}", flush=True)
            if case == "startup":
                found.update(startup(args.rounds))
            elif case == "first":
                found.update(first(args.rounds))
            else:
                found.update(training(case, [*FLAGS[case], *data], folder, args.rounds))
    found["machine"]["load_after"] = load()
    print(
        f"\nload {found['machine']['load_before']:.2f} before, {load():.2f} after: other work on the machine "
        "makes absolute times longer, ratios less so",
        flush=True,
    )
    return found


def _data_flags(data_dir: str, folder: str) -> list[str]:
    """Returns the launcher's flags for the data: the files in data_dir, or random bytes of their shape."""
    if data_dir:
        print(f"data: fashion_mnist of {data_dir}", flush=True)
        return ["--dataset=fashion_mnist", f"--data_dir={data_dir}"]
    print("data: random bytes of the shape of Fashion-MNIST (no --data_dir)", flush=True)
    generator = np.random.default_rng(0)
    shapes = {"x_train": 60_000, "x_test": 1_000}
    np.savez(
        f"{folder}/random.npz",
        **{k: generator.integers(0, 256, (n, 28, 28, 1), np.uint8) for k, n in shapes.items()},
    )
    return [f"--dataset=npz:{folder}/random.npz"]


# ---- training steps --------------------------------------------------------------------------------------


def training(case: str, argv: list[str], folder: str, rounds: int) -> Cases:
    """Times the contenders of one network and prints the table."""
    session = _contenders.make_session([*argv, f"--workdir={folder}/unused"])
    network = describe(session.model)
    steps = session.feed.steps_per_epoch
    data = f"{folder}/{case}.npy"
    np.save(data, session.dataset.train.x)
    print(
        f"{network.num_weights:,} weights, batch {BATCH_SIZE}, {len(session.dataset.train.x)} training data, "
        f"{steps} steps an epoch, {network.step_flops(BATCH_SIZE) / 1e9:.3f} GFLOP of matrix products a step",
        flush=True,
    )
    turns = alternate(_field(case, argv, network, data, steps), rounds, _say)
    rows = {name: _row(found) for name, found in turns.items()}
    head = ("contender", "ms/step", "cpu ms/step", "steps/s")
    body = [
        (name, f"{r['ms_per_step']:.3f}", f"{r['cpu_ms_per_step']:.3f}", f"{r['steps_per_s']:.1f}")
        for name, r in rows.items()
    ]
    print(f"\n{table(head, body)}\n", flush=True)
    ratios = _ratios(turns, network.step_flops(BATCH_SIZE))
    _judge(case, ratios)
    parts = _parts(turns)
    print(
        table(("where a step of fit spends its time", "ms"), [(k, f"{v:.3f}") for k, v in parts.items()]),
        flush=True,
    )
    return {
        **{f"{case}/{name}": row for name, row in rows.items()},
        f"{case}/ratios": ratios,
        f"{case}/parts_ms": parts,
    }


def _field(case: str, argv: list[str], network: Network, data: str, steps: int) -> list[Contender]:
    shared: dict[str, Any] = dict(network=network, data=data, batch_size=BATCH_SIZE)
    loop = dict(shared, steps=steps)
    found = [Contender(FIT, _contenders.fit, dict(argv=argv))]
    if case == "mlp":
        found.append(Contender(HAND, _contenders.hand, loop))
    else:
        # XLA's convolutions in a loop on a CPU: seconds a step.
        found.append(Contender(HAND, _contenders.hand, dict(shared, steps=1)))
        found.append(Contender(PLAIN, _contenders.hand, dict(loop, xla=False)))
    found.append(Contender(GRADIENTS, _contenders.hand, dict(loop, update=False, xla=case == "mlp")))
    if importlib.util.find_spec("torch"):
        # A quarter of an epoch: PyTorch waits in a spinning loop, which takes very long on a busy machine.
        slow = dict(shared, steps=max(1, steps // 4))
        found.append(Contender(TORCH, _contenders.torch, slow))
        if case == "mlp":
            found += [
                Contender(FOREACH, _contenders.torch, dict(slow, foreach=True)),
                Contender(FUSED, _contenders.torch, dict(slow, fused=True)),
                Contender(KEPT, _contenders.torch, slow, KEEP_MEMORY),
            ]
    else:
        print("PyTorch is not installed: (b) is left out", flush=True)
    if case == "mlp":
        shapes = _contenders.step_shapes(network, BATCH_SIZE)
        found += [
            Contender(ARRAYS, _contenders.arrays, dict(argv=argv, steps=steps)),
            Contender(OWN, _contenders.products, dict(shapes=shapes, repeats=steps)),
        ]
    return [*found, Contender(CUBE, _contenders.products, dict(shapes=[(1024, 1024, 1024)], repeats=100))]


def _row(turns: list[dict[str, float]]) -> dict[str, float]:
    ms = median(turns, "ms")
    found = {"ms_per_step": ms, "cpu_ms_per_step": median(turns, "cpu_ms"), "steps_per_s": 1e3 / ms}
    extra = ("setup_s", "calls_ms", "validation_ms", "steps_per_call")
    return {**found, **{name: median(turns, name) for name in extra if name in turns[0]}}


def _ratios(turns: dict[str, list[dict[str, float]]], flops: int) -> dict[str, float]:
    """Returns speeds of fit relative to others, and its time relative to the floor of the matrix products."""
    fit = turns[FIT]
    found = {}
    named = {
        HAND: "hand",
        PLAIN: "hand_no_xla",
        TORCH: "torch",
        FOREACH: "torch_foreach",
        FUSED: "torch_fused",
        KEPT: "torch_kept",
        ARRAYS: "arrays",
    }
    for name, short in named.items():
        if name in turns:
            found[f"fit/{short}"] = ratio(turns[name], fit)
            found[f"fit/{short} (cpu)"] = ratio(turns[name], fit, "cpu_ms")
    gflops = [CUBE_FLOPS / turn["ms"] / 1e6 for turn in turns[CUBE]]
    floors = [flops / rate / 1e6 for rate in gflops]
    found["gflops 1024^3"] = statistics.median(gflops)
    found["floor_ms"] = statistics.median(floors)
    found["time/floor"] = statistics.median(turn["ms"] / floor for turn, floor in zip(fit, floors))
    if OWN in turns:
        found["gflops own shapes"] = flops / median(turns[OWN], "ms") / 1e6
        found["time/own products"] = ratio(fit, turns[OWN])
    return found


def _judge(case: str, ratios: dict[str, float]) -> None:
    """Prints the ratios, with the aims where there are some."""
    aims: dict[str, Callable[[float], bool]] = {}
    texts = {}
    if case == "mlp":
        aims = {
            "fit/hand": lambda v: v >= 0.93,
            "fit/torch": lambda v: v >= 1.2,
            "time/floor": lambda v: v <= 1.6,
        }
        texts = {"fit/hand": ">= 0.93", "fit/torch": ">= 1.2", "time/floor": "<= 1.6"}
    body = [
        (
            name,
            f"{value:.3f}",
            texts.get(name, ""),
            ("reached" if aims[name](value) else "MISSED") if name in aims else "",
        )
        for name, value in ratios.items()
    ]
    print(f"{table(('ratio (speeds; times for the floor)', 'value', 'aim', ''), body)}\n", flush=True)


def _parts(turns: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Returns differences of medians: what each layer of work adds to a step of fit, in ms."""
    fit = {name: median(turns[FIT], name) for name in ("ms", "calls_ms", "validation_ms")}
    # Without XLA where fit goes without it.
    hand, gradients = (median(turns[name], "ms") for name in (PLAIN if PLAIN in turns else HAND, GRADIENTS))
    own = {"matrix products, at their own shapes": median(turns[OWN], "ms")} if OWN in turns else {}
    rest = gradients - sum(own.values())
    return {
        **own,
        "rest of forward and backward pass" if own else "forward and backward pass": rest,
        "Adam (memory bound)": hand - gradients,
        "objective, metrics, step counter of the model": fit["calls_ms"] - hand,
        "between compiled calls: callbacks, order of data": fit["ms"] - fit["calls_ms"],
        "validation, not counted": fit["validation_ms"],
    }


def _say(text: str) -> None:
    print(text, flush=True)


# ---- start-up --------------------------------------------------------------------------------------------


def startup(rounds: int) -> Cases:
    """Times whole processes: imports, the help page, and the launcher's way to its first step on digits."""
    argv = ["--model=ae", "--dataset=digits", "--workdir=WORKDIR"]
    commands = {
        "import tensorflow, tensorflow_probability": [
            "-c",
            "import tensorflow, tensorflow_probability as t; t.distributions",
        ],
        "import pae_zoo": ["-c", "import pae_zoo"],
        "main --model=vae --helpfull": ["-m", "pae_zoo.main", "--model=vae", "--helpfull"],
        "main, import to first step": ["-c", _code(f"_contenders.first_step({argv!r})")],
    }
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):  # the first round fills the disk cache
        for name, command in commands.items():
            with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
                timed = _time_process([word.replace("WORKDIR", f"{folder}/run") for word in command])
            if number:
                turns[name].append(timed)
    rows = {
        name: {metric: median(found, metric) for metric in ("s", "cpu_s")} for name, found in turns.items()
    }
    print(
        table(("process", "s", "cpu s"), [(n, f"{r['s']:.2f}", f"{r['cpu_s']:.2f}") for n, r in rows.items()])
        + "\n"
    )
    names = list(commands)
    ratios = {f"{name} / {names[0]}": ratio(turns[name], turns[names[0]], "s") for name in names[1:]}
    body = [
        (
            name,
            f"{value:.3f}",
            "<= 1.5" if "helpfull" in name else "",
            ("reached" if value <= 1.5 else "MISSED") if "helpfull" in name else "",
        )
        for name, value in ratios.items()
    ]
    print(table(("ratio", "value", "aim", ""), body), flush=True)
    return {**{f"startup/{name}": row for name, row in rows.items()}, "startup/ratios": ratios}


def first(rounds: int) -> Cases:
    """Times fresh processes from the import to a fitted model, without TensorFlow's own import."""
    names = (*_first.FLOWS, *_first.MODELS)
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    _run_process(["-c", "import pae_zoo"])  # fills the disk cache
    for _ in range(rounds):
        for name in names:
            said = _run_process(["-c", _code(f"_first.first_result({name!r})")]).stdout
            turns[name].append(json.loads(said.splitlines()[-1]))
    rows = {name: {metric: median(found, metric) for metric in found[0]} for name, found in turns.items()}
    body = [
        (name, *(f"{r[key]:.2f}" for key in ("tensorflow_cpu_s", "package_cpu_s", "fit_cpu_s", "fitted_cpu_s")),
         "reached" if r["fitted_cpu_s"] <= FIRST_CPU_S else "MISSED", f"{r['peak_mib']:.0f}")
        for name, r in rows.items()
    ]  # fmt: skip
    head = ("cpu s of", "tensorflow", "pae_zoo", "fit", "the last two", f"<= {FIRST_CPU_S:g}", "MiB")
    print(table(head, body), flush=True)
    return {f"first/{name}": row for name, row in rows.items()}


def _code(call: str) -> str:
    """Returns the program of a process that calls something of this folder."""
    path = str(ROOT / "tools")
    return f"import sys; sys.path.insert(0, {path!r}); from benchmarks import _contenders, _first; {call}"


def _time_process(words: list[str]) -> dict[str, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    _run_process(words)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"s": wall, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def _run_process(words: list[str]) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done
