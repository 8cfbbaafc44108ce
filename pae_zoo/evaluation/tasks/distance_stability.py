"""Distances between fixed pairs of test data, of one run and compared over retrained models."""

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np

from pae_zoo.core import files, seeds
from pae_zoo.core import hparams as hp
from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.evaluation.context import Context
from pae_zoo.evaluation.support import latent_geometry, stability_report
from pae_zoo.evaluation.support.stability_tables import PUBLISHED, STRAIGHT, Table
from pae_zoo.geometry.curves import Curves
from pae_zoo.geometry.energies import PUBLISHED_POINTS
from pae_zoo.geometry.lengths import published_length
from pae_zoo.geometry.manifold import Ensemble, Manifold, MeanAndStd
from pae_zoo.geometry.solver import SOLVER_VERSION, Geodesics, Solver

# Pairs after which the table is written: an interrupted run goes on from there.
CHUNK = 25
# Fields of the hyper-parameters that tell repetitions of one experiment apart, besides flags of the evaluation.
REPETITION = ("seed", "workdir", "init_workdir")


@dataclasses.dataclass(frozen=True)
class Flags(latent_geometry.GeometryFlags):
    """The flags of the task distance_stability."""

    stability_pairs: int = option(50, "Pairs of test data whose distances the task distance_stability compares.", low=3,
                                  group=EVALUATION, smoke=4)
    stability_published: int = option(0, "Points of the length as published (arXiv 2408.07507), which grows with them, "
                                      "in the task distance_stability: 4096 there (0: leave it out).",
                                      low=0, high=10_000_000, group=EVALUATION)
    stability_unconverged: str = option(
        "exclude", "Pairs whose geodesic did not converge in every run: exclude them from all columns, or keep them.",
        choices=("exclude", "keep"), group=EVALUATION, operational=True)
    stability_dir: str = option("", "Folder of what distance_stability finds over runs; empty: distance_stability in "
                                "the folder that holds the runs.", group=EVALUATION, operational=True, path=True)


class Path(NamedTuple):
    """A way to join two latents: the solver of its geodesics, and the manifold of its published length, if any."""

    solver: Solver
    published: Optional[Manifold] = None


class _RootPrecision:
    """The root of the precision in the place of the std, which is what the published baseline computes with."""

    def __init__(self, source: Any):
        self.mean_and_std = source.mean_and_root_precision


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Distances of fixed pairs of test data, which over many runs (--workdirs) show how far retrained models agree.

    Per pair: the lengths of geodesics and of the straight line, the distances in the latent space and in the space of
    data. The pairs depend on --pair_seed and the data alone. What is already in distance_stability.csv, made with the
    same settings and the same weights, is kept.
    """
    names, num = _names(context), int(context.hparams.stability_pairs)
    pairs = latent_geometry.test_pairs(context, num)
    table = Table(context.run.workdir, snapshot(context, pairs, names))
    done = table.done(names)
    if done:
        context.say(f"distance_stability: {done} of {num} pairs are in {context.run.workdir} already.")
    if done < num:
        _fill(context, table, pairs, names, done)
    yield "distance_stability/num_pairs", num
    for name in names:
        finite = table.column(name, "finite") > 0
        if name != STRAIGHT:
            yield f"distance_stability/{name}/converged", table.column(name, "converged").mean()
        yield f"distance_stability/{name}/finite", finite.mean()
        for length in ("rms", "mean", "published"):
            values = table.column(name, length)
            if np.isfinite(values).any() and (length == "published") == (name == PUBLISHED):
                yield f"distance_stability/{name}/{length}", latent_geometry.mean(values, finite)
    yield "distance_stability/latent", table.column(STRAIGHT, "latent").mean()


def check_data(flags: Any, dataset: Any = None) -> None:
    """Raises UserError unless --stability_dir can be written, where it is given."""
    if flags.stability_dir:
        files.check_place(flags.stability_dir, "stability_dir")


def over_runs(runs: Sequence[Any], options: Any) -> Iterator[str]:
    """Compares the distances of retrained models and yields lines to print; see `stability_report`."""
    yield from stability_report.compare(
        [run.workdir for run in runs], options.stability_dir, keep=options.stability_unconverged == "keep",
        figure_format=getattr(options, "figure_format", "png"))  # fmt: skip


def snapshot(context: Context, pairs: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns all that the distances of a run depend on, and what kind of run it is.

    "shared" must be the same for runs that are compared, "own" is the run's, "group" are the hyper-parameters that
    repetitions of one experiment have in common.
    """
    options = context.hparams
    flags = ("pair_seed", "geodesic_points", "geodesic_reference", "geodesic_steps", "geodesic_init",
             "stability_published")  # fmt: skip
    shared = {name: getattr(options, name) for name in flags}
    shared["data"] = latent_geometry.checksum(context.dataset.test.x[pairs])
    shared["num_pairs"] = len(pairs)
    shared["solver"] = SOLVER_VERSION
    own = {"model_seed": int(context.hparams.seed), "evaluation_seed": int(context.seed), "paths": list(names),
           "members": int(options.geodesic_members), "weights": _weights(context.model)}  # fmt: skip
    if PUBLISHED in names and isinstance(latent_geometry.space(context).manifold, Ensemble):
        own["published_reference"] = PUBLISHED_POINTS
    return {"model": options.model, "shared": shared, "own": own, "group": hp.settings(options, REPETITION)}


def _weights(model: Any) -> int:
    """Returns a number that tells the weights of a model apart from others, 0 where it has none to ask for."""
    found = 0
    for weight in model.get_weights() if hasattr(model, "get_weights") else []:
        found = zlib.crc32(np.ascontiguousarray(weight).tobytes(), found)
    return found


