"""Puts finished runs of pae that differ in their density and seed into tables, with mean ranks.

    python tools/rank_densities.py 'runs/pae_*'

Runs are trained with --tasks=generation,ood, most often from one autoencoder a seed (--init_workdir). Runs of the same
data set and number of latents make a table: -log p of validation codes in nats, FD-R (Frechet distance of samples to
reconstructions), C2ST (AUC of a classifier that tells samples from codes, 0.5 is ideal), AUROC of `latent_density`
against each other data set, and seconds of the fit; means over seeds, standard deviations in brackets. A rank is that
of a density among those of its table and seed, in -log p, FD-R, |C2ST - 0.5| and mean AUROC; the last table has their
means over tables and seeds.
"""

import argparse
import glob
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

#: column: (key of metrics.json, digits)
NUMBERS = {"-log p": ("nll", 2), "FD-R": ("generation/frechet_r/samples", 2), "C2ST": ("generation/c2st", 3),
           "AUROC": ("auroc", 3), "fit, s": ("time/flow_s", 0)}
#: what is ranked: value of a run, the least being best
RANKED = {"-log p": lambda run: run["-log p"], "FD-R": lambda run: run["FD-R"],
          "C2ST": lambda run: abs(run["C2ST"] - 0.5), "AUROC": lambda run: -run["AUROC"]}  # fmt: skip
# -log p of the whole, and of the mixture that a flow starts from, the best of which is kept.
NLL = ("flow/valid_nll", "flow/mixture_nll")


def read(workdir: Path) -> dict[str, Any]:
    """Returns what a table shows of a run; raises ValueError for one that lacks it."""
    config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))["hparams"]
    metrics = json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))
    areas = {key.split("/")[1]: value for key, value in metrics.items()
             if key.startswith("ood/") and key.endswith("/latent_density/auroc")}
    steps = [json.loads(line) for line in (workdir / "metrics_flow.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["valid/nll"] for line in steps if "valid/nll" in line]
    values = {**metrics, "nll": min([*losses, *(metrics[key] for key in NLL if key in metrics)], default=None),
              "auroc": statistics.mean(areas.values()) if areas else None}
    found = {name: values.get(key) for name, (key, _) in NUMBERS.items()}
    if found["-log p"] is None or found["C2ST"] is None:
        raise ValueError(f"{workdir} has no density of codes with --tasks=generation; train one with --model=pae.")
    return {**found, "table": f"{config['dataset']}, K = {config['latent_dim']}", "density": config["density"],
            "seed": config["seed"], "areas": areas}


def ranks(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Returns {density: {number: ranks}} over tables and seeds in which all densities were run."""
    groups = defaultdict(list)
    for run in runs:
        groups[run["table"], run["seed"]].append(run)
    whole = max(len(group) for group in groups.values())
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for group in groups.values():
        for name, value in RANKED.items():
            shown = [run for run in group if run[name] is not None]
            if len(shown) < whole:
                continue
            for run in shown:
                better = sum(value(other) < value(run) for other in shown)
                equal = sum(value(other) == value(run) for other in shown)
                found[run["density"]][name].append(better + (equal + 1) / 2)
    return found


def _cell(values: list[Any], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ({statistics.pstdev(known):.{digits}f})" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{spread}"


def tables(runs: list[dict[str, Any]]) -> str:
    """Returns the tables of runs, in markdown."""
    lines = []
    for table in sorted({run["table"] for run in runs}):
        of_table = [run for run in runs if run["table"] == table]
        sets = sorted({name for run in of_table for name in run["areas"]})
        lines += ["", f"| {table} | seeds | {' | '.join([*list(NUMBERS)[:3], *sets, 'fit, s'])} |",
                  "|" + "---|" * (len(sets) + 6)]
        for density in dict.fromkeys(run["density"] for run in of_table):
            same = [run for run in of_table if run["density"] == density]
            cells = [_cell([run[name] for run in same], NUMBERS[name][1]) for name in list(NUMBERS)[:3]]
            cells += [_cell([run["areas"].get(name) for run in same], 3) for name in sets]
            cells.append(_cell([run["fit, s"] for run in same], 0))
            lines.append(f"| {density} | {len(same)} | {' | '.join(cells)} |")
    found = ranks(runs)
    lines += ["", f"| mean rank | {' | '.join(RANKED)} | of all | tables and seeds |", "|" + "---|" * (len(RANKED) + 3)]
    for density in sorted(found, key=lambda one: statistics.mean(sum(found[one].values(), []))):
        of_density = found[density]
        lines.append(f"| {density} | {' | '.join(_cell([statistics.mean(of_density[name])], 2) for name in RANKED)} | "
                     f"{statistics.mean(sum(of_density.values(), [])):.2f} | {len(of_density['-log p'])} |")
    return "\n".join(lines[1:])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", nargs="+", help="work directories, or patterns of them")
    patterns = parser.parse_args(argv).workdirs
    paths = [Path(path) for path in dict.fromkeys(path for one in patterns for path in sorted(glob.glob(one)))]
    paths = [path for path in paths if (path / "metrics.json").exists()]
    if not paths:
        parser.exit(2, f"rank_densities: error: {' '.join(patterns)} holds no finished run.\n")
    try:
        print(tables([read(path) for path in paths]))
    except ValueError as error:
        parser.exit(2, f"rank_densities: error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
