"""Names of costs and scores, and figures with their units, as people read them."""

import math
from typing import Any

from nas.objective import MINIMISED, UNITS, Objective
from nas.result import Result

NO_REASON = "no reason given"


def score_name(objective: Objective) -> str:
    """What the first score is: the metric itself (or its negative), or MnasNet's reward."""
    if objective.metric in MINIMISED:
        return f"negative {objective.metric}"
    return "MnasNet reward" if objective.kind == "mnasnet" else objective.metric


def cost_quantity(column: str) -> str | None:
    """The quantity of a metrics column that holds a cost (``phone_latency_ms`` -> latency), else None."""
    for quantity, (unit, _) in UNITS.items():
        suffix = f"{quantity}_{unit}" if unit else quantity
        if column == suffix or column.endswith(f"_{suffix}"):
            return quantity
    return None


def column_of(cost: str, metrics: Any) -> str | None:
    """The column under which `metrics` holds a cost of this name; None when it holds none."""
    suffixes = {q: f"{q}_{unit}" if unit else q for q, (unit, _) in UNITS.items()}
    wanted = [suffixes[cost]] if cost in suffixes else [f"{cost}_{suffix}" for suffix in suffixes.values()]
    return next((c for c in wanted if c in metrics), None)


def cost_columns(result: Result) -> list[str]:
    """Columns of all costs: first those the objective reads, then the others in their order."""
    metrics: dict[str, float] = {}
    for trial in [t for t in result.trials if t.status == "finished"]:
        metrics |= trial.metrics
    objective = result.objective
    read = [column_of(c, metrics) for c in (*objective.costs, *(limit.cost for limit in objective.limits))]
    return list(dict.fromkeys([c for c in read if c] + [c for c in metrics if cost_quantity(c)]))


SCALES = {"params": "", "macs": "", "memory": "B", "latency": "ms", "energy": "mJ"}


def scale(quantity: str, value: float) -> tuple[float, str]:
    """(divisor, unit) that make a figure of this size readable: 1.2e6 bytes are (1e6, "MB")."""
    unit = SCALES[quantity]
    if quantity in ("latency", "energy"):
        return (1e3, {"ms": "s", "mJ": "J"}[unit]) if abs(value) >= 1e4 else (1.0, unit)
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return size, prefix + unit
    return 1.0, unit


def cost_text(column: str, value: float) -> str:
    """A cost with its unit: ``1.07 M``, ``3.2 ms``."""
    size, unit = scale(cost_quantity(column) or "params", value)
    return f"{value / size:.3g} {unit}".strip() if abs(value / size) < 1000 else f"{value / size:,.0f} {unit}".strip()


def cost_name(column: str) -> str:
    """A cost column in words: ``phone_latency_ms`` is "phone latency", ``macs`` "multiply-accumulates"."""
    quantity = cost_quantity(column) or column
    word = {"params": "parameters", "macs": "multiply-accumulates", "memory": "activation memory"}.get(
        quantity, quantity
    )
    unit = UNITS[quantity][0] if quantity in UNITS else ""
    rest = column.removesuffix(f"_{unit}" if unit else "").removesuffix(quantity).strip("_").replace("_", " ")
    return f"{rest} {word}".strip()


def number(value: float) -> str:
    """A score to four digits; a dash where there is none."""
    return f"{value:.4g}" if math.isfinite(value) else "–"


def duration(seconds: float) -> str:
    """``8.3 s``, ``12 min``, ``2 h 05 min``."""
    if seconds < 59.5:
        return "under 0.1 s" if seconds < 0.1 else f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def hours_text(hours: float) -> str:
    """Device-hours; seconds are no news there."""
    return f"{hours:.3g} device-hours" if hours >= 0.001 else "under 0.001 device-hours"


def value_text(value: Any) -> str:
    """An option or setting as people read it."""
    return (
        value
        if isinstance(value, str)
        else " × ".join(map(str, value))
        if isinstance(value, list | tuple)
        else str(value)
    )
