"""An item: the runs behind a published figure or table, what is read off them, and what was published."""

import dataclasses
from pathlib import Path
from typing import Callable, Optional

#: Kinds of a run: the published setting, and its twin for two CPU cores.
PUBLISHED, CPU = "published", "cpu"


@dataclasses.dataclass(frozen=True)
class Run:
    """A training and what is evaluated after it.

    Args:
      name: how rows call it.
      published, cpu: the setting below configs/, without its ending; "" where there is none.
      evaluations: flags of `pae_zoo.evaluate`, one string for each call; {ood} becomes the item's other data.
      retrainings: seeds 0, 1, ... of the published experiment, and of its twin; both grow with --seeds.
    """

    name: str
    published: str
    cpu: str
    evaluations: tuple[str, ...] = ()
    retrainings: tuple[int, int] = (1, 1)

    def config(self, kind: str) -> str:
        return self.published if kind == PUBLISHED else self.cpu

    def seeds(self, kind: str, least: int) -> range:
        return range(max(least, self.retrainings[kind == CPU]))


@dataclasses.dataclass(frozen=True)
class Row:
    """A number: what it is, what was published ("" where nothing was), and where ours is.

    Args:
      what: its name in the table.
      published: the published value as it was printed.
      run: the run that has it; "" for one over all runs of the item.
      key: of metrics.json, "" where the model here has no such number; of a row over all runs "FILE.csv: first=A,
        second=B: column", see `_runs.over_runs`.
      digits: decimals that are shown.
    """

    what: str
    published: str
    run: str
    key: str
    digits: int = 3


@dataclasses.dataclass(frozen=True)
class Item:
    """A figure or table of a paper.

    Args:
      name: of the command.
      title: what it shows.
      source: the paper, and where its values are from.
      runs, rows: see there.
      pictures: paths in the folder of a run, "RUN: figures/samples", without their ending.
      differs: a sentence: where ours differs from what was published, and why.
      other: the other data of the published experiment, and of its twin, for {ood}.
      compare: flags of one `pae_zoo.evaluate` over all runs together; {out} is a folder of the item.
      draw: makes a picture of {run name: folders}, where no run has it, and returns its path.
      needs: what must be had for it besides Fashion-MNIST and MNIST.
    """

    name: str
    title: str
    source: str
    runs: tuple[Run, ...]
    rows: tuple[Row, ...]
    pictures: tuple[str, ...] = ()
    differs: str = ""
    other: tuple[str, str] = ("", "")
    compare: str = ""
    draw: Optional[Callable[[dict[str, list[Path]], Path], Path]] = None
    needs: str = ""

    def ood(self, kind: str) -> str:
        return self.other[kind == CPU]
