"""Training steps and sampling of normalizing flows, against the PyTorch packages nflows and zuko; fits of mixtures.

Cases: spline and affine couplings, each with LU mixing, 8 blocks over 32 dimensions; mixture, passes of EM with 50
Gaussians against scikit-learn's from the same start; fitted, whole fits of densities, once each, from import to end.
Every contender has a process of its own and they take turns; a figure is the median over rounds, a ratio the median
of the ratios within rounds. A package takes part where it is installed.
"""

import argparse
import importlib.util

from command import positive

from benchmarks import _flows, _mixtures
from benchmarks._rounds import KEEP_MEMORY, Contender, alternate, cores, load, median, once, ratio, table

COUPLINGS = ("spline", "affine")
CASES = (*COUPLINGS, "mixture", "fitted")
OURS, FIT = "ours, XLA", "ours, flow.fit(array)"
AIM, MIXTURE_AIM = 1.5, 6.0
GAUSSIANS = 50
# (what is fitted, its name among the densities, its number of components: 0 where it is chosen)
FITS = (("200 Student t", "student_mixture", 200), ("student_mixture", "student_mixture", 0),
        ("mixture_flow", "mixture_flow", 0))
# Nats by which mean log likelihoods of the same passes may differ: ours are in single precision.
SAME = 1e-2

Cases = dict[str, dict[str, float]]


def add_arguments(parser) -> None:
    parser.add_argument("--rounds", type=positive, default=7, help="turns of each contender (default: 7)")
    parser.add_argument("--steps", type=positive, default=20, help="training steps in a turn (default: 20)")
    parser.add_argument(
        "--batch_sizes", type=_sizes, default=(128, 512), help="of training steps, with commas (default: 128,512)"
    )
    parser.add_argument("--rows", type=positive, default=55_000, help="rows that densities are fitted to "
                        "(default: 55000)")
    parser.add_argument("--passes", type=positive, default=5, help="passes of EM in a turn (default: 5)")
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
    for coupling in (case for case in args.cases if case in COUPLINGS):
        for size in args.batch_sizes:
            what = f"{coupling}, training step, batch {size}"
            rows += _race(what, _training(coupling, size, args.steps, peers), args.rounds, found)
        what = f"{coupling}, {_flows.NUM_DRAWS:,} samples"
        rows += _race(what, _sampling(coupling, peers), args.rounds, found)
    head = ("work", "contender", "ms", "cpu ms", "ours is faster by", "by cpu time", "aim")
    if rows:
        print(f"\n{table(head, rows)}\n", flush=True)
    if "mixture" in args.cases:
        head = ("passes of EM", "contender", "s", "cpu s", "log likelihood", "by cpu time", "aim")
        print(f"\n{table(head, _mixture(args, found))}\n", flush=True)
    if "fitted" in args.cases:
        head = ("fit", "components", "s from import", "cpu s", "log likelihood, held out")
        print(f"\n{table(head, _fitted(args.rows, found))}\n", flush=True)
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


def _mixture(args, found: Cases) -> list[tuple[str, ...]]:
    """Times passes of EM in both libraries and returns the rows of the table; raises RuntimeError where they differ."""
    what = f"{args.passes} of {GAUSSIANS} Gaussians, {args.rows:,} x {_mixtures.DIMS}"
    print(f"\n== {what}", flush=True)
    options = dict(num_rows=args.rows, components=GAUSSIANS, passes=args.passes)
    contenders = [Contender(_mixtures.OURS, _mixtures.ours, options),
                  Contender(_mixtures.PEER, _mixtures.scikit_learn, options)]
    turns = alternate(contenders, args.rounds, lambda text: print(text, flush=True))
    ours, theirs = turns[_mixtures.OURS], turns[_mixtures.PEER]
    ends = {name: median(taken, "log_likelihood") for name, taken in turns.items()}
    if not abs(ends[_mixtures.OURS] - ends[_mixtures.PEER]) < SAME:
        raise RuntimeError(f"the same passes end at mean log likelihoods {ends}; there is nothing to compare.")
    gain = ratio(theirs, ours, "cpu_ms")
    rows = []
    for name, taken in turns.items():
        metrics = {"s": median(taken, "ms") / 1e3, "cpu_s": median(taken, "cpu_ms") / 1e3, "log_likelihood": ends[name]}
        told = ("", "")
        if name == _mixtures.PEER:
            metrics["ours_is_faster_by (cpu)"] = gain
            told = (f"{gain:.2f}", f">= {MIXTURE_AIM:g}: {'reached' if gain >= MIXTURE_AIM else 'MISSED'}")
        found[f"{what}/{name}"] = metrics
        rows.append((what, name, f"{metrics['s']:.2f}", f"{metrics['cpu_s']:.2f}", f"{ends[name]:.4f}", *told))
    return rows


def _fitted(num_rows: int, found: Cases) -> list[tuple[str, ...]]:
    """Times whole fits, each once in a fresh process, and returns the rows of the table."""
    rows = []
    for what, density, components in FITS:
        print(f"\n== {what}, {num_rows:,} x {_mixtures.DIMS}", flush=True)
        turn = once(Contender(what, _mixtures.fit, dict(num_rows=num_rows, density=density, components=components)))
        metrics = {"s": turn["ms"] / 1e3, "cpu_s": turn["cpu_ms"] / 1e3, "components": turn["components"],
                   "log_likelihood": turn["log_likelihood"]}
        found[f"fit of {what}, {num_rows:,} x {_mixtures.DIMS}"] = metrics
        rows.append((f"{what}, {num_rows:,} x {_mixtures.DIMS}", f"{metrics['components']:.0f}", f"{metrics['s']:.1f}",
                     f"{metrics['cpu_s']:.1f}", f"{metrics['log_likelihood']:.3f}"))
    return rows
