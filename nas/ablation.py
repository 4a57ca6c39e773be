"""What each choice of the found network is worth: its one-change neighbours that the search has evaluated anyway."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.page import escape, table
from nas.result import Result, Trial
from nas.summary import finished
from nas.wording import cost_columns, cost_name, cost_text, value_text


@dataclass(frozen=True)
class Change:
    """One decision changed, and what came of it.

    Attributes:
        trial: the neighbour.
        decision: its name.
        of: the found network's option.
        to: the neighbour's option.
        scores: float32[M], the neighbour's minus the found network's.
        costs: cost column -> the same difference.
    """

    trial: Trial
    decision: str
    of: Any
    to: Any
    scores: np.ndarray
    costs: dict[str, float]


def one_change(result: Result) -> list[Change]:
    """Finished trials that differ from the best one in a single decision, in the order of decisions and options.

    A single training each: differences below the spread of a repeated training mean nothing. Of several trials of the
    same row the first is taken.
    """
    best, found = result.best, dict[tuple[int, int], Trial]()
    if best is None:
        return []
    for trial in finished(result):
        (places,) = np.nonzero(trial.row != best.row)
        if len(places) == 1:
            found.setdefault((int(places[0]), int(trial.row[places[0]])), trial)
    changes = []
    for (i, option), trial in sorted(found.items()):
        decision = result.space.decisions[i]
        costs = {c: trial.metrics[c] - best.metrics[c] for c in cost_columns(result) if c in trial.metrics}
        of, to = decision.options[int(best.row[i])], decision.options[option]
        changes.append(Change(trial, decision.name, of, to, trial.scores - best.scores, costs))
    return changes


def ablation(result: Result) -> str:
    """The changes as a part of the report; empty where there are none."""
    changes = one_change(result)
    if not changes:
        return ""
    columns = [c for c in cost_columns(result) if all(c in change.costs for change in changes)]
    axes = [axis for axis in result.objective.axes if axis not in result.objective.costs]
    head = ["decision", "from", "to", *axes, *map(cost_name, columns), "trial"]
    rows = [
        [change.decision, value_text(change.of), value_text(change.to)]
        + [f"{float(score):+.4g}" for score, _ in zip(change.scores, axes, strict=False)]
        + [("+" if change.costs[c] >= 0 else "−") + cost_text(c, abs(change.costs[c])) for c in columns]
        + [str(change.trial.id) + ("" if change.trial.feasible else " (breaks a limit)")]
        for change in changes
    ]
    text = "Finished trials that differ from the found network in one decision: what that change alone did. Each was "
    text += "trained once, so differences as small as those between two seeds mean nothing."
    return table(head, [[escape(cell) for cell in row] for row in rows]) + f"<p>{text}</p>"
