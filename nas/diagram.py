"""A network as boxes and arrows: its blocks, and the cells that repeat."""

from collections.abc import Sequence
from dataclasses import dataclass

from nas.layers import Layer, Shape, parse_block


@dataclass(frozen=True)
class Node:
    """One box of a drawing.

    Attributes:
        name: scope of a block, else the layer's name.
        kind: what it is labelled with: the block's kind, or the operation.
        family: what it is coloured by, a key of `COLOURS`.
        shape: of its output.
        layers: indices of the layers inside.
        inputs: nodes it reads; one that is added twice appears twice.
        unit: the cell or other part of the network it belongs to.
        alive: whether the network's output depends on it.
    """

    name: str
    kind: str
    family: str
    shape: Shape
    layers: tuple[int, ...]
    inputs: tuple[int, ...]
    unit: str
    alive: bool = True


@dataclass(frozen=True)
class Unit:
    """A part of the network that is drawn on its own: nodes under one name such as ``cells.3``.

    Attributes:
        name: the prefix.
        nodes: indices, in order.
        sources: nodes outside that it reads.
        exports: its nodes that others read, or the network's output.
        structure: equal for units of equal structure, whatever their widths and resolutions.
        identity: nothing in it is read, and what follows reads what it read.
    """

    name: str
    nodes: tuple[int, ...]
    sources: tuple[int, ...]
    exports: tuple[int, ...]
    structure: tuple
    identity: bool


def network_nodes(layers: Sequence[Layer]) -> tuple[Node, ...]:
    """The network as boxes: each block one, and each layer outside of blocks, a chain of them in one scope folded."""
    readers: dict[int, list[int]] = {}
    for at, layer in enumerate(layers):
        for i in dict.fromkeys(layer.inputs):
            readers.setdefault(i, []).append(at)
    groups: list[list[int]] = []
    for at, layer in enumerate(layers):
        before = layers[at - 1] if at else None
        if before and (_same_block(before, layer) or _chained(before, layer, at, readers)):
            groups[-1].append(at)
        else:
            groups.append([at])
    place = {at: i for i, group in enumerate(groups) for at in group}
    nodes = []
    for i, group in enumerate(groups):
        read = [j for at in group for j in layers[at].inputs if place[j] != i]
        if layers[group[0]].op not in ("add", "concat"):
            read = list(dict.fromkeys(read))
        nodes.append(_node([layers[at] for at in group], tuple(group), tuple(place[j] for j in read)))
    alive, todo = set(), [len(nodes) - 1]
    while todo:
        i = todo.pop()
        if i not in alive:
            alive.add(i)
            todo += nodes[i].inputs
    return tuple(Node(**{**vars(n), "alive": i in alive}) for i, n in enumerate(nodes))


def _same_block(a, b):
    return bool(a.block) and (a.scope, a.block) == (b.scope, b.block)


_FOLDED = ("conv", "batch_norm", "activation", "offset", "linear", "global_avg_pool", "channel_shuffle")


def _chained(a, b, at, readers):
    alone = a.op in _FOLDED and b.op in _FOLDED and not a.block and not b.block
    # a second convolution starts a box of its own, so that each box can be named by one operation
    heavy = b.op in ("conv", "linear")
    same_place = a.name.rpartition(".")[0] == b.name.rpartition(".")[0]
    if (a.op, b.op) == ("linear", "highway"):  # a node of a recurrent cell: named by its activation
        return same_place and b.inputs[1] == at - 1
    return alone and not heavy and same_place and b.inputs == (at - 1,) and readers.get(at - 1) == [at]


def _node(own, group, inputs):
    first = own[0]
    name = first.scope or first.name
    kind = parse_block(first.block).kind if first.block else _operation(own)
    parents = name.split(".") if first.block else name.split(".")[:-1]
    digit = next((i for i, part in enumerate(parents) if part.isdigit()), None)
    unit = ".".join(parents[: digit + 1]) if digit is not None else (parents[0] if parents else name)
    return Node(name, kind, _family(own), own[-1].output_shape, group, inputs, unit)


def _operation(own):
    highway = next((x for x in own if x.op == "highway"), None)
    if highway is not None:
        return highway.attributes["kind"]
    main = next((x for x in own if x.op in ("conv", "linear")), own[0])
    if main.op == "conv":
        kernel = "×".join(map(str, main.attributes["kernel"]))
        return ("depthwise " if main.attributes["groups"] > 1 else "conv ") + kernel
    return main.attributes["kind"] if main.op == "activation" else main.op


def _family(own):
    ops = {x.op for x in own}
    convs = [x.attributes for x in own if x.op == "conv"]
    if ops in ({"input"}, {"state"}):
        return "port"
    if "highway" in ops:
        return "pointwise"
    if not convs and ops & {"linear", "global_avg_pool"}:
        return "head"
    if convs:
        wide = any(max(a["kernel"]) > 1 for a in convs)
        return "depthwise" if any(a["groups"] > 1 for a in convs) else "conv" if wide else "pointwise"
    if ops & {"avg_pool", "max_pool"}:
        return "pool"
    return "join" if ops & {"add", "concat", "mean"} else "zeros" if ops == {"zeros"} else "other"


def network_units(nodes: Sequence[Node]) -> tuple[Unit, ...]:
    """Cells and the parts between them, in order of their first box."""
    members: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        members.setdefault(node.unit, []).append(i)
    order = list(members)
    units = []
    for at, name in enumerate(order):
        own = members[name]
        sources = tuple(dict.fromkeys(j for i in own for j in nodes[i].inputs if nodes[j].unit != name))
        read = {j for n in nodes if n.unit != name for j in n.inputs} | {len(nodes) - 1}
        exports = tuple(i for i in own if i in read)
        following = members[order[at + 1]] if at + 1 < len(order) else []
        identity = not exports and any(set(nodes[i].inputs) & set(sources) for i in following)
        inside = {j: f"own {k}" for k, j in enumerate(own)} | {j: f"source {k}" for k, j in enumerate(sources)}
        structure = tuple(
            (nodes[i].kind, tuple(inside[j] for j in nodes[i].inputs), _stride(nodes, i), nodes[i].alive, i in exports)
            for i in own
        )
        units.append(Unit(name, tuple(own), sources, exports, structure, identity))
    return tuple(units)


def _stride(nodes, i):
    shapes = [nodes[j].shape for j in nodes[i].inputs]
    return shapes[0][0] // nodes[i].shape[0] if shapes and len(shapes[0]) == len(nodes[i].shape) == 3 else 1
