"""`nas compare`: many strategies on benchmark tables, paired with random search seed by seed, and a picture."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments import benchmarks
from experiments.cli import show
from experiments.replay_command import Source, check_strategy, make, run, summary
from nas.errors import BadInput
from nas.files import write_json
from nas.plots import COLOURS
from nas.replay import Benchmark, Replayed
from strategies import STRATEGIES

# Okabe and Ito's, legible with every kind of colour vision
LINES = ("#0072b2", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7b3294", "#8c8c00", "#444444")


def main(
    tables: Sequence[str],
    dataset: str | None,
    strategies: str | None,
    queries: int,
    runs: int,
    features: tuple[str, ...],
    seed: int,
    out: Path | None,
    json: bool,
) -> None:
    """Replays every strategy on every table from the options of the command line."""
    names = list(dict.fromkeys(strategies.split(",") if strategies else STRATEGIES))
    for name in names:
        check_strategy(name)
    if runs < 2:
        raise BadInput("--runs 1: a comparison needs at least 2 runs, to say how far they spread")
    if dataset is not None and len(tables) > 1:
        raise BadInput("--dataset goes with one table; with several, each is read with its first data set")
    sources = [Source(name, dataset, features=features) for name in _named(tables)]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    found = []
    for source in sources:
        table = source.load()
        those = fitting(["random_search", *names], table, queries, named=strategies is not None)
        results = compare(those, table, source, queries, runs, seed)
        rows = paired(results, table, queries)
        found.append({"benchmark": table.name, "optimum": float(table.test.max()), "strategies": rows})
        if out is not None:
            name = "compare.png" if len(sources) == 1 else f"compare-{source.table}.png"
            picture(results, table, queries).savefig(out / name, dpi=120)
        if not json:
            print(text(table, queries, runs, rows), flush=True)
    if out is not None:
        write_json(out / "compare.json", found)
    if json:
        show({"tables": found})


def _named(tables: Sequence[str]) -> list[str]:
    return list(benchmarks.BENCHMARKS) if list(tables) == ["all"] else list(dict.fromkeys(tables))


def fitting(names: Sequence[str], table: Benchmark, queries: int, *, named: bool) -> list[str]:
    """Those that can search this table, each once; said before any is run, and refused where a person named it."""
    found = []
    for name in dict.fromkeys(names):
        try:
            make(name, table, queries)
        except BadInput as error:
            if named:
                raise
            print(f"nas: left out on {table.name}: {error}", file=sys.stderr)
        else:
            found.append(name)
    return found


def compare(names, table: Benchmark, source: Source, queries: int, runs: int, seed: int) -> dict[str, Replayed]:
    """Every strategy on one table, with the same seeds and budget."""
    found = {}
    for name in names:
        # a strategy that takes no features is what it is without them
        strategy = make(name, table, queries)
        found[name] = run(strategy, name, table, source, {}, queries=queries, runs=runs, seed=seed)
    return found


def paired(results: Mapping[str, Replayed], table: Benchmark, queries: int) -> list[dict[str, Any]]:
    """For each strategy its summary, and its difference to random search over pairs of runs of one seed.

    `beats_random` is True, False, or None where the mean difference is within two standard errors of none.
    """
    random, rows = results["random_search"], []
    for name, result in results.items():
        row = summary(make(name, table, queries), table, queries, result, random)
        gain = result.test.astype(np.float64) - random.test
        mean, error = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))
        clear = abs(mean) > 2 * error
        rows.append({**row, "gain": mean, "gain_stderr": error, "beats_random": mean > 0 if clear else None})
    return rows


def text(table: Benchmark, queries: int, runs: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for people, the best first."""
    digits = 2 if table.scale > 1 else 4
    lines = [
        f"{table.name}: {queries * table.epochs[0]:,} epochs, {runs} runs; best there is {table.test.max():.{digits}f}",
        f"  {'strategy':24}{'mean':>9} {'std error':>10}{'over random':>13} {'std error':>10}",
    ]
    for row in sorted(rows, key=lambda r: -r["mean"]):
        words = {True: "better", False: "worse", None: "no clear difference"}[row["beats_random"]]
        own = row["strategy"] == "random_search"
        lines.append(
            f"  {row['strategy']:24}{row['mean']:9.{digits}f} {row['stderr']:10.{digits + 1}f}"
            + ("" if own else f"{row['gain']:+13.{digits}f} {row['gain_stderr']:10.{digits + 1}f}  {words}")
        )
    return "\n".join([*lines, *(f"  {note}" for note in table.notes)])


