"""The cell space of NASNet, AmoebaNet and DARTS: a normal and a reduction cell, two (input, operation) pairs a node.

Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018; Real et al., "Regularized
Evolution for Image Classifier Architecture Search", AAAI 2019; Liu et al., "DARTS", ICLR 2019. The frame is DARTS's
evaluation network on CIFAR for all three: a stem of 3C channels, `depth` cells of which those at a third and at two
thirds halve the image and double the width, global pooling and a dense layer. Its auxiliary head and drop path belong
to the recipe (`nas.cell_training`). Where NASNet and AmoebaNet differ from DARTS's frame, so do we.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.edges import edge_between
from nas.errors import BadInput, suggest
from nas.relaxation import Relaxation
from nas.space import Decision, Macro, SearchSpace
from search_spaces.ops import (
    classifier,
    conv_1xk_kx1,
    dil_conv,
    factorized_reduce,
    relu_conv_bn,
    sep_conv,
)

# name -> (net, x, channels, stride) -> value; all keep the channels
OPERATIONS: Mapping[str, Any] = {
    "skip_connect": lambda net, x, c, s: x if s == 1 else factorized_reduce(net, x, c),
    "max_pool_3x3": lambda net, x, c, s: net.max_pool(x, 3, stride=s),
    "max_pool_5x5": lambda net, x, c, s: net.max_pool(x, 5, stride=s),
    "max_pool_7x7": lambda net, x, c, s: net.max_pool(x, 7, stride=s),
    "avg_pool_3x3": lambda net, x, c, s: net.avg_pool(x, 3, stride=s),
    "sep_conv_3x3": lambda net, x, c, s: sep_conv(net, x, c, 3, stride=s),
    "sep_conv_5x5": lambda net, x, c, s: sep_conv(net, x, c, 5, stride=s),
    "sep_conv_7x7": lambda net, x, c, s: sep_conv(net, x, c, 7, stride=s),
    "dil_conv_3x3": lambda net, x, c, s: dil_conv(net, x, c, 3, stride=s),
    "dil_conv_5x5": lambda net, x, c, s: dil_conv(net, x, c, 5, stride=s),
    "conv_1x1": lambda net, x, c, s: relu_conv_bn(net, x, c, 1, stride=s),
    "conv_3x3": lambda net, x, c, s: relu_conv_bn(net, x, c, 3, stride=s),
    "conv_3x1_1x3": lambda net, x, c, s: conv_1xk_kx1(net, x, c, 3, stride=s),
    "conv_7x1_1x7": lambda net, x, c, s: conv_1xk_kx1(net, x, c, 7, stride=s),
}
DARTS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
AMOEBANET = (
    *("skip_connect", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "avg_pool_3x3", "max_pool_3x3"),
    *("dil_conv_3x3", "conv_7x1_1x7"),
)
NASNET = (
    *("skip_connect", "conv_3x1_1x3", "conv_7x1_1x7", "dil_conv_3x3", "avg_pool_3x3", "max_pool_3x3", "max_pool_5x5"),
    *("max_pool_7x7", "conv_1x1", "conv_3x3", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7"),
)
CELLS = ("normal", "reduce")
PAIRS = ("a", "b")


def darts(nodes: int = 4, operations: Sequence[str] = DARTS, width: int = 16, depth: int = 8) -> SearchSpace:
    """DARTS in discrete form: 4 nodes of two different inputs, all of them concatenated; 10^18 rows.

    `width` and `depth` are those of the macro searched at; the paper deploys at 36 and 20.
    """
    return cell_space("darts", nodes, operations, concat="all", distinct_inputs=True, width=width, depth=depth)


def nasnet(nodes: int = 5, operations: Sequence[str] = NASNET, width: int = 16, depth: int = 8) -> SearchSpace:
    """NASNet: 5 nodes, 13 operations; nodes that no other node reads are concatenated.

    The paper does not say whether its dilated convolution is separable; here it is DARTS's, which is.
    """
    return cell_space("nasnet", nodes, operations, concat="loose", width=width, depth=depth)


def amoebanet(nodes: int = 5, operations: Sequence[str] = AMOEBANET, width: int = 16, depth: int = 8) -> SearchSpace:
    """AmoebaNet: as `nasnet` with 8 operations; the paper's ``none`` (identity) is ``skip_connect``."""
    return cell_space("amoebanet", nodes, operations, concat="loose", width=width, depth=depth)


