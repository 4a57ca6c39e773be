"""Pictures of a search and of the network it found: matplotlib figures, without pyplot's global state."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from nas.layers import Layer, Shape
from nas.objective import pareto_front
from nas.search import Result
from nas.summary import (
    column_of,
    cost_columns,
    cost_name,
    cost_quantity,
    expected_best,
    finished,
    random_samples,
    scale,
    score_name,
)

# every colour once: the report replaces each by a CSS variable of the same name, so that pictures follow dark mode
COLOURS = {
    "ink": "#1f2328",
    "muted": "#656d76",
    "grid": "#e4e8ec",
    "surface": "#fffffe",
    "accent": "#0b62c4",
    "random": "#b8690a",
    "band": "#f6dfbf",
    "failed": "#c9252d",
    "point": "#7d97b5",
    "conv": "#cfe0f7",
    "pointwise": "#dff0fb",
    "depthwise": "#d3ecea",
    "pool": "#dbf0d6",
    "head": "#e9defa",
    "join": "#eceff3",
    "zeros": "#f9dcdc",
    "other": "#fbedd0",
    "port": "#f7f8fa",
}


# ---- the search ----------------------------------------------------------------------------------------------------
def search_curve(result: Result) -> Figure:
    """Score of each trial, best so far, and what random search would be expected to have found by then."""
    figure, axes = _figure(9.2, 4.0)
    done = finished(result)
    groups = [
        ("random sample", [t for t in done if t.random], dict(marker="D", color=COLOURS["random"], s=20)),
        ("chosen by the strategy", [t for t in done if not t.random], dict(marker="o", color=COLOURS["point"], s=22)),
        (
            "stopped early",
            [t for t in result.trials if t.status == "stopped"],
            dict(marker="o", facecolors="none", edgecolors=COLOURS["point"], s=20),
        ),
    ]
    for label, trials, style in groups:
        if trials:
            axes.scatter([t.id + 1 for t in trials], [t.scores[0] for t in trials], label=label, zorder=3, **style)
    _draw_random(axes, result)
    ids: list[int] = []
    best: list[float] = []
    for trial in done:
        if trial.feasible:
            ids.append(trial.id + 1)
            best.append(max([float(trial.scores[0]), *best[-1:]]))
    if best:
        axes.step([*ids, len(result.trials)], [*best, best[-1]], where="post", color=COLOURS["accent"], lw=2, zorder=4)
        axes.lines[-1].set_label("best so far" + (" within the limits" if result.objective.limits else ""))
    failed = [t.id + 1 for t in result.trials if t.status == "failed"]
    if failed:
        # on the lower edge: a failed trial has no score
        at = dict(transform=axes.get_xaxis_transform(), clip_on=False, zorder=5)
        axes.scatter(failed, [0.0] * len(failed), marker="x", color=COLOURS["failed"], s=34, label="failed", **at)
    axes.set(xlabel="trial", ylabel=score_name(result.objective), xlim=(0.3, max(len(result.trials), 1) + 0.7))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(figure, axes, "no finished trial" if not done else "")
    return figure


def _draw_random(axes, result):
    within, outside = random_samples(result)
    if len(within) < 2:
        return
    draws = np.arange(1, len(result.trials) + 1)
    mean, low, high = expected_best(within, len(draws), outside=outside)
    label = f"random search, expected best (from {sum(t.random for t in finished(result))} samples)"
    axes.plot(draws, mean, "--", color=COLOURS["random"], lw=1.6, zorder=2, label=label)
    axes.fill_between(draws, low, high, color=COLOURS["band"], lw=0, zorder=1, label="its 10th to 90th percentile")


def pareto_plot(result: Result) -> Figure:
    """Accuracy against each cost that the objective reads (parameters when it reads none), the front highlighted."""
    done = finished(result)
    objective = result.objective
    metrics = {c: 0.0 for c in cost_columns(result)}
    read = dict.fromkeys([*objective.costs, *(limit.cost for limit in objective.limits)])
    columns = [c for c in (column_of(name, metrics) for name in read) if c] or ["params"]
    across = min(len(columns), 3)
    down = math.ceil(len(columns) / across)
    figure = Figure(figsize=(4.6 * across if across > 1 else 7.2, 3.9 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for panel in panels[len(columns) :]:
        panel.set_visible(False)
    for column, panel in zip(columns, panels, strict=False):
        _pareto_panel(panel, result, [t for t in done if column in t.metrics], column)
        panel.set_ylabel(objective.metric)
        _finish(figure, panel, "no finished trial" if not done else "", legend=column == columns[0])
    return figure


def _pareto_panel(axes, result, trials, column):
    quantity = cost_quantity(column) or "params"
    cost = np.asarray([t.metrics[column] for t in trials], np.float64)
    quality = np.asarray([t.metrics[result.objective.metric] for t in trials], np.float64)
    size, unit = scale(quantity, float(np.median(cost)) if len(cost) else 0.0)
    axes.set_xlabel(cost_name(column) + (f" ({unit})" if unit else ""))
    feasible = np.asarray([t.feasible for t in trials], bool)
    for mask, label, style in (
        (feasible, "finished", dict(color=COLOURS["point"])),
        (~feasible, "breaks a limit", dict(facecolors="none", edgecolors=COLOURS["point"])),
    ):
        if mask.any():
            axes.scatter(cost[mask] / size, quality[mask], s=22, label=label, zorder=3, **style)
    if len(trials):
        violation = np.stack([t.violation for t in trials])
        flat = np.flatnonzero(pareto_front(np.stack([quality, -cost], 1), violation))
        order = flat[np.argsort(cost[flat])]
        line: dict[str, Any] = dict(color=COLOURS["accent"], lw=1.6, zorder=4)
        axes.step(cost[order] / size, quality[order], where="post", marker="o", ms=5, label="front", **line)
        many = len(result.objective.costs) > 1 and result.objective.kind == "pareto"
        chosen = [(t.metrics[column] / size, t.metrics[result.objective.metric]) for t in result.pareto if many]
        if chosen:
            ring: dict[str, Any] = dict(
                facecolors="none", edgecolors=COLOURS["random"], s=70, zorder=5, label="front over all costs"
            )
            axes.scatter(*zip(*chosen, strict=True), **ring)
    for limit in result.objective.limits:
        if column_of(limit.cost, {column}) == column:
            axes.axvline(limit.value / size, color=COLOURS["failed"], lw=1.3, ls=(0, (4, 3)), label="limit", zorder=2)
    if result.best and column in result.best.metrics:
        at = result.best.metrics[column] / size, result.best.metrics[result.objective.metric]
        star: dict[str, Any] = dict(marker="*", s=230, color=COLOURS["accent"], edgecolors=COLOURS["surface"], zorder=6)
        axes.scatter(*at, label="found", **star)


def _figure(width, height):
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _finish(figure, axes, empty, *, legend=True):
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.grid(color=COLOURS["grid"], lw=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(COLOURS["muted"])
    axes.tick_params(colors=COLOURS["muted"], labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=COLOURS["ink"], fontsize=10)
    axes.xaxis.get_offset_text().set_color(COLOURS["muted"])
    if empty:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", color=COLOURS["muted"], fontsize=12)
    elif legend:
        # outside of the axes: no place inside is free for every search
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside upper center",
            ncols=3,
            frameon=False,
            fontsize=9,
            labelcolor=COLOURS["ink"],
        )


# ---- the network as data -------------------------------------------------------------------------------------------
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


_FOLDED = ("conv", "batch_norm", "activation", "offset", "linear", "global_avg_pool")


def _chained(a, b, at, readers):
    alone = a.op in _FOLDED and b.op in _FOLDED and not a.block and not b.block
    # a second convolution starts a box of its own, so that each box can be named by one operation
    heavy = b.op in ("conv", "linear")
    same_place = a.name.rpartition(".")[0] == b.name.rpartition(".")[0]
    return alone and not heavy and same_place and b.inputs == (at - 1,) and readers.get(at - 1) == [at]


def _node(own, group, inputs):
    first = own[0]
    name = first.scope or first.name
    kind = first.block.split("-input:")[0] if first.block else _operation(own)
    parents = name.split(".") if first.block else name.split(".")[:-1]
    digit = next((i for i, part in enumerate(parents) if part.isdigit()), None)
    unit = ".".join(parents[: digit + 1]) if digit is not None else (parents[0] if parents else name)
    return Node(name, kind, _family(own), own[-1].output_shape, group, inputs, unit)


def _operation(own):
    main = next((x for x in own if x.op in ("conv", "linear")), own[0])
    if main.op == "conv":
        kernel = "×".join(map(str, main.attributes["kernel"]))
        return ("depthwise " if main.attributes["groups"] > 1 else "conv ") + kernel
    return main.attributes["kind"] if main.op == "activation" else main.op


def _family(own):
    ops = {x.op for x in own}
    convs = [x.attributes for x in own if x.op == "conv"]
    if ops == {"input"}:
        return "port"
    if "linear" in ops or ("global_avg_pool" in ops and not convs):
        return "head"
    if convs:
        wide = any(max(a["kernel"]) > 1 for a in convs)
        return "depthwise" if any(a["groups"] > 1 for a in convs) else "conv" if wide else "pointwise"
    if ops & {"avg_pool", "max_pool"}:
        return "pool"
    return "join" if ops & {"add", "concat"} else "zeros" if ops == {"zeros"} else "other"


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


# ---- layered layout ------------------------------------------------------------------------------------------------
GAP_ACROSS, GAP_DOWN, GAP_EDGE = 40.0, 16.0, 15.0  # points: between columns, between boxes, between passing edges


def _layout(sizes, edges):
    """Centres of boxes, and for each edge the points it passes, left to right, and the width (Sugiyama's steps, small).

    Args:
        sizes: (width, height) of each box, in an order in which every edge goes forward.
        edges: (from, to).
    """
    count = len(sizes)
    rank = [0] * count
    for a, b in sorted(edges, key=lambda e: e[1]):
        rank[b] = max(rank[b], rank[a] + 1)
    for i in reversed(range(count)):  # a box that reads nothing stands right before its reader
        following = [rank[b] for a, b in edges if a == i]
        if following and not any(b == i for _, b in edges):
            rank[i] = min(following) - 1 if i else 0
    rank[-1] = max([*rank[:-1], 0]) + 1  # the output stands last, also beside what nothing reads
    heights = [h for _, h in sizes]
    links: list[tuple[int, int]] = []
    routes: dict[tuple[int, int], list[int]] = {}
    for edge in dict.fromkeys(edges):
        at = [edge[0]]
        for r in range(rank[edge[0]] + 1, rank[edge[1]]):
            rank.append(r)
            heights.append(0.0)
            at.append(len(rank) - 1)
        at.append(edge[1])
        links += itertools.pairwise(at)
        routes[edge] = at
    near: list[list[list[int]]] = [[[], []] for _ in rank]
    for a, b in links:
        near[b][0].append(a)
        near[a][1].append(b)
    columns = _order([[i for i in range(len(rank)) if rank[i] == r] for r in range(max(rank) + 1)], near)
    y = _heights(columns, near, routes.values(), heights, count)
    widths = [max([sizes[i][0] for i in column if i < count], default=0.0) for column in columns]
    starts = np.cumsum([0.0, *(w + GAP_ACROSS for w in widths)])
    x = [starts[r] + widths[r] / 2 for r in rank]
    paths = {}
    for edge, at in routes.items():
        points = []
        for i in at[1:-1]:
            half = widths[rank[i]] / 2
            points += [(x[i] - half, y[i]), (x[i] + half, y[i])]
        (a, b) = edge
        start, end = (x[a] + sizes[a][0] / 2, y[a]), (x[b] - sizes[b][0] / 2, y[b])
        paths[edge] = [start, *points, end]
    return [(x[i], y[i]) for i in range(count)], paths, starts[-1] - GAP_ACROSS


def _order(columns, near):
    """Barycentre sweeps from a few starts; the order with the fewest crossings seen."""
    best, fewest = columns, _crossings(columns, near)
    shuffle = np.random.default_rng(0)
    for start in range(12):
        columns = [list(shuffle.permutation(c)) if start else list(c) for c in columns]
        for sweep in range(8):
            side = sweep % 2
            columns = [list(c) for c in columns]
            for column in columns if side == 0 else columns[::-1]:
                at = {i: k for c in columns for k, i in enumerate(c)}
                mean = {i: sum(at[j] for j in near[i][side]) / max(len(near[i][side]), 1) for i in column}
                column.sort(key=lambda i, mean=mean, at=at: mean[i] if near[i][side] else at[i])
            crossings = _crossings(columns, near)
            if crossings < fewest:
                best, fewest = columns, crossings
        if not fewest:
            break
    return best


def _crossings(columns, near):
    at = {i: k for c in columns for k, i in enumerate(c)}
    total = 0
    for column in columns:
        ends = [(at[i], at[j]) for i in column for j in near[i][1]]
        total += sum((a - c) * (b - d) < 0 for k, (a, b) in enumerate(ends) for c, d in ends[:k])
    return total


def _heights(columns, near, routes, heights, count):
    """Vertical positions: each near the mean of its neighbours, none nearer to the next in its column than allowed."""
    y = np.zeros(len(heights))
    apart = [
        [
            (heights[a] + heights[b]) / 2 + (GAP_EDGE if min(a, b) >= count else GAP_DOWN)
            for a, b in itertools.pairwise(c)
        ]
        for c in columns
    ]
    offsets = [np.cumsum([0.0, *gaps]) for gaps in apart]
    for column, offset in zip(columns, offsets, strict=True):
        y[column] = offset - offset[-1] / 2
    # the bends of one edge hold together, so that it runs straight and the boxes give way
    around = [(both[0] + both[1], [1.0] * len(both[0] + both[1])) for both in near]
    for first, *bends, last in routes:
        for i in bends:
            around[i] = ([first, last, *bends], [1.0, 1.0] + [4.0] * len(bends))
    mass = [sum(weights) or 1.0 for _, weights in around]
    for sweep in range(60):
        for column, offset in list(zip(columns, offsets, strict=True))[:: 1 if sweep % 2 else -1]:
            wanted = [np.average(y[around[i][0]], weights=around[i][1]) if around[i][0] else y[i] for i in column]
            y[column] = _isotonic(np.asarray(wanted) - offset, [mass[i] for i in column]) + offset
    return y - y.min()


def _isotonic(values, weights):
    """Nearest non-decreasing sequence in weighted least squares (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        pools.append((float(value), weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, v, m), (a, w, n) = pools.pop(), pools.pop()
            pools.append(((a * w + b * v) / (w + v), w + v, n + m))
    return np.concatenate([np.full(n, mean) for mean, _, n in pools])


# ---- the network as a picture --------------------------------------------------------------------------------------
WIDTH = 860.0  # points that the line of the whole network may take before it breaks
MOST_CELLS = 6  # drawn out; a network of more distinct ones would fill pages


def draw_network(layers: Sequence[Layer]) -> Figure:
    """The whole network as a line of its parts, and each distinct cell drawn out once. Shapes are H×W×C."""
    nodes = network_nodes(layers)
    units = network_units(nodes)
    cells = _cell_names(units)
    canvas = _Canvas()
    canvas.strip(_parts(nodes, units, cells))
    shown = list(cells.items())[:MOST_CELLS]
    for structure, label in shown:
        same = [u for u in units if u.structure == structure]
        shapes = dict.fromkeys(_dims(_unit_shape(nodes, u)) for u in same)
        times = f"{len(same)} times, at " if len(same) > 1 else "at "
        canvas.cell(
            nodes, same[0], label, times + ", ".join(shapes) + (" (drawn at the first)" if len(shapes) > 1 else "")
        )
    if len(cells) > len(shown):
        canvas.note(f"{len(cells) - len(shown)} more distinct cells are not drawn out")
    missing = _missing(units)
    if missing:
        canvas.note(f"not shown: parts without layers, whose choices leave identity or zeros ({', '.join(missing)})")
    if not all(n.alive for n in nodes):
        canvas.note("faded: the output does not depend on it")
    return canvas.figure()


def draw_cell(layers: Sequence[Layer], unit: str) -> Figure:
    """One cell or other part of a network, such as ``cells.3``, drawn out."""
    nodes = network_nodes(layers)
    found = next(u for u in network_units(nodes) if u.name == unit)
    canvas = _Canvas()
    canvas.cell(nodes, found, unit, "")
    return canvas.figure()


def _cell_names(units):
    """Structure -> label of what is drawn out: "cell", or "cell A" and "cell B".

    Those are units of several boxes, and those that nothing reads, as one box cannot tell what passes by it.
    """
    structures = list(dict.fromkeys(u.structure for u in units if len(u.nodes) > 1 or not u.exports))
    nouns = {s: _noun(next(u.name for u in units if u.structure == s)) for s in structures}
    letters = {s: chr(ord("A") + k) if k < 26 else str(k + 1) for k, s in enumerate(structures)}
    return {s: f"{nouns[s]} {letters[s]}" if len(structures) > 1 else nouns[s] for s in structures}


def _missing(units):
    """Numbered parts that left no layers, as far as the numbers of the others tell."""
    numbers: dict[str, list[int]] = {}
    for unit in units:
        stem, _, digits = unit.name.rpartition(".")
        if digits.isdigit():
            numbers.setdefault(stem, []).append(int(digits))
    gaps = [f"{stem}.{i}" for stem, found in numbers.items() for i in range(max(found)) if i not in found]
    return [*gaps[:4], "..."] if len(gaps) > 5 else gaps


def _noun(name):
    bare = re.sub(r"[._]?\d+$", "", name).rpartition(".")[2] or name
    return bare[:-1] if bare.endswith("s") and not bare.endswith("ss") else bare


def _parts(nodes, units, cells):
    """(label, shape, family, alive) of each chip of the line; equal neighbours are counted together."""
    parts: list[list] = []
    for unit in units:
        node = nodes[unit.nodes[-1]]
        label = cells.get(unit.structure, node.kind)
        family = "surface" if unit.structure in cells else node.family
        passed = unit.sources if unit.identity else ()
        alive = any(nodes[i].alive for i in (*unit.nodes, *passed))
        what = [label, _dims(_unit_shape(nodes, unit)), family, alive]
        if parts and parts[-1][1:] == what:
            parts[-1][0] += 1
        else:
            parts.append([1, *what])
    return [(f"{times} × {label}" if times > 1 else label, *rest) for times, label, *rest in parts]


def _unit_shape(nodes, unit):
    return nodes[(unit.exports or unit.nodes)[-1]].shape


def _dims(shape):
    return "×".join(map(str, shape))


class _Canvas:
    """Figure elements in points, stacked downwards; the figure is made to their size, so text always fits."""

    def __init__(self):
        self.marks: list[Callable[[Axes], Any]] = []  # called at the end, when the size is known
        self.width, self.bottom = 200.0, 4.0

    def strip(self, parts):
        x, y, height, gap = 2.0, self.bottom, 36.0, 22.0
        widths = [_box_size(*part[:3])[0] for part in parts]
        total = sum(widths) + gap * len(widths)
        row = max(total / math.ceil(total / WIDTH), max(widths))  # rows of about equal length
        before, flows = None, True
        for (label, shape, family, alive), width in zip(parts, widths, strict=True):
            if x + width / 2 > row and before is not None:
                x, y = 2.0, y + height + 20
                # the line goes on in the next row: an arrow out of this row and into the next one
                self._arrow([(before[0], before[1]), (before[0] + 14, before[1])], flows)
                self._arrow([(x, y + height / 2), (x + 14, y + height / 2)], flows)
                x += 16
            elif before is not None:
                self._arrow([before, (x, y + height / 2)], flows)
            self._box(x + width / 2, y + height / 2, width, height, label, shape, family, alive)
            before, flows = (x + width, y + height / 2), alive
            self.width = max(self.width, x + width + 18)
            x += width + gap
        self.bottom = y + height + 10

    def cell(self, nodes, unit, title, detail):
        self.bottom += 22
        self._text(2, self.bottom, title, 11, "ink", ha="left", weight="bold")
        self._text(2 + _text_width(title, 11, "bold") + 10, self.bottom, detail, 8.5, "muted", ha="left")
        labels, edges = _cell_graph(nodes, unit)
        sizes = [_box_size(*label[:3]) for label in labels]
        centres, paths, width = _layout(sizes, [e[:2] for e in edges])
        left, top = 4.0, self.bottom + 18
        # boxes differ in height: the topmost box edge, not the topmost centre, goes to `top`
        rise = max(size[1] / 2 - y for (_, y), size in zip(centres, sizes, strict=True))
        shift = lambda x, y: (left + x, top + rise + y)  # noqa: E731
        for a, b, times, alive in edges:
            self._arrow([shift(*p) for p in paths[a, b]], alive, f"×{times}" if times > 1 else "", labels[a][2])
        for (x, y), size, label in zip(centres, sizes, labels, strict=True):
            self._box(*shift(x, y), *size, *label)
        lowest = max([y for path in paths.values() for _, y in path], default=0.0)
        low = max([y + s[1] / 2 for (_, y), s in zip(centres, sizes, strict=True)] + [lowest])
        self.width = max(self.width, left + width + 6)
        self.bottom = top + rise + low + 6

    def note(self, text):
        self.bottom += 16
        self._text(2, self.bottom, text, 8.5, "muted", ha="left")
        self.width = max(self.width, _text_width(text, 8.5) + 8)
        self.bottom += 6

    def figure(self) -> Figure:
        width, height = self.width + 4, self.bottom + 8
        figure = Figure(figsize=(width / 72, height / 72))
        figure.patch.set_alpha(0)
        axes: Axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        for draw in self.marks:
            draw(axes)
        return figure

    def _text(self, x, y, text, size, colour, ha="center", weight="normal", alpha=1.0):
        style = dict(fontsize=size, color=COLOURS[colour], ha=ha, weight=weight, alpha=alpha, va="center_baseline")
        self.marks.append(lambda axes: axes.text(x, y, text, zorder=4, parse_math=False, **style))

    def _box(self, x, y, width, height, label, shape, family, alive):
        faded = 1.0 if alive else 0.4
        rounding = height / 2 if family in ("join", "port") and not shape else 5
        style = f"round,pad=0,rounding_size={rounding}"
        look: dict[str, Any] = dict(
            facecolor=COLOURS[family], edgecolor=COLOURS["muted"], lw=0.9, alpha=faded, zorder=3
        )
        if family == "zeros" or not alive:
            look["linestyle"] = (0, (3, 2))
        patch = FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=style, **look)
        self.marks.append(lambda axes: axes.add_patch(patch))
        dim = 1.0 if alive else 0.6
        self._text(x, y - (6 if shape else 0), label, 9.5 if label != "+" else 12, "ink", alpha=dim)
        if shape:
            self._text(x, y + 8, shape, 7.5, "muted", alpha=dim)

    def _arrow(self, points, alive, label="", family=""):
        look: dict[str, Any] = dict(
            edgecolor=COLOURS["muted"], facecolor="none", lw=1.15, alpha=1.0 if alive else 0.45, zorder=2
        )
        if not alive:
            look["linestyle"] = (0, (3, 2))
        tip = points[-1]
        ends = [*points[:-1], (tip[0] - 5, tip[1])]
        at, codes = [ends[0]], [Path.MOVETO]
        for k, (a, b) in enumerate(itertools.pairwise(ends)):
            if k % 2:  # through a column: straight, so that it keeps its distance from the boxes there
                at.append(b)
                codes.append(Path.LINETO)
            else:
                bend = (a[0] + b[0]) / 2
                at += [(bend, a[1]), (bend, b[1]), b]
                codes += [Path.CURVE4] * 3
        line = PathPatch(Path(at, codes), **look)
        head = [tip, (tip[0] - 6.5, tip[1] - 3.2), (tip[0] - 6.5, tip[1] + 3.2)]
        arrow = Polygon(head, closed=True, color=COLOURS["muted"], lw=0, alpha=look["alpha"], zorder=2)
        self.marks.append(lambda axes: (axes.add_patch(line), axes.add_patch(arrow)))
        if label:
            self._text((ends[0][0] + tip[0]) / 2, (ends[0][1] + tip[1]) / 2 - 8, label, 8.5, "ink")


def _cell_graph(nodes, unit):
    """((label, shape, family, alive) of each box, (from, to, times, alive) of each edge), ports included."""
    units = list(dict.fromkeys(n.unit for n in nodes))
    back = {j: units.index(unit.name) - units.index(nodes[j].unit) for j in unit.sources}
    place = {j: k for k, j in enumerate((*unit.sources, *unit.nodes))}
    labels = []
    for j in unit.sources:
        name = "input" if len(unit.sources) == 1 else "previous" if back[j] == 1 else f"{back[j]} before"
        labels.append((name, _dims(nodes[j].shape), "port", True))
    edges: dict[tuple[int, int], list] = {}
    for i in unit.nodes:
        node = nodes[i]
        shape = "" if node.kind == "add" else _dims(node.shape)
        blind = not node.inputs and node.family not in ("port", "zeros")
        labels.append(
            ("+" if node.kind == "add" else node.kind, shape + (" of zeros" if blind else ""), node.family, node.alive)
        )
        for j in node.inputs:
            edge = edges.setdefault((place[j], place[i]), [0, node.alive])
            edge[0] += 1
    end = len(labels)
    zeros = not unit.exports and not unit.identity
    labels.append(("output", "zeros" if zeros else _dims(_unit_shape(nodes, unit)), "zeros" if zeros else "port", True))
    for i in unit.exports:
        edges[place[i], end] = [1, nodes[i].alive]
    if unit.identity and unit.sources:
        edges[0, end] = [1, True]
    return labels, [(a, b, times, alive) for (a, b), (times, alive) in edges.items()]


def _box_size(label, shape, family):
    if label == "+":
        return 22.0, 22.0
    return max(_text_width(label, 9.5), _text_width(shape, 7.5)) + 18, 36.0


def _text_width(text, size, weight="normal"):
    """Width in points; measured, as names have any length."""
    if not text.strip():
        return 0.0
    return float(TextPath((0, 0), text, size=size, prop=FontProperties(weight=weight)).get_extents().width)
