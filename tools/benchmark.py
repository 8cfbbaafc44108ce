"""Runs one benchmark of this repository: python tools/benchmark.py train [--json FILE] [its own flags]."""

import sys

import benchmarks
from command import Parser, told, use_package


@told
def main(argv: list[str]) -> int:
    use_package()
    parser = Parser(prog="benchmark", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME", parser_class=Parser)
    modules = benchmarks.find()
    for name, module in modules.items():
        summary = module.__doc__.strip().splitlines()[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        command.add_argument(
            "--json", default="", metavar="FILE", help="also write {case: {metric: value}} here"
        )
        module.add_arguments(command)
    args = parser.parse_args(argv)
    cases = modules[args.name].run(args)
    if args.json:
        benchmarks.write_json(args.json, cases)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
