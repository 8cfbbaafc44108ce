"""Geodesics of a decoder ensemble: ours against a loop over pairs, Adam, and the published sampled scheme.

An ensemble_vae is trained on the embedded digits at 28 x 28 pixels for each number of latents; then all contenders find
geodesics between codes of its test data. A loop over pairs is measured with one program for all pairs, and with one
compiled for each, as the published code does for each batch. All results are judged by one closed form, the
decorrelated energy on 257 points with reference 256. A figure is the median over rounds, a multiple the median of
ratios within rounds. stochman, where PyTorch and it are installed, minimises the coupled energy, by which it and a
contender of ours are judged. The published scheme, transcribed (256 points, a member drawn for each, up to 4,096 steps
of Adam at a rate of 0.1), is compared with ours on the same pairs: until ours has converged, and until its energy is
as low. A row has the released default's rate of 0.01, with which it ends with higher energies.
"""

import argparse
import importlib.util
import multiprocessing
import tempfile
from pathlib import Path

from command import natural, positive

from benchmarks import _geodesics_published, _geodesics_zoo
from benchmarks._rounds import KEEP_MEMORY, Contender, alternate, cores, load, median, ratio, table

OURS, LOOP = "ours", "ours, a loop over pairs"
SAME, REACH = "ours, the published scheme's pairs", "ours, to the published energy"
ADAM = "ours with Adam, 500 steps"
COUPLED, STOCHMAN = "ours, coupled energy", "stochman, coupled energy"
ANEW = "a loop that compiles for each pair"
PUBLISHED, PRODUCTS = "published: sampled, up to 4096 steps, rate 0.1", "matrix products"
RELEASED = "the same at the released rate of 0.01"
PUBLISHED_STEPS = _geodesics_published.STEPS
AIMS = {PUBLISHED: 20.0, LOOP: 10.0, ANEW: 10.0}


