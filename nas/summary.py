"""From a Result to what people are shown: pure functions, so that terminal, report and pictures agree."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table
from rich.text import Text

from nas.objective import hypervolume
from nas.result import Result, Trial, longest
from nas.wording import (
    column_of,
    cost_columns,
    cost_name,
    cost_text,
    duration,
    hours_text,
    number,
    score_name,
    value_text,
)

NO_REASON = "no reason given"


@dataclass(frozen=True)
class RandomBaseline:
    """Random search, estimated from the search's own random samples: an estimate from `n`, no separate run.

    Attributes:
        n: random samples that finished.
        lost: further random samples that were stopped at a rung or failed.
        mean: of the scores of the `n`.
        std: their sample standard deviation; NaN for one sample.
        best: among those within the limits; NaN if none is.
        draws: trials of the search, the budget that `expected` is for; lost samples use a draw and give nothing.
        expected: expected best score of `draws` random candidates; NaN if none of the samples is within the limits.
        low: tenth percentile of that best.
        high: its ninetieth percentile.
    """

    n: int
    lost: int
    mean: float
    std: float
    best: float
    draws: int
    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class SizeBaseline:
    """What taking the largest network would have given, and how well size ranks the candidates.

    Attributes:
        column: ``params`` or ``macs``.
        value: of the largest finished trial.
        accuracy: of that trial.
        trial: its id.
        spearman: rank correlation of accuracy with size; NaN below three trials or without variation.
        n: finished trials.
    """

    column: str
    value: float
    accuracy: float
    trial: int
    spearman: float
    n: int


@dataclass(frozen=True)
class Baselines:
    """What the found architecture is held against; see `baselines`.

    Attributes:
        score: what the random baseline is about, as `score_name` says it.
        found: the best trial's score; NaN without one.
        random: None without a finished random sample.
        sizes: largest by parameters, largest by multiply-accumulates (what many papers call FLOPs).
        device_hours: that workers spent on candidates.
        counts: status -> trials.
        reasons: why trials failed -> how many.
    """

    score: str
    found: float
    random: RandomBaseline | None
    sizes: tuple[SizeBaseline, ...]
    device_hours: float
    counts: dict[str, int]
    reasons: dict[str, int]


def finished(result: Result) -> list[Trial]:
    """Trials evaluated to the end, by id; where they were trained for different numbers of epochs, the `longest`."""
    return longest(result.trials)


def shorter(result: Result) -> list[Trial]:
    """Finished trials that were trained for fewer epochs than those that are compared."""
    compared = {t.id for t in finished(result)}
    return [t for t in result.trials if t.status == "finished" and t.id not in compared]


def baselines(result: Result) -> Baselines:
    """Random search, parameters and FLOPs as baselines, and what the search spent."""
    done = finished(result)
    metric = result.objective.metric
    sizes = []
    for column in ("params", "macs"):
        known = [t for t in done if column in t.metrics]
        if known:
            # of equally large ones the mean would be no trial; the first is as good as any and stays the same on resume
            largest = max(known, key=lambda t: (t.metrics[column], -t.id))
            correlation = spearman([t.metrics[metric] for t in known], [t.metrics[column] for t in known])
            value, accuracy = largest.metrics[column], largest.metrics[metric]
            sizes.append(SizeBaseline(column, value, accuracy, largest.id, correlation, len(known)))
    return Baselines(
        score=score_name(result.objective),
        found=float(result.best.scores[0]) if result.best else math.nan,
        random=_random_baseline(result),
        sizes=tuple(sizes),
        device_hours=result.device_seconds / 3600,
        counts=dict(Counter(t.status for t in result.trials)),
        reasons=dict(Counter(t.reason or NO_REASON for t in result.trials if t.status == "failed")),
    )


def random_samples(result: Result) -> tuple[list[float], int]:
    """Scores of the random samples within the limits, and how many others used a trial and gave nothing."""
    short = {t.id for t in shorter(result)}
    drawn = [t for t in result.trials if t.random and t.status != "pending" and t.id not in short]
    within = [float(t.scores[0]) for t in drawn if t.feasible]
    return within, len(drawn) - len(within)


def _random_baseline(result):
    scores = np.asarray([t.scores[0] for t in finished(result) if t.random], np.float64)
    if not len(scores):
        return None
    within, outside = random_samples(result)
    draws = sum(t.status != "pending" for t in result.trials)
    expected = [math.nan] * 3
    if within:
        expected = [float(curve[-1]) for curve in expected_best(within, draws, outside=outside)]
    return RandomBaseline(
        n=len(scores),
        lost=len(within) + outside - len(scores),
        mean=float(scores.mean()),
        std=float(scores.std(ddof=1)) if len(scores) > 1 else math.nan,
        best=max(within, default=math.nan),
        draws=draws,
        expected=expected[0],
        low=expected[1],
        high=expected[2],
    )


def expected_best(
    samples: Sequence[float] | np.ndarray, draws: int, *, outside: int = 0, band: tuple[float, float] = (0.1, 0.9)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best of k random candidates for k = 1 .. draws: mean, and lower and upper quantile, each float64[draws].

    Exact order statistics of the empirical distribution, drawn with replacement: the chance that the best of k is at
    most the i-th smallest of n samples is (i / n) ** k. It can never exceed the best sample.

    Args:
        samples: scores within the limits, at least one.
        draws: the largest k.
        outside: further samples that broke a limit: they use a draw and give nothing. The figures are for the case
            that at least one of the k is within the limits.
        band: the two quantiles.
    """
    values = np.sort(np.asarray(samples, np.float64))
    below = (outside + np.arange(len(values) + 1)) / (outside + len(values))
    cumulative = below[None] ** np.arange(1, draws + 1)[:, None]
    cumulative = (cumulative - cumulative[:, :1]) / (1 - cumulative[:, :1])
    quantiles = [values[np.argmax(cumulative[:, 1:] >= q - 1e-12, axis=1)] for q in band]
    return np.diff(cumulative, axis=1) @ values, quantiles[0], quantiles[1]