# ---- the picture -------------------------------------------------------------------------------------------------
def picture(results: Mapping[str, Replayed], table: Benchmark, queries: int) -> Figure:
    """Mean of what is chosen against the epochs spent (band: two standard errors), and how single runs end."""
    ranked = sorted(results, key=lambda name: -results[name].mean)
    colours = dict(zip([n for n in ranked if n != "random_search"], LINES * 9, strict=False))
    colours["random_search"] = COLOURS["ink"]
    figure = Figure(figsize=(10.5, 5.2), layout="constrained", facecolor=COLOURS["surface"])
    main, ends = figure.subplots(1, 2, width_ratios=[3, 1.15], sharey=True)
    optimum, spent = float(table.test.max()), table.epochs[0] * np.arange(1, queries + 1)
    first = max(1, queries // 12)
    low = min(
        float(np.nanmean(result.curve[:, first]))
        for result in results.values()
        if np.isfinite(result.curve[:, first]).any()
    )
    for name in ranked:
        curve = results[name].curve
        known = np.isfinite(curve).all(0)
        mean, error = curve[:, known].mean(0), curve[:, known].std(0) / np.sqrt(len(curve))
        style = dict(color=colours[name], lw=2, ls="--" if name == "random_search" else "-", zorder=3)
        main.plot(spent[known], mean, **style)
        main.fill_between(spent[known], mean - 2 * error, mean + 2 * error, color=colours[name], alpha=0.15, lw=0)
    margin = 0.04 * (optimum - low)
    for axes in (main, ends):
        axes.axhline(optimum, color=COLOURS["muted"], lw=1, ls=":")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=COLOURS["grid"], lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=COLOURS["muted"], labelsize=10)
    main.text(spent[-1] * 0.01, optimum, f"best of the table {optimum:.2f}", va="bottom", color=COLOURS["muted"])
    _label_ends(
        main, {name: results[name].mean for name in ranked}, colours, spent[-1], 0.052 * (optimum - low + 2 * margin)
    )
    _draw_ends(ends, results, ranked, colours)
    main.set(xlim=(0, spent[-1]), ylim=(low - margin, optimum + 2 * margin))
    main.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    runs = len(next(iter(results.values())).test)
    main.set_xlabel("epochs of training spent", fontsize=11)
    main.set_ylabel(f"test accuracy of the chosen network, {table.name}", fontsize=11)
    main.set_title(f"mean of {runs} runs, band: two standard errors", loc="left", fontsize=11)
    ends.set_title("how single runs end", loc="left", fontsize=11)
    ends.set_xlabel("box: half of the runs\nline: nine of ten", fontsize=11)
    return figure


def _label_ends(axes, means: Mapping[str, float], colours, x: float, gap: float) -> None:
    """Names at the ends of the lines, pushed apart where they would overlap."""
    heights: list[float] = []
    for mean in means.values():
        heights.append(min([mean, *(h - gap for h in heights[-1:])]))
    for (name, mean), height in zip(means.items(), heights, strict=True):
        label = f"{name.replace('_', ' ')}  {mean:.2f}"
        axes.annotate(
            label, (x, mean), (x * 1.02, height), color=colours[name], fontsize=11, va="center", annotation_clip=False
        )


def _draw_ends(axes, results: Mapping[str, Replayed], ranked: Sequence[str], colours) -> None:
    for x, name in enumerate(ranked):
        low, quarter, half, three, high = np.percentile(results[name].test, [5, 25, 50, 75, 95])
        axes.plot([x, x], [low, high], color=colours[name], lw=1.5, solid_capstyle="round")
        axes.plot([x, x], [quarter, three], color=colours[name], lw=9, alpha=0.45, solid_capstyle="butt")
        axes.plot([x], [half], "_", color=colours[name], ms=12, mew=2.5)
    axes.set(xlim=(-0.7, len(ranked) - 0.3), xticks=[])
