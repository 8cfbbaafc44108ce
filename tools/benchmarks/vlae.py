"""Training step and evaluation of vlae, its options and its rivals, against the published algorithm in PyTorch.

Cases: same (vlae_published with the numbers of the published step), options (its other forms), models (vae, savae, hf,
iaf, vlae_published of T = 1, 2, 8), importance (log p(x) by importance sampling), elbo (test bound of options after
equal training; needs --data_dir), fast (a held step beside that of vae), budget (test bounds after equal CPU time,
of models' own codes and of codes refined at test; needs --data_dir, takes hours, goes on from --results). Each
contender has a process of its own and they take turns; a figure is the median over rounds, a ratio the median of the
ratios within rounds. PyTorch takes part where it is installed.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib.util
import multiprocessing
import os
import statistics
import tempfile
from typing import Any, Optional

from command import natural, positive

from benchmarks import _contenders, _vlae_budget, _vlae_elbo, _vlae_zoo
from benchmarks._rounds import KEEP_MEMORY, Contender, alternate, cores, load, median, ratio, table
from benchmarks._vlae_zoo import Sizes

DEFAULT_CASES = ("same", "options", "models", "importance", "elbo")
CASES = (*DEFAULT_CASES, "fast", "budget")
PUBLISHED = "published, PyTorch"
SQUARE, OWN = "matrix product 1024^3", "matrix products of a step"
SQUARE_SHAPE = (1024, 1024, 1024)
UPDATES = 4
# PyTorch's threads wait in a spinning loop by default, which takes many times longer where a core has other work too.
PEER = {**KEEP_MEMORY, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
# Contenders whose processes live at once, so that a laptop's memory holds them.
AT_ONCE = 4
AIMS_AT = {784: Sizes(784, 500, 50, 128), 3072: Sizes(3072, 500, 50, 128)}
FASTER = {784: 1.3, 3072: 3.0}
FASTEST, MEMORY, SHARE, ESTIMATE = 4.0, 0.5, 0.75, 10.0
QUICK = dict(data_dim=(36,), hidden=16, latents=4, batch=8, rounds=1, steps=1, samples=20, images=2)

Cases = dict[str, dict[str, float]]
Turns = dict[str, list[dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A model of the zoo by its flags; `xla` None leaves the choice to the model."""

    flags: str
    xla: Optional[bool] = None

    @property
    def argv(self) -> list[str]:
        return [f"--{word}" for word in self.flags.split()]

    @property
    def name(self) -> str:
        chosen = {None: "", True: ", XLA", False: ", no XLA"}[self.xla]
        return self.flags.removeprefix("model=") + chosen


VLAE = Variant(f"model=vlae_published num_updates={UPDATES}")
SAME = (VLAE, Variant(VLAE.flags, xla=True), Variant(f"{VLAE.flags} nogram"))
OPTIONS = tuple(
    Variant(f"{VLAE.flags} {words}")
    for words in (
        "search_gradient=implicit", "search_gradient=detached", "search=cg", "search=cg search_gradient=implicit",
        "search=cg nocg_precondition cg_iterations=6 search_gradient=implicit", "search=cg search_gradient=detached",
        "covariance=matrix_free search_gradient=detached", "covariance=matrix_free", "covariance=diag",
        "covariance=low_rank", "update_schedule=constant", "update_schedule=line_search", "update_schedule=levenberg",
        "algebra=float64", "linearisation=forward",
    )
)  # fmt: skip
MODELS = (
    Variant("model=vae"), Variant("model=savae num_svi_steps=4"), Variant("model=hf num_flows=4"),
    Variant("model=iaf num_flows=4"), *(Variant(f"model=vlae_published num_updates={t}") for t in (1, 2, 8)),
)  # fmt: skip
HELD = "model=vlae warmup_steps=0"
BERNOULLI = "likelihood=bernoulli preprocess=binarise_dynamic"
# A plain step and one with a held posterior; and how many of the first the second may take.
FAST = {"Gaussian": (Variant("model=vae"), Variant(HELD), 4.0),
        "Bernoulli": (Variant(f"model=vae {BERNOULLI}"), Variant(f"{HELD} {BERNOULLI}"), 6.0)}  # fmt: skip


