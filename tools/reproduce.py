"""Repeats a figure or table of the papers: tools/reproduce.py ITEM [--cpu] --data_dir=DATA.

Without ITEM it says what there is. It trains what is missing, evaluates it, and prints what was published beside what
was found. Without --cpu the published networks and lengths are trained: hours to days, on a GPU. Runs stay in
--workdir; the same command goes on from what is there.
"""

import sys
from pathlib import Path
from typing import Any

from command import Parser, path, positive, told, use_package


def main(argv: list[str]) -> int:
    parser = Parser(prog="reproduce.py", description=__doc__)
    parser.add_argument("items", nargs="*", metavar="ITEM", help="one or more of those listed without any, or all")
    parser.add_argument("--cpu", action="store_true", help="the twins for two CPU cores in place of the published runs")
    parser.add_argument("--data_dir", type=path, default="", help="folder that holds data sets as files")
    parser.add_argument("--workdir", type=path, default="runs/reproduce",
                        help="folder of the runs (default: %(default)s)")
    parser.add_argument("--seeds", type=positive, default=1,
                        help="least number of seeds (default: 1; items that compare retrainings have their own)")
    parser.add_argument("--dry_run", action="store_true", help="print the commands, and run none")
    parser.add_argument("--write", action="store_true",
                        help="keep what --cpu found for docs/reproduce.md, and write that page")
    args = parser.parse_args(argv)
    use_package()
    from reproductions import ITEMS, _page, _runs
    from reproductions._items import CPU, PUBLISHED

    kind = CPU if args.cpu else PUBLISHED
    unknown = [name for name in args.items if name not in (*ITEMS, "all")]
    if unknown:
        parser.error(f"ITEM: allowed: all, {', '.join(ITEMS)}; received {', '.join(unknown)}")
    if not args.items and not args.write:
        width = max(map(len, ITEMS))
        for name, item in ITEMS.items():
            print(f"{name:{width}}  {item.title}{f' (needs {item.needs})' if item.needs else ''}")
        return 0
    names = list(ITEMS) if "all" in args.items else list(dict.fromkeys(args.items))
    # The commands run in the folder of the project, wherever this one was called.
    work, data_dir, found = Path(args.workdir).resolve(), args.data_dir and str(Path(args.data_dir).resolve()), {}
    for name in names:
        item = ITEMS[name]
        if args.dry_run:
            print(*_runs.steps(item, kind, work, args.seeds, data_dir), sep="\n")
            continue
        try:
            found[name] = _runs.reproduce(item, kind, work, args.seeds, data_dir)
        except _runs.Failed as error:
            print(f"reproduce.py: {name}: {error}", file=sys.stderr)
            return 1
        _show(name, item, found[name])
        if args.write:
            _page.write({name: found[name]})
    if args.write and not names:
        _page.write({})
    return 0


def _show(name: str, item: Any, record: dict[str, Any]) -> None:
    rows = [("", "published", "ours"), *((row["what"], row["published"] or "-", row["ours"]) for row in record["rows"])]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    print(f"\n{name}: {item.title}\n{item.source}\n")
    for row in rows:
        print("  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths)).rstrip())
    print(f"\n  wall time of all runs: {record['seconds']} s, {record['seeds']} seed(s)")
    print(*(f"  picture: {picture}" for picture in record["pictures"]), sep="\n")
    print(f"  {item.differs}", flush=True)


if __name__ == "__main__":
    sys.exit(told(main)(sys.argv[1:]))