# ---- the distances of one run ------------------------------------------------------------------------------


def _names(context: Context) -> tuple[str, ...]:
    """Returns the paths that are measured: those of the energies asked for, the straight line, the published one."""
    space = latent_geometry.space(context)
    asked = context.hparams.geodesic_energy
    names = space.energies if asked == "auto" else (latent_geometry.energy(context),)
    if int(context.hparams.stability_published) and _published_manifold(context) is not None:
        return (*names, STRAIGHT, PUBLISHED)
    return (*names, STRAIGHT)


def _published_manifold(context: Context) -> Optional[Manifold]:
    """Returns the manifold of the published distance, None where none was published for this kind of decoder."""
    space = latent_geometry.space(context)
    for source in (space.decoder, context.model):
        if hasattr(source, "mean_and_root_precision"):
            return MeanAndStd(_RootPrecision(source), space.manifold.latent_dim, space.manifold.dtype)
    return space.manifold if isinstance(space.manifold, Ensemble) and space.manifold.num_members > 1 else None


def _paths(context: Context, names: tuple[str, ...], ends: np.ndarray) -> dict[str, Path]:
    found = {}
    for name in names:
        if name == STRAIGHT:
            continue
        if name != PUBLISHED:
            found[name] = Path(latent_geometry.solver(context, name, ends))
            continue
        manifold = _published_manifold(context)
        kind = "decorrelated" if isinstance(manifold, Ensemble) else "coupled"
        # What is published has so many points, whatever ours has, and starts from the straight line.
        options: dict[str, Any] = dict(manifold=manifold, reference_points=PUBLISHED_POINTS, init="line")
        solver = latent_geometry.solver(context, kind, ends, **options)
        like = [path.solver for path in found.values()
                if path.solver.manifold is manifold and path.solver.settings == solver.settings]  # fmt: skip
        found[name] = Path(like[0] if like else solver, manifold)
    if STRAIGHT in names:
        found[STRAIGHT] = Path(next(iter(found.values())).solver)
    return {name: found[name] for name in names}


def _fill(context: Context, table: Table, pairs: np.ndarray, names: tuple[str, ...], done: int) -> None:
    """Adds the rows of all pairs from number `done` on, chunk after chunk."""
    x = context.dataset.test.x
    codes = latent_geometry.codes(context, x[pairs.ravel()], "stability codes").reshape(*pairs.shape, -1)
    paths = _paths(context, names, codes.reshape(-1, codes.shape[-1]))
    labels = latent_geometry.label_names(context, pairs)
    fixed = {"latent": np.linalg.norm(codes[:, 0] - codes[:, 1], axis=1),
             "pixel": latent_geometry.pixel_distances(x, pairs)}  # fmt: skip
    size = min(CHUNK, len(pairs))
    with context.progress((len(pairs) - done) * len(paths), "distances", "pair") as bar:
        for first in range(done, len(pairs), size):
            numbers = np.arange(first, min(first + size, len(pairs)))
            # Chunks of one size, filled up with the last pair, so that each program is compiled once.
            ends = codes[np.minimum(np.arange(first, first + size), numbers[-1])]
            rows, solved = [], {}
            for name, path in paths.items():
                values = _measure(context, name, path, ends, first, solved)
                for row, number in enumerate(numbers):
                    rows.append({
                        "pair": number, "index_a": pairs[number, 0], "index_b": pairs[number, 1],
                        "label_a": labels[number, 0], "label_b": labels[number, 1], "model": context.hparams.model,
                        "model_seed": int(context.hparams.seed), "path": name,
                        **{key: column[number] for key, column in fixed.items()},
                        **{key: column[row] for key, column in values.items()},
                    })  # fmt: skip
                bar.update(len(numbers))
            table.add(rows)


def _measure(
    context: Context, name: str, path: Path, ends: np.ndarray, first: int, solved: dict[Solver, Geodesics]
) -> dict[str, np.ndarray]:
    """Returns the columns of one path for pairs of latents (B, 2, d), the first of them being number `first`.

    solved: geodesics of these pairs that were found before; what is found is added.
    """
    solver, (start, end), none = path.solver, np.swapaxes(ends, 0, 1), np.full(len(ends), np.nan)
    if name == STRAIGHT:
        found, energy, line_energy = solver.straight(start, end), none, none
    else:
        if solver not in solved:
            solved[solver] = solver.solve(start, end)
        found = solved[solver]
        # A search that starts from the line knows its energy: no further program has to be compiled for it.
        from_line = solver.settings.init == "line"
        energy, line_energy = found.energy, found.initial_energy if from_line else solver.straight(start, end).energy
    finite, published = found.finite, none
    if path.published is not None:
        published = _published_length(context, path.published, found.curves, first)
        finite = finite & np.isfinite(published)
    converged = finite if name == STRAIGHT else found.converged & finite
    return {
        **{length: found.lengths.get(length, none) for length in ("rms", "mean", "expected")},
        "published": published,
        "energy": energy,
        "line_energy": line_energy,
        "steps": found.steps,
        "converged": converged.astype(int),
        "finite": finite.astype(int),
    }


def _published_length(context: Context, manifold: Manifold, curves: Curves, first: int) -> np.ndarray:
    seed = seeds.fold_in(context.seed_for("published length"), first)
    return published_length(manifold, curves, int(context.hparams.stability_published), seed,
                            jit_compile=context.jit_compile)  # fmt: skip