def add_arguments(parser) -> None:
    parser.add_argument("--cases", type=_cases, default=DEFAULT_CASES,
                        help=f"some of {','.join(CASES)} (default: all but fast and budget)")
    parser.add_argument("--data_dim", type=_sizes, default=(784, 3072),
                        help="D of the steps, with commas; options, models and importance take the first "
                             "(default: 784,3072)")
    parser.add_argument("--options", type=_options, default=OPTIONS, metavar="WORDS",
                        help="options, elbo: only those options whose flags hold one of these words, with commas")
    parser.add_argument("--hidden", type=positive, default=500, help="H, width of the networks (default: 500)")
    parser.add_argument("--latents", type=positive, default=50, help="K, size of the latent space (default: 50)")
    parser.add_argument("--batch", type=positive, default=128, help="data in a step (default: 128)")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each contender (default: 5)")
    parser.add_argument("--steps", type=positive, default=2, help="training steps in a turn (default: 2)")
    parser.add_argument("--samples", type=positive, default=5000, help="S of importance sampling (default: 5000)")
    parser.add_argument("--images", type=positive, default=8, help="data whose log p(x) is estimated (default: 8)")
    parser.add_argument("--data_dir", default="", help="elbo: folder with fashion_mnist/")
    parser.add_argument("--epochs", type=positive, default=1, help="elbo: epochs of each training (default: 1)")
    parser.add_argument("--seeds", type=positive, default=3, help="elbo: trainings of each option (default: 3)")
    parser.add_argument("--first_seed", type=natural, default=0, help="budget: the first of --seeds seeds (default: 0)")
    parser.add_argument("--budgets", type=_sizes, default=(10, 30, 120, 300),
                        help="budget: seconds of processor time (default: 10,30,120,300)")
    parser.add_argument("--settings", type=_settings, default=tuple(_vlae_budget.SETTINGS),
                        help=f"budget: some of {','.join(_vlae_budget.SETTINGS)} (default: all)")
    parser.add_argument("--contenders", type=lambda text: tuple(text.split(",")), default=_vlae_budget.MODELS,
                        metavar="MODELS", help="budget: models with commas, each with flags behind it, such as "
                        "'vae,vlae search=cg' (default: vae,iaf,hf,savae,vlae)")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="budget: of all models (default: 1e-3)")
    parser.add_argument("--test_images", type=positive, default=_vlae_budget.IMAGES, dest="test_images",
                        help="budget: test data behind a bound, in hundreds (default: 500)")
    parser.add_argument("--results", default="", metavar="FILE", help="budget: JSON file of finished trainings, which "
                        "are not repeated")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round, to see that all of it runs")