def cell_space(
    name: str,
    nodes: int,
    operations: Sequence[str],
    *,
    concat: str,
    distinct_inputs: bool = False,
    width: int = 16,
    depth: int = 8,
) -> SearchSpace:
    """Decisions ``normal_2_a_input``, ``normal_2_a_op``, ``normal_2_b_input``, ... for the nodes 2 to nodes + 1.

    Input 0 is the cell before the last, 1 the last cell, then come the earlier nodes, as in DARTS's genotypes.

    Args:
        name: of the space.
        nodes: of a cell.
        operations: names out of `OPERATIONS`.
        concat: a cell's output, ``all`` nodes or the ``loose`` ones, which no other node reads.
        distinct_inputs: whether the two inputs of a node must differ.
        width: channels of the first cells, C.
        depth: cells in all.
    """
    if isinstance(nodes, bool) or not isinstance(nodes, int) or not 1 <= nodes <= 12:
        raise BadInput(f"{name}: nodes is {nodes!r}; it must be a whole number from 1 to 12")
    unknown = [op for op in operations if op not in OPERATIONS]
    if unknown or not operations:
        first = unknown[0] if unknown else ""
        raise BadInput(f"{name}: no operation '{first}'; {suggest(first, OPERATIONS)}")
    decisions = tuple(
        Decision(f"{edge}_{what}", tuple(range(node)) if what == "input" else tuple(operations))
        for cell in CELLS
        for node in range(2, nodes + 2)
        for edge in edges_of(cell, node)
        for what in ("input", "op")
    )
    return SearchSpace(
        name=name,
        decisions=decisions,
        network=functools.partial(network, nodes=nodes, operations=tuple(operations), concat=concat),
        macro=Macro(width=width, depth=depth, input=(32, 32, 3), classes=10),
        allowed_of=_other_input if distinct_inputs else None,
        key_of=_pairs_sorted,
        factors=_factors(nodes) if concat == "all" else None,
        arguments={"nodes": nodes, "operations": list(operations)},
        relaxation_of=functools.partial(_relaxation, nodes=nodes, operations=tuple(operations)),
    )


def edges_of(cell: str, node: int) -> tuple[str, ...]:
    """The names of a node's two edges; their decisions are ``<edge>_input`` and ``<edge>_op``."""
    return tuple(f"{cell}_{node}_{pair}" for pair in PAIRS)


def keeps_loose_ends(space: SearchSpace) -> bool:
    """Whether a cell's output leaves out the nodes that other nodes read."""
    return isinstance(space.network, functools.partial) and space.network.keywords["concat"] == "loose"


