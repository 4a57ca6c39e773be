"""NAS-Bench-201's topology space: a cell of 4 nodes, 6 edges, 5 operations on each.

Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020. The network
is a stem, three stages of `depth` cells of C, 2C and 4C channels with a residual block of stride 2 between them, and
a head; the paper has C = 16 and 5 cells a stage. Batch norms are affine, as in the networks the paper trained.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput, suggest
from nas.relaxation import plain_relaxation
from nas.space import Decision, Macro, SearchSpace, all_rows
from search_spaces.ops import classifier, conv_bn, relu_conv_bn

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # the order of the paper's architecture string


def nasbench201(width: int = 16, depth: int = 5) -> SearchSpace:
    """15,625 cells; `width` and `depth` are those of the macro searched at (the paper's by default).

    They are no part of the space: a configuration records the macro beside it.
    """
    return SearchSpace(
        name="nasbench201",
        decisions=tuple(Decision(f"edge_{a}_{b}", OPERATIONS) for a, b in EDGES),
        network=network,
        macro=Macro(width=width, depth=depth, input=(32, 32, 3), classes=10),
        key_of=lambda row: jnp.asarray(_canonical())[_index(row)],
        readers=tuple(tuple(i for i, (source, _) in enumerate(EDGES) if source == b) for _, b in EDGES),
        relaxation_of=lambda space: plain_relaxation(space)._replace(nodes=tuple(f"node_{b}" for _, b in EDGES)),
    )


def network(net, macro: Macro):
    """The whole network; every cell takes the same six choices."""
    with net.block("stem"):
        x = net.batch_norm(net.conv(net.input, macro.width, 3))
    place = 0
    for stage in range(3):
        channels = macro.width * 2**stage
        if stage:
            with net.block("residual", f"cells.{place}"):
                x = residual(net, x, channels)
            place += 1
        for _ in range(macro.depth):
            with net.scope(f"cells.{place}"):
                x = cell(net, x, lambda source, target, x: chosen_operation(net, x, source, target))
            place += 1
    with net.block("last"):
        x = net.activation(net.batch_norm(x))
    return classifier(net, x, macro.classes)


def cell(net, x: Any, edge: Callable[[int, int, Any], Any]) -> Any:
    """Node j is the sum over i < j of ``edge(i, j, node i)``; the last node is the cell's output."""
    nodes = [x]
    for target in (1, 2, 3):
        nodes.append(net.add([edge(i, target, nodes[i]) for i in range(target)], name=f"node_{target}"))
    return nodes[-1]


def chosen_operation(net, x: Any, source: int, target: int) -> Any:
    """The operation that the row takes on one edge."""
    branches = {op: lambda x, op=op: operation(net, x, op, net.shape(x)[-1]) for op in OPERATIONS}
    return net.choice(f"edge_{source}_{target}", branches, x)


def operation(net, x: Any, op: str, channels: Any, widens: Any = False) -> Any:
    """One operation that gives `channels`; `widens` says whether they differ from those of `x` (see ``net.when``).

    Where they differ, skip is a 1x1 convolution with batch norm and the pool has a 1x1 ReLU-Conv-BN in front, as in
    NATS-Bench. A cell of NAS-Bench-201 itself never widens.
    """
    with net.block(op, "op"):
        match op:
            case "none":
                return net.zeros((*net.shape(x)[:2], channels))
            case "skip_connect":
                return net.when(widens, lambda: conv_bn(net, x, channels), x, name="widen")
            case "nor_conv_1x1":
                return relu_conv_bn(net, x, channels, 1)
            case "nor_conv_3x3":
                return relu_conv_bn(net, x, channels, 3)
            case _:
                return net.avg_pool(net.when(widens, lambda: relu_conv_bn(net, x, channels), x, name="widen"))


def residual(net, x: Any, channels: Any) -> Any:
    """The paper's basic block of stride 2: two 3x3 ReLU-Conv-BN beside a mean pool and a 1x1 convolution."""
    with net.scope("a"):
        main = relu_conv_bn(net, x, channels, 3, stride=2)
    with net.scope("b"):
        main = relu_conv_bn(net, main, channels, 3)
    return net.add([main, net.conv(net.avg_pool(x, 2, stride=2), channels, 1)])


# ---- the paper's string ------------------------------------------------------------------------------------------
def to_string(row) -> str:
    """``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``, as in the paper's tables."""
    names = [OPERATIONS[int(i)] for i in row]
    parts, at = [], 0
    for target in (1, 2, 3):
        parts.append("|" + "|".join(f"{names[at + a]}~{a}" for a in range(target)) + "|")
        at += target
    return "+".join(parts)


def from_string(text: str) -> np.ndarray:
    """A row int32[6] from the paper's string; parsed, never evaluated.

    Raises:
        BadInput: not such a string, with the place that is wrong.
    """
    form = "'|op~0|+|op~0|op~1|+|op~0|op~1|op~2|'"
    groups = text.strip().split("+")
    if len(groups) != 3:
        raise BadInput(f"NAS-Bench-201 string has {len(groups)} nodes joined by '+', not 3; it looks like {form}")
    row = []
    for target, group in enumerate(groups, 1):
        edges = group.strip().strip("|").split("|")
        if len(edges) != target:
            raise BadInput(f"NAS-Bench-201 string: node {target} has {len(edges)} edges, not {target}; form: {form}")
        for source, edge in enumerate(edges):
            op, _, where = edge.partition("~")
            if op not in OPERATIONS:
                raise BadInput(f"NAS-Bench-201 string: no operation '{op}'; {suggest(op, OPERATIONS)}")
            if where != str(source):
                raise BadInput(f"NAS-Bench-201 string: '{edge}' of node {target} must come from node {source}")
            row.append(OPERATIONS.index(op))
    return np.asarray(row, np.int32)


# ---- equivalence -------------------------------------------------------------------------------------------------
def structure(row, *, zeros: str = "vanish") -> str:
    """A name that two rows share when their cells compute the same function of the input.

    Skips pass their source on, an operation on nothing gives nothing, and the terms of a sum have no order.

    Args:
        row: int32[6].
        zeros: ``vanish`` drops them from sums and dissolves a sum passed on into the sum it joins: 4,930 classes.
            ``stay`` keeps them as terms and a sum passed on as one term, which is the paper's notion: 6,466 "unique
            topologies". ``opaque`` takes ``none`` for an operation like any other: 12,751. (Which nested sums these two
            tell apart hangs on the sorting of the names, so the names are AutoDL-Projects' too.)
    """
    nodes: list[tuple[str, ...]] = [("0",)]  # a node is the sorted terms of its sum
    for target in (1, 2, 3):
        terms: list[str] = []
        for (a, b), index in zip(EDGES, row, strict=True):
            if b == target:
                terms += _terms(nodes[a], OPERATIONS[index], zeros)
        nodes.append(tuple(sorted(terms)))
    return "+".join(nodes[-1])


def _terms(source: tuple[str, ...], op: str, zeros: str) -> tuple[str, ...]:
    if zeros != "opaque" and (op == "none" or source in ((), ("#",))):
        return () if zeros == "vanish" else ("#",)
    if op == "skip_connect":
        return source if zeros == "vanish" else ("+".join(source),)
    return (f"({'+'.join(source)})@{op}",)


@functools.cache
def _canonical() -> np.ndarray:
    """int32[15625, 6]: for each row, in lexicographic order, the first row of its class."""
    first: dict[str, np.ndarray] = {}
    rows = all_rows(nasbench201())
    return np.stack([first.setdefault(structure(row), row) for row in rows])


def _index(row):
    return (jnp.asarray(row) * jnp.asarray([5**k for k in range(5, -1, -1)])).sum(-1)
