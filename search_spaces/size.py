"""NATS-Bench's size space: one cell everywhere, the widths of its five layers chosen.

Dong, Liu, Musial and Gabrys, "NATS-Bench: Benchmarking NAS Algorithms for Architecture Topology and Size", TPAMI 2021.
The network is NAS-Bench-201's with one cell a stage: a stem of c0 channels, cell (c0 to c0), residual block (to c1),
cell (to c2), residual block (to c3), cell (to c4), head; so a cell's edges from its input may change the width.
"""

import functools
import operator
from typing import Any

from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace
from search_spaces.nasbench201 import EDGES, OPERATIONS, cell, from_string, operation, residual
from search_spaces.ops import classifier

# the best cell of the topology space on CIFAR-100, which the paper fixes
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
WIDTHS = (8, 16, 24, 32, 40, 48, 56, 64)
LAYERS = 5  # cell, residual, cell, residual, cell


def nats_size(cell: str = CELL, widths: tuple[int, ...] = WIDTHS) -> SearchSpace:
    """32,768 networks: five widths, each one of eight.

    Args:
        cell: as a NAS-Bench-201 string.
        widths: the options of each layer.
    """
    operations = {edge: OPERATIONS[i] for edge, i in zip(EDGES, from_string(cell), strict=True)}
    listed = widths if isinstance(widths, list | tuple) else ()
    if not listed or any(not isinstance(w, int) or isinstance(w, bool) or w < 1 for w in listed):
        raise BadInput(
            f"nats_size: widths are {widths!r}; they must be a list of whole numbers of at least 1, such as [8, 16]"
        )
    return SearchSpace(
        name="nats_size",
        decisions=tuple(Decision(f"width_{i}", tuple(widths)) for i in range(LAYERS)),
        network=functools.partial(network, operations=operations, widths=tuple(widths)),
        macro=Macro(width=max(widths), depth=1, input=(32, 32, 3), classes=10),
        # a layer's counts depend on its own width and on the one before
        factors=tuple((i, i + 1) for i in range(LAYERS - 1)),
        arguments={"cell": cell, "widths": list(widths)},
    )


def network(net, macro: Macro, *, operations: dict, widths: tuple[int, ...]):
    """The whole network. The macro's width is not read, the decisions are the widths; its depth must be 1."""
    if macro.depth != 1:
        raise BadInput(f"macro: depth is {macro.depth}; 'nats_size' has one cell a stage, so it must be 1")
    with net.block("stem"):
        x = net.batch_norm(net.conv(net.input, net.width("width_0"), 3))
    for i in range(LAYERS):
        channels = net.width(f"width_{i}")
        if i in (1, 3):
            with net.block("residual", f"cells.{i}"):
                x = residual(net, x, channels)
        else:
            widens = _differ(net, i - 1, i, widths) if i else False

            def edge(source, target, x, channels=channels, widens=widens):
                with net.scope(f"edge_{source}_{target}"):
                    return operation(net, x, operations[source, target], channels, False if source else widens)

            with net.scope(f"cells.{i}"):
                x = cell(net, x, edge)
    with net.block("last"):
        x = net.activation(net.batch_norm(x))
    return classifier(net, x, macro.classes)


def _differ(net, i: int, j: int, widths: tuple[int, ...]) -> Any:
    """Whether two layers have different widths: a bool array without dimensions."""
    pairs = [(a, b) for a in widths for b in widths if a != b]
    differing = [net.chosen(f"width_{i}", a) & net.chosen(f"width_{j}", b) for a, b in pairs]
    return functools.reduce(operator.or_, differing, False)
