"""What the keys of metrics.json stand for: task, column, whose figure it is, and which way it is better."""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple, Optional

HIGHER, LOWER, NEITHER = "higher", "lower", ""
#: whose figure it is: the model's, that of a simple method measured beside it, what nobody is to beat
MODEL, BASELINE, REFERENCE = "model", "baseline", "reference"


class Figure(NamedTuple):
    """One figure of a task.

    column: what it is called in the table of the task. variant: which score, density or kind of code, empty for the
    model itself. better: higher, lower, a number that is ideal, or empty. across: whether models compare by it. alike:
    keys whose values must agree for that. part: word in the names of the pictures behind it, empty: all of the task.
    """

    task: str
    column: str
    variant: str
    role: str
    better: str
    across: bool = True
    alike: tuple[str, ...] = ()
    part: str = ""

    def loss(self, value: float) -> float:
        """Returns how bad a value is, less for better ones."""
        if self.better == HIGHER:
            return -value
        return value if self.better == LOWER else abs(value - float(self.better))


class Rule(NamedTuple):
    """Keys of one form: `v` in the pattern is the variant, `set` the other data, the words of `column` are groups."""

    task: str
    pattern: str
    column: str
    better: str = NEITHER
    across: bool = True
    alike: tuple[str, ...] = ()


SAMPLED = ("generation/frechet/num_samples", "generation/frechet/extractor", "generation/frechet/preparation")
WEIGHTED = ("test/importance_samples",)
DRAWN = ("calibration/num_samples",)
DENSITY = r"density/(?P<v>model|gaussian|mixture|kernel|training_codes)/"
RESTORED = r"restoration/((?P<v>knn|linear_mixture)/)?"
UNDER = r"((?P<v>refined)/)?"

RULES: tuple[Rule, ...] = (
    Rule("reconstruction", r"test/mse", "MSE", LOWER),
    Rule("likelihood", rf"test/{UNDER}log_likelihood", "log p(x)", HIGHER, alike=WEIGHTED),
    Rule("likelihood", rf"test/{UNDER}elbo", "ELBO", HIGHER),
    Rule("likelihood", r"test/bits_per_dim", "bits per dimension", LOWER, alike=WEIGHTED),
    Rule("likelihood", rf"test/{UNDER}unreliable", "share unreliable", LOWER),
    Rule("generation", r"generation/frechet/(?P<v>samples|reconstructions|raw_prior|floor)", "Frechet distance", LOWER,
         alike=SAMPLED),
    Rule("generation", r"generation/frechet_r/(?P<v>samples|floor)", "Frechet distance to reconstructions", LOWER,
         across=False),
    Rule("generation", r"generation/(?P<c>precision|recall|coverage)", "{c}", HIGHER, alike=SAMPLED),
    Rule("generation", r"generation/c2st", "codes told from samples, AUROC", "0.5"),
    Rule("generation", r"generation/cells(?P<v>_sampling)?", "mass in wrong cells", LOWER),
    Rule("generation", r"generation/classes", "mass in wrong classes", LOWER),
    Rule("density", DENSITY + r"nll", "-log density of codes", LOWER, across=False),
    Rule("density", DENSITY + r"frechet", "Frechet distance", LOWER, alike=SAMPLED),
    Rule("density", DENSITY + r"frechet_r", "Frechet distance to reconstructions", LOWER, across=False),
    Rule("density", DENSITY + r"(?P<c>precision|recall|coverage)", "{c}", HIGHER),
    Rule("density", DENSITY + r"c2st", "codes told from samples, AUROC", "0.5"),
    Rule("density", DENSITY + r"cells", "mass in wrong cells", LOWER),
    Rule("density", DENSITY + r"auroc/(?P<set>.+)", "{set}: AUROC", HIGHER),
    Rule("labels", r"labels/((?P<v>majority|linear)/)?accuracy", "accuracy", HIGHER),
    Rule("labels", r"labels/((?P<v>linear)/)?nll", "-log p(label|x)", LOWER),
    Rule("ood", r"ood/(?P<set>[^/]+)/(?P<v>[^/]+)/auroc", "{set}: AUROC", HIGHER),
    Rule("ood", r"ood/(?P<set>[^/]+)/(?P<v>[^/]+)/fpr95", "{set}: FPR at 95 %", LOWER),
    Rule("restoration", RESTORED + r"mse_mean(/hidden)?", "MSE of hidden values", LOWER),
    Rule("restoration", r"restoration/mse_mean/seen", "MSE of seen values", LOWER),
    *(Rule("restoration", RESTORED + rf"coverage_{level}", f"coverage at {level} %", f"0.{level}")
      for level in (50, 80, 90)),
    Rule("calibration", r"calibration/log_prob", "log predictive density", HIGHER, alike=DRAWN),
    Rule("calibration", r"calibration/sse", "sum of squared errors", LOWER, across=False),
    Rule("calibration", r"calibration/ence", "ENCE", LOWER, alike=DRAWN),
    Rule("calibration", r"calibration/coverage50", "coverage at 50 %", "0.5", alike=DRAWN),
    Rule("calibration", r"calibration/coverage90", "coverage at 90 %", "0.9", alike=DRAWN),
    Rule("calibration", r"calibration/(?P<v>output|latent|information)/spearman", "rank correlation with the error",
         HIGHER),
    Rule("rejection", r"rejection/(?P<set>sse|classifier)/(?P<v>\w+)/area", "{set}: area", LOWER, across=False),
    Rule("rejection", r"rejection/(?P<set>sse|classifier)/(?P<v>\w+)/normalised_area", "{set}: normalised area",
         HIGHER),
    Rule("imputation", r"imputation/(?P<set>[^/]+)/mse_hidden", "{set}: MSE of hidden values", LOWER),
    Rule("imputation", r"imputation/(?P<set>[^/]+)/coverage90_hidden", "{set}: coverage at 90 %", "0.9"),
    Rule("imputation", r"imputation/(?!original)(?P<set>[^/]+)/((?P<v>given)/)?accuracy", "{set}: accuracy", HIGHER),
    Rule("imputation", r"imputation/(?P<v>original)/accuracy", "originals: accuracy", HIGHER),
    Rule("downstream", r"downstream/(?P<set>.+/)?(?P<v>codes|draws)/(?P<c>\d+)/accuracy",
         "{set}{c} labels a class: accuracy", HIGHER),
    Rule("amortisation", rf"amortisation/{UNDER}inference_gap", "inference gap", LOWER, alike=WEIGHTED),
    Rule("amortisation", r"amortisation/log_likelihood", "log p(x)", HIGHER, alike=WEIGHTED),
    Rule("clustering", r"clustering/(?P<v>geodesic|euclidean)/(?P<c>accuracy|adjusted_rand|mutual_information)",
         "{c}", HIGHER),
    Rule("geodesics", r"geodesics/converged", "share converged", HIGHER),
    Rule("geodesics", r"geodesics/(?P<c>length_ratio|energy_ratio)", "{c}", across=False),
    Rule("latent_grid", r"latent_grid/distance_spearman", "rank correlation of std and distance", HIGHER),
    Rule("cost", r"time/(?P<c>\w+)_s", "{c}, s", across=False),
    Rule("cost", r"train/num_weights", "weights", across=False),
)  # fmt: skip

