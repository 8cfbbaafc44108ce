"""The GGN of an autoencoder, method by method, against one forward and backward step and against laplace-torch.

Cases: dense (784-512-256-2 with its mirror), deep (784-512-256-128-2), conv (an autoencoder of 8, 12 and 12 channels
at several sizes of image) and online (training steps of lae against ae). A figure is the median over rounds, a multiple
the median of the ratios within rounds to the step of the same library. laplace-torch takes part in `dense` where it is
installed, with its BackPACK and curvlinops back-ends; each may take 12 GiB.
"""

import argparse
import importlib.util
import math
import re
from typing import Any

from command import positive

from benchmarks import _curvature_zoo
from benchmarks._curvature_zoo import STEP, Net
from benchmarks._rounds import KEEP_MEMORY, Contender, alternate, cores, load, median, ratio, table

CASES = ("dense", "deep", "conv", "online")
TORCH, TRAIN = "PyTorch: ", "training step, Adam"
PEER = {**KEEP_MEMORY, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
PEERS: dict[str, dict[str, Any]] = {
    "laplace-torch, BackPACK": dict(backend="BackPackGGN"),
    "laplace-torch, BackPACK, one probe": dict(backend="BackPackGGN", stochastic=True),
    "laplace-torch, curvlinops": dict(backend="CurvlinopsGGN"),
}
METHODS: dict[str, dict[str, Any]] = {
    "exact": dict(method="exact"),
    "approx": dict(method="approx"),
    "mix": dict(method="mix"),
    "mc, 1 probe": dict(method="mc"),
    "mc, 10 probes": dict(method="mc", num_probes=10),
    "hybrid": dict(method="hybrid"),
    "kron, 1 probe": dict(structure="kron", method="mc"),
}
CONV = ("approx", "mc, 1 probe")
DIAGONAL = ["--model=lae", "--curvature_structure=diag"]
ONLINE = {
    "ae": ["--model=ae"],
    "lae, kron": ["--model=lae"],
    "lae, mc": [*DIAGONAL, "--curvature_method=mc"],
    "lae, exact on 16 data": [*DIAGONAL, "--curvature_method=exact", "--hessian_subset=16"],
    "lae, approx": [*DIAGONAL, "--curvature_method=approx"],
}
AIMS = {("dense", "exact"): 12.0, ("dense", "approx"): 0.7, ("dense", "mc, 1 probe"): 0.8,
        ("conv", "mc, 1 probe"): 1.2,
        ("online", "lae, kron"): 2.5, ("online", "lae, mc"): 2.0, ("online", "lae, exact on 16 data"): 4.0}
MEMORY_AIM = 500.0
AT_ONCE = 4

Cases = dict[str, dict[str, float]]


def add_arguments(parser) -> None:
    parser.add_argument("--cases", type=_words(CASES), default=CASES, help=f"some of {','.join(CASES)} (default: all)")
    parser.add_argument("--methods", type=_words(tuple(METHODS)), default=tuple(METHODS), metavar="NAMES",
                        help="dense and deep: some of the methods, separated by semicolons (default: all)")
    parser.add_argument("--batch", type=positive, default=128, help="data in a step (default: 128)")
    parser.add_argument("--pixels", type=_sizes, default=(16, 32, 64, 128), help="conv: sides of the images "
                        "(default: 16,32,64,128)")
    parser.add_argument("--conv_batch", type=positive, default=32, help="conv: data in a step (default: 32)")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each contender (default: 5)")
    parser.add_argument("--steps", type=positive, default=5, help="steps in a turn (default: 5)")
    parser.add_argument("--nopeers", action="store_true", help="leave PyTorch out")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round, to see that all of it runs")


def _words(allowed: tuple[str, ...]):
    def parse(text: str) -> tuple[str, ...]:
        words = tuple(word.strip() for word in text.split(";" if any("," in name for name in allowed) else ","))
        if not set(words) <= set(allowed):
            raise argparse.ArgumentTypeError(f"allowed: {'; '.join(allowed)}; received {text!r}")
        return words

    return parse


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(positive(word) for word in text.split(","))
    if any(size % 4 for size in sizes):
        raise argparse.ArgumentTypeError(f"sides of images must be multiples of 4; received {text!r}")
    return sizes


def run(args) -> Cases:
    widths = {"dense": (784, 512, 256, 2), "deep": (784, 512, 256, 128, 2)}
    if args.quick:
        args = argparse.Namespace(**{**vars(args), "rounds": 1, "steps": 1, "batch": 4, "conv_batch": 2,
                                     "pixels": (8, 16)})
        widths = {"dense": (16, 12, 8, 2), "deep": (16, 12, 8, 6, 2)}
    peers = not args.nopeers and all(importlib.util.find_spec(name) for name in ("torch", "laplace"))
    print(f"{cores()} cores, load {load():.2f}; rounds: {args.rounds}", flush=True)
    if not peers:
        print("laplace-torch is left out, or not installed", flush=True)
    found: Cases = {"machine": {"cores": cores(), "load_before": load()}}
    for case in args.cases:
        if case in widths:
            net = Net(widths[case], batch=args.batch)
            methods = {name: METHODS[name] for name in args.methods}
            found.update(curvatures(case, net, methods, args, peers and case == "dense"))
        elif case == "online":
            found.update(online(Net(widths["dense"], batch=args.batch), args))
        else:
            found.update(convolutional(args))
    found["machine"]["load_after"] = load()
    before, after = (found["machine"][f"load_{when}"] for when in ("before", "after"))
    print(f"\nload {before:.2f} before, {after:.2f} after", flush=True)
    return found


def curvatures(case: str, net: Net, methods: dict[str, dict[str, Any]], args, peers: bool) -> Cases:
    """Times a step and each method on one net, prints the table and returns the numbers."""
    print(f"\n== {case}: {net.label}", flush=True)
    options = dict(net=net, steps=args.steps)
    base = Contender(STEP, _curvature_zoo.step, options, KEEP_MEMORY)
    zoo = [Contender(TRAIN, _curvature_zoo.step, dict(options, trains=True), KEEP_MEMORY)]
    zoo += [Contender(name, _curvature_zoo.ggn, dict(options, options=o), KEEP_MEMORY) for name, o in methods.items()]
    rows = _in_groups(base, zoo, args.rounds)
    if peers:
        rows |= _peers(options, args.rounds)
    _print(case, rows)
    return {f"{case}/{net.label}/{name}": row for name, row in rows.items()}


def _peers(options: dict[str, Any], rounds: int) -> Cases:
    from benchmarks import _curvature_torch

    base = Contender(TORCH + STEP, _curvature_torch.step, options, PEER)
    rows: Cases = {}
    for name, more in PEERS.items():
        try:
            field = [Contender(name, _curvature_torch.diagonal, {**options, **more, "steps": 1}, PEER)]
            rows |= _in_groups(base, field, min(rounds, 3))
        except RuntimeError as error:
            print(f"{name}: no figure. {_last_words(str(error))}", flush=True)
    return rows


def _last_words(text: str) -> str:
    """Returns the last line that names an error: what a library cannot do within its memory is a result."""
    lines = text.strip().splitlines()
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines)[-1]