def add_arguments(parser) -> None:
    parser.add_argument("--latent_dims", type=_sizes, default=(2, 50), help="numbers of latents (default: 2,50)")
    parser.add_argument("--hidden_units", default="512,256,128,64", help="widths of the networks, from the data "
                        "inwards (default: the published 512,256,128,64)")
    parser.add_argument("--members", type=positive, default=10, help="decoders (default: 10)")
    parser.add_argument("--pairs", type=positive, default=100, help="geodesics of ours (default: 100)")
    parser.add_argument("--loop_pairs", type=positive, default=10, help="geodesics of the loop (default: 10)")
    parser.add_argument("--anew_pairs", type=positive, default=3, help="geodesics of the loop that compiles "
                        "(default: 3)")
    parser.add_argument("--published_pairs", type=positive, default=2, help="geodesics of the published scheme "
                        "(default: 2)")
    parser.add_argument("--published_steps", type=positive, default=PUBLISHED_STEPS, help="its steps; fewer are scaled "
                        "up in time, and its energy is then not that of the whole search (default: 4096)")
    parser.add_argument("--published_patience", type=natural, default=_geodesics_published.PATIENCE, help="steps "
                        "without a lower energy after which it ends, 0: never (default: the published 100)")
    parser.add_argument("--points", type=positive, default=64, help="points of a curve of ours (default: 64)")
    parser.add_argument("--epochs", type=positive, default=60, help="epochs of the training (default: 60)")
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each contender (default: 3)")
    parser.add_argument("--nopeers", action="store_true", help="leave stochman out")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round, to see that all of it runs")


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(positive(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"numbers such as 2,50 are needed; received {text!r}") from error


def run(args) -> dict[str, dict[str, float]]:
    if args.quick:
        small = dict(hidden_units="12,8", members=2, pairs=3, loop_pairs=1, anew_pairs=1, published_pairs=1,
                     published_steps=3, points=9, epochs=1, rounds=1, latent_dims=(2,))  # fmt: skip
        args = argparse.Namespace(**{**vars(args), **small})
    args.peers = not args.nopeers and all(importlib.util.find_spec(name) for name in ("torch", "stochman"))
    print(f"{cores()} cores, load {load():.2f}; rounds: {args.rounds}", flush=True)
    if not args.peers:
        print("stochman is left out, or not installed", flush=True)
    found: dict[str, dict[str, float]] = {"machine": {"cores": cores(), "load_before": load()}}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for latent_dim in args.latent_dims:
            workdir = str(Path(folder) / str(latent_dim))
            print(f"\n== {latent_dim} latents: training", flush=True)
            _geodesics_zoo.train(workdir, latent_dim, args.hidden_units, args.members, args.epochs)
            found |= {f"{latent_dim}/{name}": row for name, row in _compare(workdir, latent_dim, args).items()}
    found["machine"]["load_after"] = load()
    before, after = (found["machine"][f"load_{when}"] for when in ("before", "after"))
    print(f"\nload {before:.2f} before, {after:.2f} after", flush=True)
    return found


def _compare(workdir: str, latent_dim: int, args) -> dict[str, dict[str, float]]:
    own = dict(workdir=workdir, num_points=args.points)
    published = dict(workdir=workdir, pairs=args.published_pairs, steps=args.published_steps,
                     patience=args.published_patience)  # fmt: skip
    field = [
        Contender(OURS, _geodesics_zoo.solve, dict(own, pairs=args.pairs), KEEP_MEMORY),
        Contender(LOOP, _geodesics_zoo.solve, dict(own, pairs=args.loop_pairs, one_by_one=True), KEEP_MEMORY),
        Contender(ANEW, _geodesics_zoo.solve, dict(own, pairs=args.anew_pairs, one_by_one=True, anew=True),
                  KEEP_MEMORY),
        Contender(ADAM, _geodesics_zoo.solve, dict(own, pairs=args.loop_pairs, method="adam"), KEEP_MEMORY),
        Contender(SAME, _geodesics_zoo.solve, dict(own, pairs=args.published_pairs), KEEP_MEMORY),
        Contender(PUBLISHED, _geodesics_published.solve, published, KEEP_MEMORY),
        Contender(RELEASED, _geodesics_published.solve, dict(published, rate=_geodesics_published.RELEASED_RATE),
                  KEEP_MEMORY),
        Contender(REACH, _geodesics_zoo.reach, dict(own, pairs=args.published_pairs), KEEP_MEMORY),  # knows the aim now
        Contender(PRODUCTS, _geodesics_zoo.products, dict(size=1024, repeats=20), KEEP_MEMORY),
    ]  # fmt: skip
    turns = alternate(field, args.rounds, lambda line: print(line, flush=True))
    if args.peers:
        turns |= _peer(workdir, args, own)
    names = ("ms", "cpu_ms", "energy", "converged", "searched", "memory_mib", "setup_s")
    rows = {name: {metric: median(taken, metric) for metric in names if metric in taken[0]}
            for name, taken in turns.items()}  # fmt: skip
    for name, taken in turns.items():
        base = turns[COUPLED if name in (COUPLED, STOCHMAN) else OURS]
        rows[name]["multiple"] = ratio(taken, base)
        rows[name]["multiple_cpu"] = ratio(taken, base, "cpu_ms")
    for name in (SAME, REACH):
        rows[name]["published"] = ratio(turns[PUBLISHED], turns[name])
        rows[name]["published_cpu"] = ratio(turns[PUBLISHED], turns[name], "cpu_ms")
    rows[OURS]["share_of_peak"] = _billions(latent_dim, args, rows[OURS]["searched"]) * ratio(
        turns[PRODUCTS], turns[OURS])  # fmt: skip
    _print(rows, args)
    return rows


def _peer(workdir: str, args, own: dict) -> dict:
    """Returns the turns of stochman and of ours with the same energy; none where stochman fails."""
    from benchmarks import _geodesics_torch

    writer = multiprocessing.get_context("spawn").Process(
        target=_geodesics_zoo.export, args=(workdir, args.loop_pairs))  # fmt: skip
    writer.start()
    writer.join()
    field = [
        Contender(COUPLED, _geodesics_zoo.solve, dict(own, pairs=args.loop_pairs, energy="coupled"), KEEP_MEMORY),
        Contender(STOCHMAN, _geodesics_torch.solve, dict(workdir=workdir, pairs=args.loop_pairs), KEEP_MEMORY),
    ]  # fmt: skip
    try:
        return alternate(field, args.rounds, lambda line: print(line, flush=True))
    except RuntimeError as error:
        print(f"{STOCHMAN}: no figure. {' '.join(str(error).split())[-300:]}", flush=True)
        return {}


def _billions(latent_dim: int, args, searched: float) -> float:
    """Returns 10^9 multiplications of matrix products of a geodesic: two passes a step, d + 1 where the metric is."""
    from pae_zoo.geometry import Settings
    from pae_zoo.geometry.gauss_newton import refresh_steps

    widths = (latent_dim, *map(int, reversed(args.hidden_units.split(","))), 784)
    decode = args.members * sum(a * b for a, b in zip(widths, widths[1:]))
    looks = len(refresh_steps(int(searched), latent_dim))
    points = 2 * args.points * searched + looks * (latent_dim + 1) * Settings().curvature_points
    return decode * points / 1e9


def _verdict(name: str, rows: dict[str, dict[str, float]]) -> str:
    """Returns what became of an aim, '' for a row without one; the published scheme's is for energies as low as its."""
    if name not in AIMS:
        return ""
    multiple, row = rows[name]["multiple_cpu"], rows[name]
    reached = multiple >= AIMS[name]
    if name == PUBLISHED:
        reached = rows[REACH]["published_cpu"] >= AIMS[name] and rows[REACH]["energy"] <= row["energy"]
    return f">= {AIMS[name]:g}: {'reached' if reached else 'MISSED'}"


def _print(rows: dict[str, dict[str, float]], args) -> None:
    head = ("contender", "a second", "s each", "cpu s each", "times ours", "by cpu time", "energy", "converged",
            "steps", "peak MiB", "aim")  # fmt: skip
    body = []
    for name, row in rows.items():
        if name == PRODUCTS:
            continue
        told = _verdict(name, rows)
        if name in (PUBLISHED, RELEASED) and args.published_steps < PUBLISHED_STEPS:
            told += f"; cut at {args.published_steps} steps"
        numbers = (1e3 / row["ms"], row["ms"] / 1e3, row["cpu_ms"] / 1e3, row["multiple"], row["multiple_cpu"])
        body.append((name, *(f"{number:.3g}" for number in numbers), f"{row['energy']:.2f}", f"{row['converged']:.2f}",
                     f"{row['searched']:.0f}" if "searched" in row else "", f"{row['memory_mib']:.0f}", told))
    print(table(head, body))
    for name, until in ((SAME, "until ours has converged"), (REACH, "until ours has an energy as low")):
        row = rows[name]
        print(f"the published scheme takes {row['published']:.3g} times the time of ours on the same pairs {until}, by "
              f"cpu time {row['published_cpu']:.3g}; its energy is {rows[PUBLISHED]['energy'] / row['energy']:.4f} "
              "times ours")  # fmt: skip
    released = rows[RELEASED]["energy"]
    print(f"at the released rate its energy is {released / rows[PUBLISHED]['energy']:.4f} times that at a rate of 0.1, "
          f"and {released / rows[SAME]['energy']:.4f} times ours")
    print(f"share of the rate of matrix products of 1024 x 1024: {rows[OURS]['share_of_peak']:.2f}", flush=True)