#: what ends the columns whose figures are shares, on one scale for all data
SHARES = ("AUROC", "FPR at 95 %", "accuracy", "precision", "recall", "coverage", "normalised area")
#: variants that are the model itself
ITSELF = {"model", "samples", "geodesic", "codes"}
BASELINES = {"gaussian", "mixture", "kernel", "majority", "linear", "knn", "linear_mixture", "random",
             "euclidean", "given"}  # fmt: skip
REFERENCES = {"floor", "raw_prior", "training_codes", "oracle", "original", "_sampling", "reconstructions"}
#: what the keys of detectors that stand beside the model's scores begin with
DETECTOR = "baseline_"

#: task -> what the names of its pictures begin with
PICTURES: dict[str, tuple[str, ...]] = {
    "reconstruction": ("reconstructions", "residual_map"),
    "generation": ("samples", "interpolations", "latent_map", "latent_grid", "frechet", "nearest_train"),
    "geodesics": ("geodesics", "magnification", "gp_correlation"),
    "latent_grid": ("latent_uncertainty",),
    "cost": (),
}
#: task -> what a model must offer of `models.capabilities` for it, one of these
NEEDS: dict[str, tuple[str, ...]] = {
    "likelihood": ("elbo", "likelihood"), "amortisation": ("elbo",), "calibration": ("predictive",),
    "rejection": ("predictive",), "density": ("prior",),
}  # fmt: skip


@functools.cache
def figure(key: str) -> Optional[Figure]:
    """Returns what a key of metrics.json stands for, None for one of no known figure of merit.

    Examples:
      >>> found = figure("ood/mnist/baseline_knn_codes/auroc")
      >>> found.task, found.column, found.variant, found.role, found.better
      ('ood', 'mnist: AUROC', 'knn_codes', 'baseline', 'higher')
    """
    name, _, mark = key.partition("@")
    for rule in RULES:
        found = re.fullmatch(rule.pattern, name)
        if found:
            return _made(rule, found.groupdict(), mark)
    return None


def _made(rule: Rule, words: dict[str, Optional[str]], mark: str) -> Figure:
    variant, other = words.get("v") or "", words.get("set") or ""
    column = rule.column.format(set=other, c=(words.get("c") or "").replace("_", " "))
    role = MODEL
    if variant.startswith(DETECTOR) and rule.task == "ood":
        variant, role = variant.removeprefix(DETECTOR), BASELINE
    elif rule.task != "ood":
        role = BASELINE if variant in BASELINES else REFERENCE if variant in REFERENCES else MODEL
        variant = "" if variant in ITSELF else variant.strip("_")
    if mark and rule.task == "restoration":  # names the corruption; elsewhere what was done to the model
        column = f"{mark}: {column}"
    elif mark:
        variant = f"{variant} @{mark}".strip()
    part = f"{rule.task}_{other}" if rule.task in ("ood", "imputation") and other else ""
    return Figure(rule.task, column, variant, role, rule.better, rule.across, rule.alike, part)


def order(task: str) -> int:
    """Returns where the table of a task stands among the others."""
    names = list(dict.fromkeys(rule.task for rule in RULES))
    return names.index(task)


def is_share(column: str) -> bool:
    """Whether the figures of a column are shares, so that their mean over data sets says something."""
    return column.endswith(SHARES)


def words(better: str) -> str:
    """Returns which way a figure is better, in words."""
    named = {HIGHER: "higher is better", LOWER: "lower is better", NEITHER: ""}
    return named[better] if better in named else f"{better} is ideal"


def pictures(task: str, names: Sequence[str], part: str = "") -> list[str]:
    """Returns those of the `names` of pictures, without endings, that a task has drawn; of `part` alone where given."""
    heads = (part,) if part else PICTURES.get(task, (task,))
    return [name for name in names if any(name == head or name.startswith((f"{head}_", f"{head}@")) for head in heads)]
