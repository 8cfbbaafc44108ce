"""Finished runs side by side, a page and tables: python -m pae_zoo.leaderboard --workdirs='runs/*' --output=DIR."""

import dataclasses
import sys
from pathlib import Path

from pae_zoo.core import files, records
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch
from pae_zoo.experiment.workdir import Run, workdirs
from pae_zoo.reporting import board, board_page, overall, tables

MORE = """Every model and every figure of every task that the runs have in their metrics.json, a table for each data set
and task. Runs that differ in nothing but the seed are one row: mean and sample standard deviation. It computes nothing
anew. It writes leaderboard.md, leaderboard.csv and leaderboard.html, which holds its pictures and maps of codes."""


@dataclasses.dataclass(frozen=True)
class Flags(records.PluginFlags):
    """Flags of the leaderboard."""

    workdir: str = hp.option("", "Work directory of a finished run.", path=True)
    workdirs: tuple[str, ...] = hp.option((), "Several work directories, or patterns such as 'runs/*'.", path=True)
    output: str = hp.option("", "Folder of the three files; those that are there are replaced.", path=True)
    verbosity: int = hp.option(0, "1 shows TensorFlow's own messages.", low=-1, high=2)


def main(argv: list[str]) -> int:
    argv = launch.begin(argv)
    if launch.wants_help(argv):
        print(f"{__doc__}\n\n{MORE}\n\n{hp.help_text(Flags)}\n")
        return 0
    options, _ = launch.parse(Flags, argv)
    if not options.output:
        raise UserError("--output is needed: the folder for leaderboard.md, leaderboard.csv and leaderboard.html.")
    paths = workdirs(options)
    files.check_place(options.output, "output")
    found, lines = board.read(paths)
    made, more = board.boards(found)
    summary = overall.over(made)
    print(*lines, *more, sep="\n", end="\n" if lines or more else "")
    folder = Run(options.output)
    shown = [summary, *made] if summary else made
    folder.write_text("leaderboard.csv", tables.csv(shown))
    folder.write_text("leaderboard.md", tables.markdown(shown))
    path = folder.write_text("leaderboard.html", board_page.page(shown))
    for one in made:
        runs = sum(len(group.runs) for group in one.groups)
        print(f"{one.data}: {len(one.groups)} models, {runs} runs, {len(one.tables)} tables")
    print(f"{Path(options.output)}: leaderboard.md, leaderboard.csv, leaderboard.html "
          f"({path.stat().st_size / 2**20:.2f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(launch.run(main, sys.argv[1:]))
