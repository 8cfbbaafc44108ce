"""Unusual rows of tables: AUROC and average precision of `AnomalyDetector` beside what people take in its place.

--data_dir is a folder of .npz files with `X` (n, d) and `y` (n,), 1 where a row is unusual. Of a set of more than
10,000 rows so many are drawn; half of the usual rows, drawn at random, are fitted to, and all others are scored. Rivals
are scikit-learn's with their defaults, on columns standardised by the fitted rows: the mean distance to the five
nearest rows, local outlier factor, isolation forest, one-class SVM, the error of principal components that hold
90 % of the variance, the Mahalanobis distance with Ledoit and Wolf's covariance, and Gaussian mixtures of 1 to 10
components chosen by BIC. `--models` adds models of the zoo by their names (`all`: all that `AnomalyDetector` takes),
their scores combined and each alone, and `--join` each of them together with the detector, as one more part of its
smooth maximum. Times are processor seconds of fitting and scoring together.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from command import positive
from scipy import stats

from benchmarks._rounds import cores, load, table

MOST_ROWS = 10_000
OURS = "AnomalyDetector"
# Sets on which the processor time of all contenders is shown beside that of this size.
SPEED_ROWS, SPEED_COLUMNS = 2000, 20

Cases = dict[str, dict[str, float]]
Scorer = Callable[[np.ndarray, np.ndarray, int], dict[str, np.ndarray]]


def add_arguments(parser) -> None:
    parser.add_argument("--data_dir", required=True, help="folder of .npz files with X and y")
    parser.add_argument("--sets", default="", help="comma-separated parts of file names (default: all files)")
    parser.add_argument("--seeds", type=positive, default=1, help="seeds 0, 1, ... (default: 1; the aim is for 5)")
    parser.add_argument("--models", default="", help="comma-separated models of the zoo to train too, or all")
    parser.add_argument("--join", action="store_true", help="the detector with each of --models as a part too")
    parser.add_argument("--most_rows", type=positive, default=MOST_ROWS, help=f"rows of a set (default: {MOST_ROWS:,})")
    parser.add_argument("--results", default="", metavar="FILE", help="keep what is done here, and go on from it")


def run(args) -> Cases:
    files = [path for path in sorted(Path(args.data_dir).glob("*.npz"))
             if not args.sets or any(part in path.stem for part in args.sets.split(","))]
    if not files:
        raise SystemExit(f"benchmark: {args.data_dir} holds no .npz file whose name has one of {args.sets or 'any'}.")
    print(f"{cores()} cores, load {load():.2f}; {len(files)} sets, seeds 0 to {args.seeds - 1}", flush=True)
    rivals = contenders(_models(args.models), args.join)
    keep = Path(args.results) if args.results else None
    done: dict[str, Any] = json.loads(keep.read_text()) if keep and keep.exists() else {}
    for path in files:
        for seed in range(args.seeds):
            for name, scorer in rivals.items():
                key = f"{path.stem}/{seed}/{name}"
                if key in done:
                    continue
                done[key] = measured(*split(path, seed, args.most_rows), scorer, seed)
                if keep:
                    keep.write_text(json.dumps(done))
            line = {name: max(done[f"{path.stem}/{seed}/{name}"]["auroc"].values()) for name in rivals}
            print(f"{path.stem}, seed {seed}: " + ", ".join(f"{name} {v:.3f}" for name, v in line.items()), flush=True)
    speed = {name: speed_of(scorer) for name, scorer in rivals.items()}
    return summary(done, [path.stem for path in files], args.seeds, list(rivals), speed)


def _models(text: str) -> list[str]:
    from pae_zoo.sklearn import MODELS

    return list(MODELS) if text == "all" else [name for name in text.split(",") if name]


def split(path: Path, seed: int, most_rows: int = MOST_ROWS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the rows that are fitted to, those that are scored, and which of these are unusual."""
    with np.load(path) as file:
        x, y = file["X"].astype(np.float64), file["y"].astype(int).ravel()
    generator = np.random.default_rng(seed)
    if len(x) > most_rows:
        drawn = generator.permutation(len(x))[:most_rows]
        x, y = x[drawn], y[drawn]
    usual = generator.permutation(np.flatnonzero(y == 0))
    fitted = usual[: len(usual) // 2]
    rest = np.setdiff1d(np.arange(len(y)), fitted)
    return x[fitted], x[rest], y[rest]


def measured(fitted: np.ndarray, new: np.ndarray, unusual: np.ndarray, scorer: Scorer, seed: int) -> dict[str, Any]:
    """Returns AUROC and average precision of each score of a contender, and its processor seconds."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    start = time.process_time()
    scores = scorer(fitted, new, seed)
    seconds = time.process_time() - start
    return {"auroc": {name: float(roc_auc_score(unusual, one)) for name, one in scores.items()},
            "ap": {name: float(average_precision_score(unusual, one)) for name, one in scores.items()},
            "seconds": seconds}


def speed_of(scorer: Scorer) -> float:
    """Returns the processor seconds of a second fit to 2,000 rows of 20 columns, and scores of as many."""
    rows = np.random.default_rng(0).normal(size=(2, SPEED_ROWS, SPEED_COLUMNS))
    for _ in range(2):
        start = time.process_time()
        scorer(rows[0], rows[1], 0)
        seconds = time.process_time() - start
    return seconds


# ---- contenders ------------------------------------------------------------------------------------


def contenders(zoo: list[str], join: bool = False) -> dict[str, Scorer]:
    """Returns {name: function of (fitted rows, new rows, seed) -> {score: its values, higher where unusual}}."""
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
    from sklearn.svm import OneClassSVM

    from pae_zoo.sklearn import AnomalyDetector

    def ours(model: str) -> Scorer:
        def score(fitted, new, seed):
            detector = AnomalyDetector(model, random_state=seed).fit(fitted)
            found = detector.model_.score(new) if model == "auto" else detector.combined_.score(detector.scores_of(new))
            return {"combined": found.scores, **found.parts}
        return score

    def plain(make: Callable[[int], Any]) -> Scorer:
        def score(fitted, new, seed):
            a, b = standardised(fitted, new)
            return {"score": -make(seed).fit(a).score_samples(b)}
        return score

    def neighbours(fitted, new, seed):
        a, b = standardised(fitted, new)
        return {"score": NearestNeighbors(n_neighbors=min(5, len(a))).fit(a).kneighbors(b)[0].mean(axis=1)}

    found: dict[str, Scorer] = {OURS: ours("auto")}
    found.update({name: ours(name) for name in zoo})
    if join:
        found.update({f"{OURS} with {name}": joined(name) for name in zoo})
    return {**found, "kNN": neighbours, "mixture by BIC": mixture, "Mahalanobis": mahalanobis,
            "LOF": plain(lambda seed: LocalOutlierFactor(novelty=True)),
            "IsolationForest": plain(lambda seed: IsolationForest(random_state=seed)),
            "OneClassSVM": plain(lambda seed: OneClassSVM()), "PCA error": components}


def joined(model: str) -> Scorer:
    """The detector and a model of the zoo: the smooth maximum of what each says is the surprise of a row."""
    import tensorflow as tf

    from pae_zoo.anomaly import calibration
    from pae_zoo.sklearn import AnomalyDetector

    def score(fitted, new, seed):
        usual, deep = (AnomalyDetector(name, random_state=seed).fit(fitted) for name in ("auto", model))
        parts = [usual.model_.score(new).scores, deep.combined_.score(deep.scores_of(new)).scores]
        return {"joined": calibration.smooth_maximum([tf.constant(one, tf.float64) for one in parts], [1, 1]).numpy()}

    return score


def standardised(fitted: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, spread = fitted.mean(axis=0), fitted.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    return (fitted - mean) / spread, (new - mean) / spread


def mixture(fitted: np.ndarray, new: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    from sklearn.mixture import GaussianMixture

    a, b = standardised(fitted, new)
    most = max(1, min(10, len(a) // (2 * a.shape[1])))
    fits = [GaussianMixture(count, random_state=seed, reg_covar=1e-3).fit(a) for count in range(1, most + 1)]
    return {"score": -min(fits, key=lambda one: one.bic(a)).score_samples(b)}


def mahalanobis(fitted: np.ndarray, new: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    from sklearn.covariance import LedoitWolf

    a, b = standardised(fitted, new)
    return {"score": LedoitWolf().fit(a).mahalanobis(b)}


def components(fitted: np.ndarray, new: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    from sklearn.decomposition import PCA

    a, b = standardised(fitted, new)
    model = PCA(0.9, svd_solver="full").fit(a)
    return {"score": np.sum((b - model.inverse_transform(model.transform(b))) ** 2, axis=1)}


# ---- tables ----------------------------------------------------------------------------------------


def summary(done: dict[str, Any], sets: list[str], seeds: int, names: list[str], speed: dict[str, float]) -> Cases:
    """Prints means over sets and seeds, mean ranks among contenders, and returns them; the first score counts."""
    auroc = np.array([[[first(done[f"{one}/{seed}/{name}"]["auroc"]) for name in names] for seed in range(seeds)]
                      for one in sets])
    ap = np.array([[[first(done[f"{one}/{seed}/{name}"]["ap"]) for name in names] for seed in range(seeds)]
                   for one in sets])
    ranks = stats.rankdata(-auroc, axis=-1)
    seconds = np.array([[[done[f"{one}/{seed}/{name}"]["seconds"] for name in names] for seed in range(seeds)]
                        for one in sets])
    cases = {}
    for index, name in enumerate(names):
        cases[f"anomaly/{name}"] = {
            "auroc": auroc[..., index].mean(), "median": float(np.median(auroc[..., index])),
            "average_precision": ap[..., index].mean(), "rank": ranks[..., index].mean(),
            "cpu_seconds": seconds[..., index].mean(), "cpu_seconds_2000x20": speed[name]}
        if seeds > 1:
            cases[f"anomaly/{name}"]["auroc_std"] = float(auroc[..., index].mean(axis=0).std(ddof=1))
    head = ("detector", "mean AUROC", "median", "mean AP", "mean rank", "CPU s a set", "CPU s 2,000 x 20")
    body = [(name.partition("/")[2], f"{one['auroc']:.4f}", f"{one['median']:.3f}", f"{one['average_precision']:.3f}",
             f"{one['rank']:.2f}", f"{one['cpu_seconds']:.2f}", f"{one['cpu_seconds_2000x20']:.2f}")
            for name, one in cases.items()]
    print("\n" + table(head, body), flush=True)
    for name in names:
        for score in part_names(done, sets, name):
            values = [done[f"{one}/{seed}/{name}"]["auroc"].get(score) for one in sets for seed in range(seeds)]
            known = [value for value in values if value is not None]
            print(f"{name}, {score} alone: mean AUROC {np.mean(known):.4f} of {len(known)}", flush=True)
    return cases


def first(values: dict[str, float]) -> float:
    return next(iter(values.values()))


def part_names(done: dict[str, Any], sets: list[str], name: str) -> Iterator[str]:
    """Yields the names of the scores of a contender after the first."""
    yield from dict.fromkeys(score for one in sets for score in list(done[f"{one}/0/{name}"]["auroc"])[1:])
