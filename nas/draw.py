"""The picture of the network that a search found."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from nas.diagram import network_nodes, network_units
from nas.layers import Layer
from nas.layout import layout
from nas.plots import COLOURS

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
        centres, paths, width = layout(sizes, [e[:2] for e in edges])
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
