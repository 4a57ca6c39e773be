"""What a search gives back, the same from every executor."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nas.cost import Cost, cost_column
from nas.objective import Objective
from nas.space import SearchSpace


@dataclass
class Trial:
    """One candidate and what became of it.

    Attributes:
        id: in the order of asking.
        row: int32[L].
        epochs: asked for; 0 is what the recipe says.
        random: drawn without using any result.
        status: pending, finished, stopped (at a rung) or failed.
        metrics: of the last report, costs included under their column names. Of a cost that is a function of the row
            and that the objective does not read, only of the best, of a front over several axes, and after `priced`.
        scores: float32[M], NaN when failed.
        violation: float32[C].
        reason: why it failed.
        seconds: of the worker.
        rungs: epochs -> score at that rung.
    """

    id: int
    row: np.ndarray
    epochs: int = 0
    random: bool = False
    status: str = "pending"
    metrics: dict[str, float] = field(default_factory=dict)
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    violation: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    reason: str = ""
    seconds: float = 0.0
    rungs: dict[int, float] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """Finished within every limit."""
        return self.status == "finished" and bool(np.isfinite(self.scores).all()) and float(self.violation.sum()) <= 0

    @property
    def trained(self) -> float:
        """Epochs it was trained, as far as its evaluation says; else those asked for."""
        return self.metrics.get("epochs", self.epochs)


def longest(trials: Iterable[Trial]) -> list[Trial]:
    """The finished trials that were trained for the most epochs; they alone are compared, and one of them wins.

    What scores high after a few epochs is not the better network, and a multi-fidelity strategy trains its best for
    longer. Where every one of those breaks a limit, it is the most epochs of those that do not.
    """
    done = [t for t in trials if t.status == "finished"]
    most = max([t.trained for t in done if t.feasible] or [t.trained for t in done], default=0)
    return [t for t in done if t.trained == most]


@dataclass(frozen=True)
class Result:
    """What a search gives back; the same from this process and from Ray Tune.

    Attributes:
        space: searched.
        objective: maximised.
        trials: all of them, by id.
        best: the best finished trial within the limits (the most accurate one of a Pareto search), or None;
            of the `longest` trained, where trials were trained for different numbers of epochs.
        pareto: trials that no other dominates, most accurate first; of the same ones.
        seconds: wall time of this call.
        device_seconds: time that workers spent on candidates, all calls together.
        complete: whether the whole budget was used.
        description: what `search.json` holds.
        costs: name -> cost, all that the search computed.
        out: the run folder, or None.
        training: of shared weights, epoch by epoch, as `nas.sharing.training_record` gives it; None elsewhere.
    """

    space: SearchSpace
    objective: Objective
    trials: tuple[Trial, ...]
    best: Trial | None
    pareto: tuple[Trial, ...]
    seconds: float
    device_seconds: float
    complete: bool
    description: Mapping[str, Any]
    costs: Mapping[str, Cost]
    out: Any = None
    training: Mapping[str, Any] | None = None


def priced(result: Result, trials: Iterable[Trial] | None = None) -> Result:
    """The result with every cost in the metrics of these trials; None: of all that have metrics."""
    found: dict[int, dict[str, float]] = {t.id: t.metrics for t in (result.trials if trials is None else trials)}
    found = {id: metrics for id, metrics in found.items() if metrics}
    for name, cost in result.costs.items():
        column = cost_column(name, cost)
        missing = [id for id, metrics in found.items() if column not in metrics]
        if missing:
            values = cost(np.stack([result.trials[id].row for id in missing]))
            found |= {id: found[id] | {column: float(v)} for id, v in zip(missing, values, strict=True)}
    of = lambda trial: replace(trial, metrics=found.get(trial.id, trial.metrics))  # noqa: E731
    new = tuple(map(of, result.trials))
    best = None if result.best is None else new[result.best.id]
    return replace(result, trials=new, best=best, pareto=tuple(new[t.id] for t in result.pareto))


def trial_rows(result: Result) -> list[dict[str, Any]]:
    """Rows of ``trials.csv``: finished, stopped and failed trials by id."""
    return [
        {"id": t.id, "status": t.status, "random": t.random}
        | result.space.decode(t.row)
        | t.metrics
        | {f"score_{axis}": float(v) for axis, v in zip(result.objective.axes, t.scores, strict=True)}
        | {f"over_{x.cost}": float(v) for x, v in zip(result.objective.limits, t.violation, strict=True)}
        | {"seconds": t.seconds, "reason": t.reason}
        for t in priced(result).trials
        if t.status != "pending"
    ]
