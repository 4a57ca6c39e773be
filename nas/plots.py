"""Pictures of a search: its curve and its Pareto front, as matplotlib figures without pyplot's global state."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nas.objective import pareto_front
from nas.result import Result
from nas.summary import expected_best, finished, random_samples, shorter
from nas.wording import column_of, cost_columns, cost_name, cost_quantity, scale, score_name

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
        ("trained for less", shorter(result), dict(marker=".", color=COLOURS["point"], s=20)),
    ]
    for label, trials, style in groups:
        if trials:
            axes.scatter([t.id for t in trials], [t.scores[0] for t in trials], label=label, zorder=3, **style)
    _draw_random(axes, result)
    ids: list[int] = []
    best: list[float] = []
    for trial in done:
        if trial.feasible:
            ids.append(trial.id)
            best.append(max([float(trial.scores[0]), *best[-1:]]))
    if best:
        axes.step(
            [*ids, len(result.trials) - 1], [*best, best[-1]], where="post", color=COLOURS["accent"], lw=2, zorder=4
        )
        axes.lines[-1].set_label("best so far" + (" within the limits" if result.objective.limits else ""))
    failed = [t.id for t in result.trials if t.status == "failed"]
    if failed:
        # on the lower edge: a failed trial has no score
        at = dict(transform=axes.get_xaxis_transform(), clip_on=False, zorder=5)
        axes.scatter(failed, [0.0] * len(failed), marker="x", color=COLOURS["failed"], s=34, label="failed", **at)
    axes.set(xlabel="trial", ylabel=score_name(result.objective), xlim=(-0.7, max(len(result.trials), 1) - 0.3))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(figure, axes, "no finished trial" if not done else "")
    return figure


def _draw_random(axes, result):
    within, outside = random_samples(result)
    if len(within) < 2:
        return
    draws = np.arange(1, len(result.trials) + 1)
    mean, low, high = expected_best(within, len(draws), outside=outside)
    label = f"random search, expected best (from {sum(t.random for t in finished(result))} samples)"
    axes.plot(draws - 1, mean, "--", color=COLOURS["random"], lw=1.6, zorder=2, label=label)
    axes.fill_between(draws - 1, low, high, color=COLOURS["band"], lw=0, zorder=1, label="its 10th to 90th percentile")


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
        finish(figure, panel, "no finished trial" if not done else "", legend=column == columns[0])
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


def finish(figure, axes, empty, *, legend=True):
    """The look of all pictures: colours, grid, legend; `empty` says why there is nothing to see."""
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
