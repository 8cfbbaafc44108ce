"""Counts the operations of the matrix products in a program that XLA compiled, loops included.

TensorFlow offers no way to XLA's own cost analysis from Python, so the optimised program's text is read: a product
counts 2 x (elements of the result) x (size of the contracted dimensions), as in that analysis, times the trip counts
that XLA found for the loops around it. XLA writes Cholesky factors and triangular solves out as loops of
products of its own, of which most multiply zeros; they are counted apart.
"""

import dataclasses
import math
import re
from typing import Callable

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*-> .*\{$")
_INSTRUCTION = re.compile(r"^  (?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_FACTORS = re.compile(r'operand_precision=\{highest|op_(?:name|type)="[^"]*(?:Cholesky|TriangularSolve)"')


@dataclasses.dataclass(frozen=True)
class Operations:
    """Floating-point operations of a program's matrix products.

    Args:
      products: of the products that the program asks for.
      factors: of the products in XLA's own loops for factorisations and solves.
      open_loops: loops whose trip count depends on data; their bodies are counted once.
    """

    products: int = 0
    factors: int = 0
    open_loops: int = 0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

    def times(self, trips: int) -> "Operations":
        return Operations(self.products * trips, self.factors * trips, self.open_loops)


def count(function: Callable, *args) -> Operations:
    """Returns the operations of one call of `function`, a Python function of tensors, compiled by XLA."""
    import tensorflow as tf

    compiled = tf.function(function, jit_compile=True, autograph=False)
    return read(compiled.experimental_get_compiler_ir(*args)(stage="optimized_hlo"))


def read(text: str) -> Operations:
    """Returns the operations of an optimised HLO program; of the branches of a conditional the cheapest counts,
    since the others are repairs of what went wrong.

    Raises ValueError for operations it does not know to count: convolutions and calls of libraries.
    """
    computations, entry = _computations(text)
    known: dict[str, Operations] = {}

    def total(name: str) -> Operations:
        if name not in known:
            shapes = {line[0]: line[1] for line in computations[name]}
            known[name] = sum((_one(line, shapes, total) for line in computations[name]), Operations())
        return known[name]

    return total(entry)


def _computations(text: str) -> tuple[dict[str, list[tuple[str, ...]]], str]:
    """Returns {computation: [(name, type, operation, rest of the line)]} and the entry's name."""
    found: dict[str, list[tuple[str, ...]]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            name = head.group(2)
            found[name] = []
            entry = name if head.group(1) else entry
        elif name and (match := _INSTRUCTION.match(line)):
            found[name].append(match.groups())
    if not entry:
        raise ValueError("the text is no HLO program: it has no ENTRY")
    return found, entry


def _one(line: tuple[str, ...], shapes: dict[str, str], total: Callable[[str], Operations]) -> Operations:
    name, kind, operation, rest = line
    if operation == "dot":
        left = _dimensions(shapes[_operand(rest)])
        contracted = [left[int(i)] for i in _numbers("lhs_contracting_dims", rest)]
        flops = 2 * math.prod(_dimensions(kind)) * math.prod(contracted)
        return Operations(factors=flops) if _FACTORS.search(rest) else Operations(products=flops)
    if operation == "convolution" or (operation == "custom-call" and re.search("matmul|gemm|conv", rest, re.I)):
        raise ValueError(f"the counter knows no {operation} such as {name}; only products (dot) are counted")
    if operation == "conditional":
        branches = _CALLED.findall(rest) + [
            word.strip().lstrip("%") for group in _BRANCHES.findall(rest) for word in group.split(",")
        ]
        return min((total(branch) for branch in branches), key=dataclasses.astuple)
    inside = sum((total(called) for called in _CALLED.findall(rest)), Operations())
    if operation != "while":
        return inside
    trips = _TRIPS.search(rest)
    return inside.times(int(trips.group(1))) if trips else inside + Operations(open_loops=1)


def _operand(rest: str) -> str:
    """Returns the name of the first operand: with or without its type before it."""
    return re.search(r"%([\w.\-]+)", rest).group(1)


def _numbers(key: str, rest: str) -> list[str]:
    found = re.search(rf"\b{key}=\{{([\d,]*)\}}", rest)
    return [word for word in found.group(1).split(",") if word] if found else []


def _dimensions(kind: str) -> list[int]:
    return [int(word) for word in re.search(r"\[([\d,]*)\]", kind).group(1).split(",") if word]
