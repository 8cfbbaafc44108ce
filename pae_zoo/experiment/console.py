"""What a launcher prints at its end: metrics as lines, scores of the task ood as a table, pictures."""

import shlex
import statistics
from typing import Any, Iterable, Sequence, Union

# figure of merit -> its heading in the table
LEAVES = {"auroc": "auroc", "auroc_stderr": "+-", "auprc": "auprc", "fpr95": "fpr95", "fpr80": "fpr80"}
# More of them, which only metrics.json has: the table would be too wide.
UNPRINTED = ("auprc_in", "_low", "_high", "mean_in", "mean_out", *(f"fpr{percent}" for percent in range(0, 80, 10)),
             "fpr90")


def lines(metrics: dict[str, Union[float, str]]) -> list[str]:
    """Returns metrics as text: `ood/<set>/<score>/<leaf>` in one table, everything else a line each.

    The bounds of intervals and `auprc_in` are left out.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    found = []
    for key, value in metrics.items():
        name, mark, refined = key.partition("@")  # of codes that --refine changed
        parts = name.split("/")
        if len(parts) == 4 and parts[0] == "ood" and parts[3] in LEAVES:
            rows.setdefault((parts[1], f"{parts[2]}{mark}{refined}"), {})[parts[3]] = value
        elif len(parts) == 4 and parts[0] == "ood" and parts[3].endswith(UNPRINTED):
            continue
        else:
            found.append(f"  {key:42} {number(value)}")
    if rows:
        headings = "".join(f"{heading:>9}" for heading in LEAVES.values())
        found.append(f"  {'out-of-distribution set':26} {'score':27}{headings}")
        for (name, score), values in rows.items():
            found.append(f"  {name:26} {score:27}" + "".join(f"{_share(values.get(leaf)):>9}" for leaf in LEAVES))
    return found


def over_runs(runs: Sequence[dict[str, Union[float, str]]]) -> dict[str, str]:
    """Returns 'mean +- standard deviation' (n - 1) over runs of each number that all of their metrics hold."""
    shared = [key for key in runs[0] if all(isinstance(run.get(key), (int, float)) for run in runs)]
    found = {}
    for key in shared:
        values = [float(run[key]) for run in runs]
        found[key] = f"{number(statistics.fmean(values))} +- {statistics.stdev(values):.2g}"
    return found


def number(value: Union[float, str, None]) -> str:
    """Returns a number in five digits, a word as it is, '-' for nothing."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.5g}"


def _share(value: Union[float, str, None]) -> str:
    """Returns a number between 0 and 1 in four decimals, so that columns line up."""
    return f"{value:.4f}" if isinstance(value, (int, float)) else number(value)


def pictures(paths: Iterable) -> list[str]:
    """Returns one line per picture."""
    return [f"  picture: {path}" for path in sorted(map(str, paths))]


def flag(name: str, value: object) -> str:
    """Returns --name=value as a shell takes it."""
    return f"--{name}={shlex.quote(str(value))}"