# ---- the network -------------------------------------------------------------------------------------------------
def network(net, macro: Macro, *, nodes: int, operations: tuple[str, ...], concat: str):
    """The whole network; all normal cells take the same choices, and so do the two reduction cells."""
    with net.block("stem"):
        before = x = net.batch_norm(net.conv(net.input, 3 * macro.width, 3))
    channels, reduced = macro.width, False
    for i in range(macro.depth):
        reduces = i in (macro.depth // 3, 2 * macro.depth // 3)
        channels *= 2 if reduces else 1
        with net.scope(f"cells.{i}"):
            inputs = [preprocess(net, before, channels, 0, reduced), preprocess(net, x, channels, 1, False)]
            before, x = x, cell(net, inputs, nodes, operations, concat, reduces)
        reduced = reduces
    return classifier(net, x, macro.classes)


def preprocess(net, x: Any, channels: int, place: int, halve: bool) -> Any:
    """An input of a cell, brought to its width; halved where the cell between has halved the other one."""
    with net.block("preprocess", f"input_{place}"):
        return factorized_reduce(net, x, channels) if halve else relu_conv_bn(net, x, channels, 1)


def cell(net, inputs: list, nodes: int, operations: tuple[str, ...], concat: str, reduces: bool) -> Any:
    """One cell: its nodes, concatenated."""
    kind = CELLS[reduces]
    numbers = range(2, nodes + 2)

    def edge(name, x, stride):
        branches = {op: lambda x, op=op: operation(net, x, op, stride) for op in operations}
        return net.choice(f"{name}_op", branches, x)

    edges = {f"node_{node}": edges_of(kind, node) for node in numbers}
    found = net.nodes(edges, edge, inputs, stride=2 if reduces else 1)
    keep = [~_read(net, kind, node, numbers) for node in numbers] if concat == "loose" else None
    return net.concat(found, keep=keep)


def operation(net, x: Any, op: str, stride: int) -> Any:
    """One operation as a block of its own, for latency tables."""
    with net.block(op if stride == 1 else f"{op}-stride:{stride}", "op"):
        return OPERATIONS[op](net, x, net.shape(x)[-1], stride)


def _read(net, kind: str, node: int, numbers: range) -> Any:
    """Whether a later node reads this one: a bool array without dimensions."""
    later = [edge for other in numbers if other > node for edge in edges_of(kind, other)]
    return functools.reduce(lambda read, edge: read | net.chosen(f"{edge}_input", node), later, np.bool_(False))


# ---- rows --------------------------------------------------------------------------------------------------------
def _other_input(row, i: int):
    """The second input of a node must not be the first; decisions come as a's input and op, then b's."""
    return jnp.arange(64) != (row[i - 2] if i % 4 == 2 else -1)


def _pairs_sorted(row):
    """The two pairs of each node in order: a sum does not mind."""
    pairs = jnp.asarray(row).reshape(-1, 2, 2)  # node, pair, (input, operation)
    first, second = pairs[:, :1], pairs[:, 1:]
    (a, f), (b, g) = (first[..., 0], first[..., 1]), (second[..., 0], second[..., 1])
    swap = ((a > b) | ((a == b) & (f > g)))[..., None]
    return jnp.where(swap, jnp.concatenate([second, first], 1), pairs).reshape(-1)


def _relaxation(space: SearchSpace, nodes: int, operations: tuple[str, ...]) -> Relaxation:
    """Every edge between two values of a cell, with ``none`` as one more operation (DARTS, section 2.1).

    A node keeps the two strongest of its edges, by their strongest operation that is not ``none`` (section 2.4).
    """
    nodes_of = [(cell, node) for cell in CELLS for node in range(2, nodes + 2)]
    edges = [(cell, node, source) for cell, node in nodes_of for source in range(node)]
    place = {edge: i for i, edge in enumerate(edges)}

    def gates(row):
        pairs = jnp.asarray(row).reshape(-1, 2, 2)  # node, pair, (input, operation)
        found = jnp.zeros((len(edges), 1 + len(operations)))
        for i, (cell, node) in enumerate(nodes_of):
            first = place[cell, node, 0]
            for pair in (0, 1):
                found = found.at[first + pairs[i, pair, 0], 1 + pairs[i, pair, 1]].add(1.0)
        return found

    def discretise(gates):
        strength, best = gates[:, 1:].max(-1), gates[:, 1:].argmax(-1)
        row = []
        for cell, node in nodes_of:
            first = place[cell, node, 0]
            # the lower source first, as in a genotype
            sources = jnp.sort(jax.lax.top_k(strength[first : first + node], 2)[1])
            row += [part for source in sources for part in (source, best[first + source])]
        return jnp.stack(row).astype(jnp.int32)

    names = tuple(f"{edge_between(f'{cell}_{node}', source)}_op" for cell, node, source in edges)
    targets = tuple(f"{cell}_{node}" for cell, node, _ in edges)
    return Relaxation(names, (("none", *operations),) * len(edges), gates, discretise, targets)


def _factors(nodes: int) -> tuple[tuple[int, ...], ...]:
    """What an operation costs depends in a reduction cell on its input: stride 2 where that is another cell.

    Both inputs of a node belong to a factor because neither can be varied alone where they must differ. Loose ends
    add no such factors: the next cell's first convolutions are as wide as there are ends.
    """
    first = 4 * nodes
    normal = [(i,) for i in range(1, first, 2)]
    reduce = [(at, at + 2, at + op) for at in range(first, 2 * first, 4) for op in (1, 3)]
    return (*normal, *reduce)