def front_volume(result: Result) -> tuple[float, dict[str, float]] | None:
    """Hypervolume of the front of a Pareto search, and its reference point: axis -> score; None for other searches.

    The reference is the worst score of the finished trials on each axis, so figures of two searches compare only when
    they are worked out with the same one (`nas.objective.hypervolume`).
    """
    done = finished(result)
    if result.objective.kind != "pareto" or not done:
        return None
    reference = np.min([t.scores for t in done], axis=0)
    points = np.asarray([t.scores for t in result.pareto]).reshape(-1, len(reference))
    return hypervolume(points, reference), dict(zip(result.objective.axes, reference.tolist(), strict=True))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; NaN below three points or where one side is constant."""
    if len(a) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return math.nan
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values):
    _, place, count = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


# ---- the table at the end of a search ------------------------------------------------------------------------------
def baseline_rows(found: Baselines) -> list[tuple[str, str, str]]:
    """(baseline, figure, how it was come by), for table and report."""
    rows = []
    if found.random:
        r = found.random
        spread = f" ± {number(r.std)}" if math.isfinite(r.std) else ""
        how = f"mean ± standard deviation, best; an estimate from this search's own {r.n} random samples"
        rows.append(("random sample", f"{number(r.mean)}{spread}, best {number(r.best)}", how + _left_out(r)))
        if math.isfinite(r.expected):
            how = f"expected best (10th to 90th percentile) of {r.draws} draws, estimated from the same samples"
            if r.draws > r.n:
                how += "; it cannot exceed the best of them, so it understates random search"
            rows.append(
                ("random search, same trials", f"{number(r.expected)} ({number(r.low)} to {number(r.high)})", how)
            )
    else:
        rows.append(("random search", "–", "no random sample finished, so nothing to estimate it from"))
    for size in found.sizes:
        correlation = f"Spearman correlation with accuracy {number(size.spearman)} (n = {size.n})"
        how = f"trial {size.trial} has the most, {cost_text(size.column, size.value)}; {correlation}"
        rows.append(
            (f"largest by {'parameters' if size.column == 'params' else 'FLOPs (macs)'}", number(size.accuracy), how)
        )
    return rows


def _left_out(random):
    return f"; without {random.lost} that were stopped early or failed" if random.lost else ""


def table(result: Result) -> Table:
    """What the command line prints at the end: the found architecture, its costs, and what it is held against."""
    found = baselines(result)
    out = Table(title=Text(f"search of {result.space.name}"), show_header=False, title_justify="left")
    out.add_column(style="bold", no_wrap=True)
    out.add_column()
    add = lambda name, text: out.add_row(Text(name), Text(text))  # noqa: E731
    if result.best:
        for name, value in result.space.decode(result.best.row).items():
            add(name, value_text(value))
        out.add_section()
        metric = result.objective.metric
        add(metric, f"{number(result.best.metrics.get(metric, math.nan))}  (trial {result.best.id})")
        if found.score != metric:
            add(found.score, number(found.found))
        for column in cost_columns(result):
            add(cost_name(column), cost_text(column, result.best.metrics[column]))
    else:
        add("found", "nothing: " + why_nothing(result))
    out.add_section()
    for name, figure, how in baseline_rows(found):
        add(name, f"{figure}  ({how})")
    out.add_section()
    add("trials", counts_text(found))
    for reason, times in found.reasons.items():
        add("failed", f"{times} × {reason}")
    add("spent", f"{hours_text(found.device_hours)}, {duration(result.seconds)} wall time")
    return out


def counts_text(found: Baselines) -> str:
    """``20 finished, 3 stopped early, 1 failed``."""
    words = {"finished": "finished", "stopped": "stopped early", "failed": "failed", "pending": "not finished yet"}
    return ", ".join(f"{found.counts[s]} {word}" for s, word in words.items() if found.counts.get(s)) or "none"


def why_nothing(result: Result) -> str:
    """Why a search has no best architecture."""
    if not result.trials:
        return "no trial was started"
    done = finished(result)
    if done:
        near = min(done, key=lambda t: float(t.violation.sum()))
        over = [(limit, column_of(limit.cost, near.metrics)) for limit in result.objective.limits]
        figures = [
            f"{cost_name(column)} {cost_text(column, near.metrics[column])}, limit {cost_text(column, limit.value)}"
            for limit, column in over
            if column and near.metrics[column] > limit.value
        ]
        return f"every finished trial breaks a limit; the nearest is trial {near.id}: {'; '.join(figures)}"
    return f"none of {len(result.trials)} trials finished"