def online(net: Net, args) -> Cases:
    """Times training steps of the models in `ONLINE`, prints the table and returns the numbers."""
    print(f"\n== online: training steps, {net.label}", flush=True)
    options: dict[str, Any] = dict(net=net, steps=args.steps)
    field = [Contender(n, _curvature_zoo.train, dict(options, argv=a), KEEP_MEMORY) for n, a in ONLINE.items()]
    rows = _in_groups(field[0], field[1:], args.rounds)
    _print("online", rows)
    return {f"online/{name}": row for name, row in rows.items()}


def convolutional(args) -> Cases:
    """Times and weighs the methods of `CONV` at each size of image; prints how both grow with the pixels."""
    found: Cases = {}
    for pixels in args.pixels:
        found |= curvatures("conv", Net((0, 2), pixels, args.conv_batch), {n: METHODS[n] for n in CONV}, args, False)
    body = []
    for name in (STEP, *CONV):
        rows = [row for key, row in found.items() if key.endswith(f"/{name}")]
        growth = [_slope(args.pixels, [row[what] for row in rows]) for what in ("cpu_ms", "memory_mib")]
        body.append((name, *(f"{value:.2f}" for value in growth)))
    print("\nslope of log value by log number of pixels, over the two largest sizes (1 is linear)")
    print(table(("contender", "cpu time", "memory"), body), flush=True)
    return found


def _slope(pixels: tuple[int, ...], values: list[float]) -> float:
    if len(pixels) < 2 or min(values[-2:]) <= 0:
        return math.nan
    return math.log(values[-1] / values[-2]) / math.log((pixels[-1] / pixels[-2]) ** 2)


def _in_groups(base: Contender, field: list[Contender], rounds: int) -> Cases:
    """Lets `base` and some of the others take turns at a time; returns the numbers of each."""
    rows: Cases = {}
    for start in range(0, len(field), AT_ONCE):
        turns = alternate([base, *field[start : start + AT_ONCE]], rounds, lambda line: print(line, flush=True))
        for name, taken in turns.items():
            rows.setdefault(name, {
                "ms": median(taken, "ms"), "cpu_ms": median(taken, "cpu_ms"),
                "memory_mib": median(taken, "memory_mib"), "setup_s": median(taken, "setup_s"),
                "multiple": ratio(taken, turns[base.name]),
                "multiple_cpu": ratio(taken, turns[base.name], "cpu_ms"),
            })  # fmt: skip
    return rows


def _print(case: str, rows: Cases) -> None:
    head = ("contender", "ms", "cpu ms", "multiple of a step", "by cpu time", "peak MiB", "aim")
    body = []
    for name, row in rows.items():
        aim = AIMS.get((case, name))
        told = "" if aim is None else f"<= {aim:g}: {'reached' if row['multiple_cpu'] <= aim else 'MISSED'}"
        if (case, name) == ("dense", "exact"):
            told += f"; <= {MEMORY_AIM:g} MiB: {'reached' if row['memory_mib'] <= MEMORY_AIM else 'MISSED'}"
        body.append((name, f"{row['ms']:.1f}", f"{row['cpu_ms']:.1f}", f"{row['multiple']:.2f}",
                     f"{row['multiple_cpu']:.2f}", f"{row['memory_mib']:.0f}", told))
    print(f"\n{table(head, body)}", flush=True)
