"""Pictures of the training of shared weights: its figures epoch by epoch, and the gates over time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nas.plots import COLOURS, finish

# told apart in light and dark alike; the operations of DARTS are eight
LINES = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999", "#ee8866", "#44bb99", "#77aadd")
MAX_PANELS = 36


def curves(training: Mapping[str, Any]) -> Figure:
    """Each metric of the steps, averaged over an epoch: a panel each, a line for each seed; guards are marked."""
    runs = [[entry for entry in run["epochs"] if "metrics" in entry] for run in training["runs"]]
    names = list(dict.fromkeys(name for run in runs for entry in run for name in entry["metrics"]))[:4]
    figure = Figure(figsize=(9.2, 2.8), layout="constrained")
    panels = figure.subplots(1, max(1, len(names)), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=False):
        for run, colour in zip(runs, LINES * len(runs), strict=False):
            at = [entry["epoch"] for entry in run]
            values = [entry["metrics"].get(name, math.nan) for entry in run]
            axes.plot(at, values, color=colour, lw=1.6, marker="." if len(at) < 40 else None)
            acted = [i for i, entry in enumerate(run) if entry["events"]]
            marks = dict(marker="v", color=COLOURS["failed"], s=30, zorder=4)
            axes.scatter([at[i] for i in acted], [values[i] for i in acted], **marks)
        axes.set(xlabel="epoch", ylabel=name.replace("_", " "))
        finish(figure, axes, "", legend=False)
    if not names:
        finish(figure, panels[0], "no epoch is finished")
    return figure


def gates_over_time(gates: Any, edges: Sequence[str], options: Sequence[Sequence[Any]]) -> Figure:
    """The share of each option on each edge, stacked, over the epochs.

    Args:
        gates: float[T, E, K] from 0 to 1; entries beyond an edge's options are left out.
        edges: names.
        options: of each edge.
    """
    gates = np.asarray(gates, float)
    shown = min(len(edges), MAX_PANELS)
    columns = min(7, shown)
    rows = -(-shown // columns)
    names = list(dict.fromkeys(str(option) for some in options for option in some))
    colours = dict(zip(names, LINES * (1 + len(names) // len(LINES)), strict=False))
    figure = Figure(figsize=(9.2, 0.5 + 1.15 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    times = np.arange(1, len(gates) + 1)
    for axes, edge, own, values in zip(panels, edges, options, gates.swapaxes(0, 1), strict=False):
        parts = np.maximum(values[:, : len(own)], 0).T
        parts = parts / np.maximum(parts.sum(0), 1e-9)
        if len(times) == 1:  # one epoch is no area
            parts, at = np.repeat(parts, 2, 1), np.asarray([0.5, 1.5])
        else:
            at = times
        axes.stackplot(at, parts, colors=[colours[str(option)] for option in own], lw=0)
        axes.set(ylim=(0, 1), xlim=(at[0], at[-1]), yticks=[])
        axes.set_title(edge, fontsize=7.5, color=COLOURS["ink"], pad=2)
        finish(figure, axes, "", legend=False)
        axes.tick_params(labelsize=7)
    for axes in panels[shown:]:
        axes.set_axis_off()
    handles = [Patch(color=colour) for colour in colours.values()]
    figure.legend(
        handles,
        names,
        loc="outside upper center",
        ncols=min(6, len(names)),
        frameon=False,
        fontsize=8,
        labelcolor=COLOURS["ink"],
    )
    return figure
