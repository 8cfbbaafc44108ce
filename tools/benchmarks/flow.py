"""Training steps and sampling of normalizing flows, against the PyTorch packages nflows and zuko.

Cases: spline and affine couplings, each with LU mixing, 8 blocks over 32 dimensions. Every contender has a process of
its own and they take turns; a figure is the median over rounds, a ratio the median of the ratios within
rounds. A package takes part where it is installed.
"""

import argparse
import importlib.util

from command import positive

from benchmarks import _flows
from benchmarks._rounds import KEEP_MEMORY, Contender, alternate, cores, load, median, ratio, table

CASES = ("spline", "affine")
OURS, FIT = "ours, XLA", "ours, flow.fit(array)"
AIM = 1.5

Cases = dict[str, dict[str, float]]


def add_arguments(parser) -> None:
    parser.add_argument("--rounds", type=positive, default=7, help="turns of each contender (default: 7)")
    parser.add_argument("--steps", type=positive, default=20, help="training steps in a turn (default: 20)")
    parser.add_argument(
        "--batch_sizes", type=_sizes, default=(128, 512), help="of training steps, with commas (default: 128,512)"
    )
    parser.add_argument("--cases", type=_cases, default=CASES, help=f"some of {','.join(CASES)} (default: all)")


def _cases(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if not set(words) <= set(CASES):
        raise argparse.ArgumentTypeError(f"allowed: {','.join(CASES)}; received {text!r}")
    return words


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(positive(word) for word in text.split(","))


def run(args) -> Cases:
    peers = [name for name in _flows.PEERS if importlib.util.find_spec(name) and importlib.util.find_spec("torch")]
    missing = [name for name in _flows.PEERS if name not in peers]
    print(f"{cores()} cores, load {load():.2f}; rounds: {args.rounds}", flush=True)
    if missing:
        print(f"not installed, left out: {', '.join(missing)}", flush=True)
    found: Cases = {"machine": {"cores": cores(), "load_before": load()}}
    rows = []
    for coupling in args.cases:
        for size in args.batch_sizes:
            what = f"{coupling}, training step, batch {size}"
            rows += _race(what, _training(coupling, size, args.steps, peers), args.rounds, found)
        what = f"{coupling}, {_flows.NUM_DRAWS:,} samples"
        rows += _race(what, _sampling(coupling, peers), args.rounds, found)
    head = ("work", "contender", "ms", "cpu ms", "ours is faster by", "by cpu time", "aim")
    print(f"\n{table(head, rows)}\n", flush=True)
    found["machine"]["load_after"] = load()
    print(f"load {found['machine']['load_before']:.2f} before, {found['machine']['load_after']:.2f} after", flush=True)
    return found


def _training(coupling: str, batch_size: int, steps: int, peers: list[str]) -> list[Contender]:
    options = dict(coupling=coupling, batch_size=batch_size, steps=steps)
    ours = [Contender(OURS, _flows.train, options), Contender(FIT, _flows.fit, options)]
    return ours + [Contender(p, _flows.train_peer, dict(options, peer=p), KEEP_MEMORY) for p in peers]


def _sampling(coupling: str, peers: list[str]) -> list[Contender]:
    ours = [Contender(OURS, _flows.sample, dict(coupling=coupling))]
    return ours + [Contender(p, _flows.sample_peer, dict(coupling=coupling, peer=p), KEEP_MEMORY) for p in peers]


def _race(what: str, contenders: list[Contender], rounds: int, found: Cases) -> list[tuple[str, ...]]:
    """Times the contenders of one piece of work and returns their rows of the table."""
    print(f"\n== {what}", flush=True)
    turns = alternate(contenders, rounds, lambda text: print(text, flush=True))
    rows = []
    fastest = min((name for name in turns if name not in (OURS, FIT)), key=lambda n: median(turns[n], "ms"), default="")
    for name, taken in turns.items():
        metrics = {"ms": median(taken, "ms"), "cpu_ms": median(taken, "cpu_ms")}
        gain, cpu_gain, aim = "", "", ""
        if name != OURS:
            metrics["ours_is_faster_by"] = ratio(taken, turns[OURS])
            metrics["ours_is_faster_by (cpu)"] = ratio(taken, turns[OURS], "cpu_ms")
            gain, cpu_gain = (f"{metrics[f'ours_is_faster_by{clock}']:.2f}" for clock in ("", " (cpu)"))
        if name == fastest:
            aim = f">= {AIM}: {'reached' if metrics['ours_is_faster_by'] >= AIM else 'MISSED'}"
        found[f"{what}/{name}"] = metrics
        rows.append((what, name, f"{metrics['ms']:.2f}", f"{metrics['cpu_ms']:.2f}", gain, cpu_gain, aim))
    return rows
