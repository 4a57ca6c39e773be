"""The one place where strategy, journal and trials meet; executors only move jobs and reports."""

import math
import time
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from nas.cost import Cost, cost_column, count_costs
from nas.errors import BadInput
from nas.evaluate import Job, keep_going
from nas.journal import RunFolder
from nas.objective import Objective, pareto_front
from nas.result import Result, Trial, longest, priced
from nas.space import Macro, SearchSpace
from nas.strategy import Strategy


class Driver:
    """The one place where strategy, journal and trials meet; both executors only move jobs and reports.

    Every change is in the journal, on disk, before the strategy is told or a candidate handed out. A driver opened on
    an old journal replays it through the strategy and goes on where it ended; candidates that were handed out and not
    reported are handed out again, under their old id.
    """

    def __init__(
        self,
        space: SearchSpace,
        strategy: Strategy | None,
        *,
        objective: Objective,
        costs: Mapping[str, Cost],
        folder: RunFolder,
        seed: int,
        trials: int | None,
        seconds: float | None,
        eta: int | None = None,
        macro: Macro | None = None,
    ):
        self.space, self.objective, self.folder, self.seed = space, objective, folder, seed
        self.costs = {**count_costs(space, macro), **costs}
        self.columns = {name: cost_column(name, cost) for name, cost in self.costs.items()}
        # a function of the row takes milliseconds: where it decides nothing it waits for whoever looks (`priced`)
        read = {*objective.costs, *(limit.cost for limit in objective.limits)}
        self._deciding = {name: c for name, c in self.costs.items() if c.function is None or name in read}
        self.limit, self.eta = trials, eta
        self.seconds = seconds
        self.deadline: float | None = None
        self.stopping = False
        self.trials: list[Trial] = []
        self._again: list[Trial] = []
        self._rungs: dict[int, list[float]] = {}
        self._strategy = strategy
        self._valid = jax.jit(space.valid)
        if strategy is not None:
            self._ask = jax.jit(strategy.ask, static_argnums=1) if strategy.pure else strategy.ask
            self._tell = jax.jit(strategy.tell) if strategy.pure else strategy.tell
            self.state = strategy.init(jax.random.key(seed))
            if strategy.pure:
                self._check_shapes(strategy)
        self._replay()

    # ---- what executors call -------------------------------------------------------------------------------------
    def start(self) -> None:
        """The time budget runs from here, when workers are there, not while a cluster starts."""
        self.deadline = None if self.seconds is None else time.monotonic() + self.seconds

    def next(self) -> Job | None:
        """The next job; None means wait for results, or nothing is left (`over`)."""
        if self._again:
            return self._job(self._again.pop(0))
        if self.exhausted:
            return None
        asked, state = self._ask(self.state, 1)
        asked = jax.device_get(asked)
        if int(asked.id[0]) < 0:
            return None
        # a copy, as a view would keep XLA's buffer, kilobytes, for the whole search
        trial = Trial(int(asked.id[0]), np.array(asked.row[0]), int(asked.epochs[0]), bool(asked.random[0]))
        if trial.id != len(self.trials):
            raise BadInput(f"strategy: it asked for id {trial.id} where {len(self.trials)} is next; ids count from 0")
        if trial.row.shape != (self.space.length,):
            raise BadInput(
                f"strategy: it asked for a row of {trial.row.shape} where space '{self.space.name}' has "
                f"{self.space.length} decisions; make it for this space"
            )
        if not self._valid(trial.row[None]).all():
            raise BadInput(f"strategy: row {trial.row.tolist()} is not allowed in space '{self.space.name}'")
        self.folder.append(
            {"event": "asked", "id": trial.id, "row": trial.row, "epochs": trial.epochs, "random": trial.random}
        )
        self.state = state
        self.trials.append(trial)
        return self._job(trial)

    def rung(self, id: int, metrics: Mapping[str, float]) -> bool:
        """A report before the end; whether to go on with the candidate."""
        trial = self.trials[id]
        scores, violation = self.objective(self._with_costs(trial, metrics))
        # what breaks a limit will not be returned, so it does not hold a place against those that may be
        score = float(scores[0]) if violation.sum() <= 0 else -math.inf
        epochs = int(metrics["epochs"])
        self._forget_rung(trial, epochs)
        goes_on = self.eta is None or keep_going(self._rungs.get(epochs, []), score, self.eta)
        self.folder.append({"event": "rung", "id": id, "epochs": epochs, "score": score, "goes_on": goes_on})
        self._apply_rung(trial, epochs, score)
        return goes_on

    def finish(self, id: int, metrics: Mapping[str, float], *, stopped: bool = False) -> Trial:
        """The candidate's last metrics."""
        trial = self.trials[id]
        found = self._with_costs(trial, metrics)
        scores, violation = self.objective(found)
        if not np.isfinite(scores).all():
            missing = [n for n, v in found.items() if not math.isfinite(v)] or [self.objective.metric]
            return self.fail(id, f"no finite value of {', '.join(missing)}", seconds=found.get("seconds", 0.0))
        status = "stopped" if stopped else "finished"
        event = {"event": status, "id": id, "metrics": found, "scores": scores, "violation": violation}
        self.folder.append(event)
        return self._apply_result(trial, event)

    def fail(self, id: int, reason: str, *, seconds: float = 0.0) -> Trial:
        """The candidate could not be evaluated; the search goes on."""
        event = {"event": "failed", "id": id, "reason": " ".join(reason.split())[:500], "seconds": seconds}
        self.folder.append(event)
        return self._apply_result(self.trials[id], event)

    def adopt(self, results: Mapping[int, Mapping[str, float]]) -> None:
        """Takes what workers have written of candidates, where no driver has heard of it."""
        for trial in [t for t in self.trials if t.status == "pending" and t.id in results]:
            self._again = [t for t in self._again if t is not trial]
            self.finish(trial.id, results[trial.id])

    def again(self, ids: Iterable[int] | None = None) -> None:
        """Hands out once more what is under way, all of it or these ids: what ran it is gone, by no fault of theirs."""
        waiting = {t.id for t in self._again}
        for trial in self.trials:
            if trial.status == "pending" and trial.id not in waiting and (ids is None or trial.id in ids):
                for epochs in list(trial.rungs):
                    self._forget_rung(trial, epochs)
                self._again.append(trial)

    def retried(self, id: int, reason: str) -> None:
        """Records that a candidate's worker died, and that it starts again in another."""
        self.folder.append({"event": "retried", "id": id, "reason": " ".join(reason.split())[:500]})

    @property
    def exhausted(self) -> bool:
        """No new candidate will be asked for."""
        out_of_time = self.deadline is not None and time.monotonic() >= self.deadline
        enough = self.limit is not None and len(self.trials) >= self.limit
        done = self._strategy is not None and bool(self._strategy.done(self.state))
        return self.stopping or out_of_time or enough or done

    @property
    def over(self) -> bool:
        """Nothing is left to ask, and nothing is under way."""
        return not self._again and self.exhausted and all(t.status != "pending" for t in self.trials)

    # ---- inside --------------------------------------------------------------------------------------------------
    def _job(self, trial):
        return Job(trial.id, trial.row, trial.epochs, self.seed)

    def _with_costs(self, trial, metrics):
        found = {name: float(value) for name, value in metrics.items()}
        for name, cost in self._deciding.items():
            found[self.columns[name]] = found[name] = float(cost(trial.row[None])[0])
        return found

    def _forget_rung(self, trial, epochs):
        # a candidate that started again passes its rungs again, and counts once at each
        if epochs in trial.rungs:
            self._rungs[epochs].remove(trial.rungs.pop(epochs))

    def _apply_rung(self, trial, epochs, score):
        self._forget_rung(trial, epochs)
        self._rungs.setdefault(epochs, []).append(score)
        trial.rungs[epochs] = score

    def _apply_result(self, trial, event):
        nan = np.full(len(self.objective.axes), np.nan, np.float32)
        trial.status = event["event"]
        trial.scores = np.asarray(event.get("scores", nan), np.float32)
        trial.violation = np.asarray(event.get("violation", np.zeros(len(self.objective.limits))), np.float32)
        trial.metrics = {
            n: math.nan if v is None else v
            for n, v in event.get("metrics", {}).items()
            if n not in self.costs or n == self.columns[n]
        }
        trial.reason = event.get("reason", "")
        trial.seconds = float(trial.metrics.get("seconds", event.get("seconds") or 0.0))
        if self._strategy is not None:
            told = jnp.asarray([trial.id]), jnp.asarray(trial.scores[None]), jnp.asarray(trial.violation[None])
            self.state = self._tell(self.state, *told)
        return trial

    def _check_shapes(self, strategy):
        m, c = len(self.objective.axes), len(self.objective.limits)
        told = (np.zeros(1, np.int32), np.zeros((1, m), np.float32), np.zeros((1, c), np.float32))
        try:
            jax.eval_shape(strategy.tell, self.state, *told)
        except (TypeError, ValueError):
            raise BadInput(
                f"strategy: {strategy.name} was made for another objective; this one gives {m} score(s) and {c} "
                f"violation(s): make it with objectives={m}, constraints={c}"
            ) from None

    def _replay(self):
        for event in self.folder.take():
            kind, id = event["event"], event["id"]
            if kind == "asked":
                self._check_row(event)
                self._check_asked(event)
                self.trials.append(Trial(id, np.asarray(event["row"], np.int32), event["epochs"], event["random"]))
            elif id >= len(self.trials):
                raise BadInput(f"out: the journal reports on id {id}, which was never asked; it was edited or damaged")
            elif kind == "rung":
                score = math.nan if event["score"] is None else event["score"]
                self._apply_rung(self.trials[id], event["epochs"], score)
            elif kind != "retried":
                self._check_result(event)
                self._apply_result(self.trials[id], event)
        self._check_rows()
        self.again()

    def _check_result(self, event):
        axes, limits = self.objective.axes, self.objective.limits
        fits = len(event.get("scores", axes)) == len(axes) and len(event.get("violation", limits)) == len(limits)
        if not fits or self.trials[event["id"]].status != "pending":
            raise BadInput(
                f"out: the journal's result of id {event['id']} is its second one or one of another objective; "
                "it was edited or damaged"
            )

    def _check_row(self, event):
        row, sizes = event["row"], self.space.cardinalities
        good = len(row) == len(sizes) and all(i < k for i, k in zip(row, sizes, strict=True))
        if not good or event["id"] != len(self.trials):
            raise BadInput(
                f"out: the journal asks for id {event['id']} with row {str(row)[:60]}, which is none of space "
                f"'{self.space.name}' or not its turn; it was edited or damaged"
            )

    def _check_rows(self):
        """Of a journal without its strategy, which would have said so where they are not what it asks for."""
        if self._strategy is None and self.trials and not self._valid(np.stack([t.row for t in self.trials])).all():
            raise BadInput(f"out: the journal has rows that are not allowed in space '{self.space.name}'")

    def _check_asked(self, event):
        if self._strategy is None:
            return
        asked, self.state = self._ask(self.state, 1)
        if int(asked.id[0]) != event["id"] or np.asarray(asked.row[0]).tolist() != event["row"]:
            raise BadInput(
                f"out: trial {event['id']} of the journal is not what this strategy asks for; "
                "it was written with other versions, or edited"
            )

    def result(self, started: float | None = None) -> Result:
        """The search so far; without `started` its wall time is that between the first and the last event."""
        done = longest(self.trials)
        scores = np.stack([t.scores for t in done]) if done else np.zeros((0, 1), np.float32)
        violation = np.stack([t.violation for t in done]) if done else np.zeros((0, 0), np.float32)
        front = [t for t, on in zip(done, pareto_front(scores, violation), strict=True) if on]
        front.sort(key=lambda t: (-t.scores[0], t.id))
        result = Result(
            space=self.space,
            objective=self.objective,
            trials=tuple(self.trials),
            best=front[0] if front else None,
            pareto=tuple(front),
            seconds=time.monotonic() - started if started is not None else self.folder.span,
            device_seconds=sum(t.seconds for t in self.trials),
            complete=self.over and not self.stopping,
            description=self.folder.description,
            costs=self.costs,
            out=self.folder.path,
        )
        # without a second axis the front is whatever ties with the best
        return priced(result, front if len(self.objective.axes) > 1 else front[:1])


Observer = Callable[[str, Driver, Trial | None], None]


def quiet(event: str, driver: Driver, trial: Trial | None) -> None:
    """An observer that shows nothing."""
