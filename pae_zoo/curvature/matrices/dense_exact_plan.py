"""How derivatives travel through a line of dense layers with the fewest operations."""

import functools
import math
from typing import NamedTuple, Sequence

import tensorflow as tf

from pae_zoo.curvature.matrices import dense_exact_pairs as pairs

# Operations of batched products of small matrices, and of Cholesky factors, in units of those of one large product:
# XLA's factor goes column by column.
BATCHED, FACTOR = 3.0, 100.0
# Operations of products of pairs, which stay near the processor, and what each value of a pair costs to put together.
PAIRED, PAIR = 0.55, 15.0
TRIANGULAR, PLAIN, COLUMNS = "triangular", "plain", "columns"
# A symmetric or triangular matrix is cut into so many strips of rows, of which one half is never multiplied. More
# strips take fewer operations, and more time: their products are smaller and their parts are copied.
STRIPS = 4


class Plan(NamedTuple):
    """One way to compute the diagonals.

    Args:
      start: "triangular" or "plain": rows of a Cholesky factor of the last layer's Gram matrix, or of the last layer's
        kernel, go down; "columns": derivatives by the values of each of `levels` go up to the last hidden layer.
      levels: the levels of "columns", from the top; the last is the first of `stops`, or the lowest one.
      stops: levels where the matrix is formed and its root taken, of as many rows as the level has values.
      operations: floating-point operations of a batch.
      is_paired: whether the diagonal of the level below the last hidden layer comes from products of pairs
        (`dense_exact_pairs`); it is none of `levels` then.
    """

    start: str
    levels: tuple[int, ...]
    stops: tuple[int, ...]
    operations: float
    is_paired: bool = False


def choose(widths: Sequence[int], needed: Sequence[int], batch: int, is_shared: bool) -> Plan:
    """Returns the plan with the fewest operations.

    Args:
      widths: values of each level, between the dense layers; the last are the network's outputs.
      needed: the levels below the last two whose diagonal is wanted.
      batch: number of data.
      is_shared: whether the last layer's Gram matrix is the same for all data.
    """
    top, lowest = len(widths) - 2, min(needed)
    inner, outer = widths[top], widths[-1]
    gram = _share(STRIPS) * 2 * outer * inner**2 if is_shared else 0.0

    @functools.cache
    def down(level: int, rows: int) -> tuple[float, tuple[int, ...]]:
        """Operations of a datum, and stops, from `rows` rows at a level to the lowest."""
        if level == lowest:
            return 0.0, ()
        width = widths[level]
        cost, stops = down(level - 1, rows)
        best = cost + 2.0 * rows * width * widths[level - 1], stops
        if rows > width:
            cost, stops = down(level, width)
            best = min(best, (cost + BATCHED * 2 * rows * width**2 + FACTOR * width**3 / 3, (level, *stops)))
        return best

    def by_rows(start: str, rows: int, share: float, shared: float) -> Plan:
        cost, stops = down(top - 1, rows)
        return Plan(start, (), stops, shared + batch * (cost + share * 2.0 * rows * inner * widths[top - 1]))

    def up(level: int) -> float:
        """Operations of a datum from one level to the squares of its derivatives."""
        path = widths[level + 1 : top + 1]
        last = _share(num_strips(inner)) * inner if is_shared else outer
        return 2.0 * widths[level] * (sum(one * other for one, other in zip(path, path[1:])) + inner * last)

    def by_columns(end: int) -> Plan:
        levels = tuple(sorted({end, *(level for level in needed if level > end)}, reverse=True))
        stops, width, is_paired = (), widths[end], False
        if top - 1 in levels and (end < top - 1 or end == lowest):
            is_paired = paired < batch * up(top - 1)
        if is_paired:
            levels = tuple(level for level in levels if level != top - 1)
        cost = sum(map(up, levels))
        if end > lowest:
            more, stops = down(end, width)
            cost += more + BATCHED * 2 * width**2 * (inner if is_shared else outer) + FACTOR * width**3 / 3
            stops = (end, *stops)
        return Plan(COLUMNS, levels, stops, gram + batch * cost + is_paired * paired, is_paired)

    paired = pair_operations(batch, widths[top - 1], inner) if is_shared and top else math.inf
    plans = [by_rows(PLAIN, outer, 1.0, 0.0), *map(by_columns, range(lowest, top))]
    if is_shared:
        plans.append(by_rows(TRIANGULAR, inner, _share(num_strips(inner)), gram + FACTOR * inner**3 / 3))
    return min(plans, key=lambda plan: plan.operations)


def pair_operations(batch: int, units: int, values: int) -> float:
    """Returns the operations of `dense_exact_pairs.forms`, infinite on a GPU: its loop is many small products."""
    if tf.config.list_logical_devices("GPU"):
        return math.inf
    return pairs.num_pairs(values) * (PAIRED * 2 * batch * units + PAIR * (batch + units))


def num_strips(width: int) -> int:
    """Returns the number of strips of a symmetric or triangular matrix."""
    return max(1, min(STRIPS, width // 16))


def strips(width: int) -> list[tuple[int, int]]:
    """Returns where the strips start and stop."""
    size = -(-width // num_strips(width))
    return [(start, min(start + size, width)) for start in range(0, width, size)]


def _share(num: int) -> float:
    """Returns the part of a square that strips cover from its diagonal on."""
    return (num + 1) / (2 * num)
