"""The layers of a mixed supernet: every operation of every edge, and where each keeps its arrays."""

import re
from typing import Any

import numpy as np

from nas.builder import LayerBuilder, labelled
from nas.edges import edge_between, groups_of, node_of
from nas.errors import BadInput
from nas.supernet import _Collect


class _MixedCollect(_Collect):
    """Walks every operation of every edge there is between the values of a cell."""

    mixing = False  # inside an operation of a mixture

    def __init__(self, input_shape, decisions, row, part):
        super().__init__(input_shape, decisions, row)
        self.part = part
        self.copies: dict[str, int] = {}  # of layers inside cells, one for each edge
        self.places: dict[str, tuple[str, int]] = {}  # edge -> its group and place there

    def choice(self, decision, branches, on=None):
        return partial_choice(self, decision, branches, on)

    def mixture(self, decision, cases):
        results, outside = [], self.mixing
        for _, label, branch in cases:
            self.mixing = True
            with self.scope(f"{decision}.{label}"):
                results.append(branch())
        self.mixing = outside
        return self._alike(results, f"choice '{decision}'")

    def channels(self, x, first, last):
        return self._add("part", (x,), (*self.shape(x)[:-1], last - first), "part", {})

    def passing(self, decision, x):
        return x

    def when(self, predicate, branch, otherwise, *, name):
        if isinstance(predicate, bool | np.bool_):
            return LayerBuilder.when(self, bool(predicate), branch, otherwise, name=name)
        raise _no_operations(name)

    def width(self, decision, of=int):
        raise _no_operations(decision)

    def chosen(self, decision, option):
        return np.bool_(False)

    def batch_norm(self, x, *, affine=True, name="batch_norm"):
        return super().batch_norm(x, affine=affine and not self.mixing, name=name)

    def nodes(self, edges, body, inputs, *, stride=1):
        found: Any = None
        for group in groups_of(edges, len(inputs), stride):
            before, path = len(self._layers), ".".join([*self._path, ""])
            found = body(group.name, inputs[0] if found is None else found, group.stride)
            self.copies |= {layer.name: len(group.links) for layer in self._layers[before:]}
            self.places |= {path + link.edge: (path + group.name, i) for i, link in enumerate(group.links)}
        return [found] * len(edges)

    def place(self, name):
        """Where the arrays of a layer of one edge are: a name, and an index into them or None."""
        for edge, (group, i) in self.places.items():
            if name.startswith(f"{edge}_"):
                return group + name.removeprefix(edge), i
        return name, None


def partial_choice(net, decision, branches, on):
    """A mixture on the first channels of `on`; the others pass it by, halved by a max pool where it halves.

    All are then shuffled, so that the next edge reads others first (Xu et al., "PC-DARTS", ICLR 2020, section 3.2).
    """
    if net.part == 1:
        return net.mixture(decision, list(labelled(branches, on)))
    if on is None:
        raise BadInput(f"space: '{decision}' takes no partial channels; they need net.choice(..., on=x)")
    channels = net.shape(on)[-1]
    if channels % net.part:
        raise BadInput(f"macro: {channels} channels at '{decision}' cannot be cut into {net.part} parts; change width")
    own = channels // net.part
    mixed = net.mixture(decision, list(labelled(branches, net.channels(on, 0, own))))
    rest = net.channels(on, own, channels)
    if net.shape(mixed)[0] < net.shape(on)[0]:
        rest = net.max_pool(rest, 2, stride=2)
    return net.channel_shuffle(net.concat([mixed, net.passing(decision, rest)]), net.part)


def mixed_name(space, row, name):
    """Where the mixed supernet keeps the arrays of a layer of the row's own network."""
    for decision, place in zip(space.decisions, np.asarray(row), strict=True):
        if decision.name.endswith("_input"):
            edge = decision.name.removesuffix("_input")
            name = re.sub(rf"\b{edge}_input\.(input|node)\.", "", name)
            name = name.replace(f"{edge}_op", f"{edge_between(node_of(edge), int(place))}_op")
    return name


def _no_operations(name):
    return BadInput(
        f"space: '{name}' is no choice between operations, so there are no gates for it; differentiable methods "
        "need a space such as nasbench201, darts or fbnet"
    )