def _cases(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if not set(words) <= set(CASES):
        raise argparse.ArgumentTypeError(f"allowed: {','.join(CASES)}; received {text!r}")
    return words


def _settings(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if not set(words) <= set(_vlae_budget.SETTINGS):
        raise argparse.ArgumentTypeError(f"allowed: {','.join(_vlae_budget.SETTINGS)}; received {text!r}")
    return words


def _options(text: str) -> tuple[Variant, ...]:
    found = tuple(v for v in OPTIONS if any(word in v.flags for word in text.split(",")))
    if not found:
        known = "; ".join(v.name for v in OPTIONS)
        raise argparse.ArgumentTypeError(f"words of these are allowed: {known}; received {text!r}")
    return found


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(positive(word) for word in text.split(","))


def run(args) -> Cases:
    if args.quick:
        args = argparse.Namespace(**{**vars(args), **QUICK})
    torch = bool(importlib.util.find_spec("torch"))
    found: Cases = {"machine": {"cores": cores(), "load_before": load()}}
    print(f"{cores()} cores, load {load():.2f}; rounds: {args.rounds}", flush=True)
    if not torch:
        print("PyTorch is not installed: the published algorithm is left out", flush=True)
    fast = tuple(variant for *pair, _ in FAST.values() for variant in pair)
    groups = {"same": SAME, "options": args.options, "models": MODELS, "fast": fast}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for case in args.cases:
            if case == "budget":
                if not args.data_dir:
                    raise ValueError("--cases=budget needs --data_dir, the folder with fashion_mnist/ and the others.")
                found.update(_vlae_budget.compare(args, _apart))
                continue
            for dim in args.data_dim if case == "same" else args.data_dim[:1]:
                sizes = Sizes(dim, args.hidden, args.latents, args.batch)
                if case in groups:
                    print(f"\n== {case}: a training step, D = {dim}, H = {sizes.hidden}, K = {sizes.latents}, "
                          f"batch {sizes.batch}", flush=True)
                    found.update(training(case, groups[case], sizes, args, folder, torch and case != "fast"))
                elif case == "importance":
                    found.update(importance(sizes, args, folder, torch))
                elif args.data_dir:
                    found.update(_vlae_elbo.compare([VLAE.argv, *(v.argv for v in args.options)], args))
                else:
                    print("\n== elbo: left out, for it needs --data_dir", flush=True)
    found["machine"]["load_after"] = load()
    before, after = (found["machine"][f"load_{when}"] for when in ("before", "after"))
    print(f"\nload {before:.2f} before, {after:.2f} after", flush=True)
    return found


def _apart(function, *args):
    """Calls function(*args) in a process of its own, whose memory is free again afterwards."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, _hush) as pool:
        return pool.submit(function, *args).result()


def _hush() -> None:
    """Drops what TensorFlow says while it starts; what a function raises comes back all the same."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


# ---- training steps --------------------------------------------------------------------------------------


def training(case: str, variants, sizes: Sizes, args, folder: str, torch: bool) -> Cases:
    """Times the contenders of one case at one size, prints the tables and returns their numbers."""
    weights = f"{folder}/{case}-{sizes.data_dim}.npz"
    distinct = list(dict.fromkeys(v.flags for v in variants))
    known = dict(zip(distinct, _apart(_vlae_zoo.describe, [Variant(flags).argv for flags in distinct], sizes, weights)))
    counted = {v.name: known[v.flags] for v in variants}
    updates = None if case == "models" else UPDATES
    if torch:
        counted[PUBLISHED] = _apart(_vlae_zoo.describe_published, weights, sizes, updates)
    rows: Cases = {}
    for start in range(0, len(variants), AT_ONCE):
        field = _field(variants[start : start + AT_ONCE], sizes, args, weights, torch, updates)
        turns = alternate(field, args.rounds, _say)
        for name in counted:
            if name in turns:
                rows.setdefault(name, summary(name, turns, counted[name], sizes))
    print(f"\n{training_table(rows)}\n", flush=True)
    aims = judge(case, rows, sizes)
    if aims:
        print(table(("aim", "value", "at least", ""), [_verdict(*aim) for aim in aims]), flush=True)
    return {f"{case}/{sizes.data_dim}/{name}": row for name, row in rows.items()}


def _field(variants, sizes: Sizes, args, weights: str, torch: bool, updates: Optional[int]) -> list[Contender]:
    options: dict[str, Any] = dict(sizes=sizes, steps=args.steps)
    found = [Contender(v.name, _vlae_zoo.train, dict(options, argv=v.argv, xla=v.xla), KEEP_MEMORY) for v in variants]
    if torch:
        found.append(Contender(PUBLISHED, _vlae_zoo.published, dict(options, weights=weights, updates=updates), PEER))
    for name, shape in ((SQUARE, SQUARE_SHAPE), (OWN, own_shape(sizes))):
        repeats = max(1, round(2e10 / _flop(shape)))
        found.append(Contender(name, _contenders.products, dict(shapes=[shape], repeats=min(repeats, 100))))
    return found


def own_shape(sizes: Sizes) -> tuple[int, int, int]:
    """Returns the shape of vlae's largest products: all columns of the Jacobians through a hidden layer."""
    return sizes.batch * sizes.latents, sizes.hidden, sizes.hidden


def _flop(shape: tuple[int, int, int]) -> int:
    return 2 * shape[0] * shape[1] * shape[2]


def summary(name: str, turns: Turns, operations: dict[str, float], sizes: Sizes) -> dict[str, float]:
    """Returns the numbers of one contender: times, operations, share of the best rate of products, memory, ratios."""
    taken, peaks = turns[name], _peaks(turns, sizes)
    found = {
        "ms_per_step": median(taken, "ms"), "cpu_ms_per_step": median(taken, "cpu_ms"),
        "gflop": operations["products"] / 1e9, "gflop_of_xla_factors": operations["factors"] / 1e9,
        "open_loops": operations["open_loops"],
        "memory_mib": median(taken, "memory_mib"), "setup_s": median(taken, "setup_s"),
        "peak_gflops": statistics.median(peaks),
        "share_of_peak": statistics.median(
            operations["products"] / turn["ms"] / 1e6 / peak for turn, peak in zip(taken, peaks)
        ),
    }  # fmt: skip
    if PUBLISHED in turns and name != PUBLISHED:
        found["faster"] = ratio(turns[PUBLISHED], taken)
        found["faster (cpu)"] = ratio(turns[PUBLISHED], taken, "cpu_ms")
        found["memory_saved"] = ratio(turns[PUBLISHED], taken, "memory_mib")
    return found


def _peaks(turns: Turns, sizes: Sizes) -> list[float]:
    """Returns the best rate of matrix products of each round, in GFLOP/s."""
    flops = {SQUARE: _flop(SQUARE_SHAPE), OWN: _flop(own_shape(sizes))}
    rates = [[flop / turn["ms"] / 1e6 for turn in turns[name]] for name, flop in flops.items()]
    return [max(of_a_round) for of_a_round in zip(*rates)]


def training_table(rows: Cases) -> str:
    """Returns the table of one case; ratios are of the published step's figure to the contender's."""
    head = ("contender", "ms/step", "cpu ms/step", "GFLOP", "+ XLA's factors", "of peak", "peak MiB", "faster by",
            "by cpu time", "memory saved")  # fmt: skip
    body = [
        (
            name, f"{r['ms_per_step']:.1f}", f"{r['cpu_ms_per_step']:.1f}", f"{r['gflop']:.2f}",
            f"{r['gflop_of_xla_factors']:.2f}", f"{r['share_of_peak']:.2f}", f"{r['memory_mib']:.0f}",
            *(f"{r[key]:.2f}" if key in r else "" for key in ("faster", "faster (cpu)", "memory_saved")),
        )
        for name, r in rows.items()
    ]  # fmt: skip
    return table(head, body)


def judge(case: str, rows: Cases, sizes: Sizes) -> list[tuple[str, float, float]]:
    """Returns (what, value, at least) of the aims that a case has at these sizes."""
    if case == "fast":
        pairs = {kind: [rows[v.name]["cpu_ms_per_step"] for v in pair] for kind, (*pair, _) in FAST.items()}
        return [(f"{kind}: CPU time of a vae step / of a held one", plain / held, 1 / FAST[kind][2])
                for kind, (plain, held) in pairs.items()]
    own = [r for name, r in rows.items() if name != PUBLISHED]
    if PUBLISHED not in rows or sizes != AIMS_AT.get(sizes.data_dim):
        return []
    if case == "options" and sizes.data_dim == 784:
        return [("the fastest option, times faster", max(r["faster"] for r in own), FASTEST)]
    if case != "same":
        return []
    best = max(own, key=lambda r: r["faster"])
    return [
        ("same numbers, the fastest: times faster", best["faster"], FASTER[sizes.data_dim]),
        ("memory of the published step / its own", best["memory_saved"], 1 / MEMORY),
        ("its share of the peak of products", best["share_of_peak"], SHARE),
    ]


def _verdict(what: str, value: float, least: float) -> tuple[str, str, str, str]:
    return what, f"{value:.2f}", f"{least:.3g}", "reached" if value >= least else "MISSED"


def _say(text: str) -> None:
    print(text, flush=True)


# ---- evaluation ------------------------------------------------------------------------------------------


def importance(sizes: Sizes, args, folder: str, torch: bool) -> Cases:
    """Times log p(x) by importance sampling, prints the table and returns its numbers; a "step" is a datum."""
    print(f"\n== importance: log p(x) by {args.samples} samples, D = {sizes.data_dim}, H = {sizes.hidden}, "
          f"K = {sizes.latents}", flush=True)
    weights = f"{folder}/importance.npz"
    _apart(_vlae_zoo.write_start, VLAE.argv, sizes, weights)
    ours = dataclasses.replace(sizes, batch=args.images)
    options: dict[str, Any] = dict(sizes=ours, samples=args.samples)
    # A quarter of the data: it takes them one by one, so the time of one does not depend on how many.
    few = dataclasses.replace(sizes, batch=max(1, args.images // 4))
    estimated = dict(options, argv=VLAE.argv, compared=few.batch)
    field = [Contender(VLAE.name, _vlae_zoo.estimate, estimated, KEEP_MEMORY)]
    if torch:
        field.append(Contender(PUBLISHED, _vlae_zoo.published_estimate,
                               dict(options, sizes=few, weights=weights, updates=UPDATES), PEER))
    turns = alternate(field, args.rounds, _say)
    rows = {
        name: {"ms_per_datum": median(t, "ms"), "cpu_ms_per_datum": median(t, "cpu_ms"),
               "mean": median(t, "value")}
        for name, t in turns.items()
    }
    shown = (("ms_per_datum", 1), ("cpu_ms_per_datum", 1), ("mean", 2))
    body = [(name, *(f"{r[key]:.{digits}f}" for key, digits in shown)) for name, r in rows.items()]
    print(f"\n{table(('contender', 'ms/datum', 'cpu ms/datum', 'mean log p(x)'), body)}\n", flush=True)
    if torch:
        faster = {"faster": ratio(turns[PUBLISHED], turns[VLAE.name]),
                  "faster (cpu)": ratio(turns[PUBLISHED], turns[VLAE.name], "cpu_ms")}
        rows["ratios"] = faster
        aims = [_verdict("evaluation, times faster", faster["faster"], ESTIMATE),
                ("the same by cpu time", f"{faster['faster (cpu)']:.2f}", "", "")]
        print(table(("aim", "value", "at least", ""), aims), flush=True)
    return {f"importance/{name}": row for name, row in rows.items()}
