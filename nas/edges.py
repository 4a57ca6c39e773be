"""The edges of a cell in which every earlier value feeds every node, in groups of equal shapes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Link(NamedTuple):
    """One edge.

    Attributes:
        edge: its name, see `edge_between`.
        source: the value it reads, by its place among the values that its group reads.
        node: the place of its node among the sums that its group adds to.
        number: of the source among all values of the cell, inputs first.
        pairs: what a row's decisions call the edges of the node, such as ``normal_3_a``.
    """

    edge: str
    source: int
    node: int
    number: int
    pairs: tuple[str, ...]


class Group(NamedTuple):
    """Edges of equal shapes, in an order in which each node is whole before it is read.

    Attributes:
        name: what their layers are named under, such as ``normal_edges``.
        stride: of their operations.
        links: the edges; arrays that belong to the group have one entry for each along their first axis.
    """

    name: str
    stride: int
    links: list[Link]


def edge_between(node: str, source: int) -> str:
    """The name of the edge that brings value `source` of a cell to a node, such as ``normal_3`` and 1."""
    return f"{node}_from_{source}"


def node_of(edge: str) -> str:
    """``normal_3`` of the pair's edge ``normal_3_a``."""
    return edge.rpartition("_")[0]


def groups_of(edges: Mapping[str, Sequence[str]], inputs: int, stride: int) -> list[Group]:
    """The edges of a cell; those that read an input are apart where they halve it.

    Args:
        edges: node -> names of the two edges that a row gives it, as `nas.builder.LayerBuilder.nodes` takes them.
        inputs: how many inputs the cell has. At stride 1 they are the first of the sums, and else not among them.
        stride: of the edges that read an input.
    """
    links = [
        Link(edge_between(node_of(names[0]), source), source, node, source, tuple(names))
        for node, names in enumerate(edges.values())
        for source in range(inputs + node)
    ]
    cell = node_of(node_of(next(iter(edges.values()))[0]))
    if stride == 1:
        return [Group(f"{cell}_edges", 1, [link._replace(node=inputs + link.node) for link in links])]
    outer = [link for link in links if link.source < inputs]
    inner = [link._replace(source=link.source - inputs) for link in links if link.source >= inputs]
    groups = [Group(f"{cell}_edges_from_inputs", stride, outer), Group(f"{cell}_edges_from_nodes", 1, inner)]
    return [group for group in groups if group.links]
