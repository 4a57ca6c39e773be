"""The search in this process; `nas.tune` has the same verb through Ray."""

import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax

from nas.cost import Cost
from nas.driver import Driver, Observer, quiet
from nas.evaluate import CandidateFailed, Evaluation, Rung
from nas.objective import Objective
from nas.plan import open_driver
from nas.result import Result
from nas.space import Macro, SearchSpace
from nas.strategy import Strategy

# what a candidate may die of without ending the search; anything else is a fault of the evaluation itself
FAILURES = (CandidateFailed, ArithmeticError, MemoryError, jax.errors.JaxRuntimeError)


def search(
    space: SearchSpace,
    strategy: Strategy,
    evaluation: Evaluation,
    *,
    objective: Objective | None = None,
    costs: Mapping[str, Cost] | None = None,
    trials: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    eta: int | None = None,
    macro: Macro | None = None,
    out: Any = None,
    resume: bool = False,
    observer: Observer = quiet,
    trial_seconds: float | None = None,
) -> Result:
    """Searches in this process, one candidate after the other.

    Args:
        space: what is searched.
        strategy: from `strategies`, closed over the same space.
        evaluation: `nas.evaluate.Scratch`, `nas.evaluate.function`, or anything called once that gives a function from
            `Job` to an iterator of metrics.
        objective: what is maximised; default `nas.objective.accuracy()`.
        costs: name -> cost, beside ``params``, ``macs`` and ``memory``, which are always there.
        trials: candidates to evaluate; and/or
        seconds: wall time after which no new candidate starts, whichever comes first.
        seed: of everything random.
        eta: stop a candidate at a rung unless it is in the best 1/eta there; None trains all to the end.
        macro: frame that parameters, multiply-accumulates and memory are counted for; None: the one
            searched at. Searching small and deploying large, give the large one; the frame of other costs is in their
            stamp.
        out: run folder; None keeps everything in memory.
        resume: go on in `out`.
        observer: called with ("start" | "asked" | "rung" | "told" | "end", driver, trial or None).
        trial_seconds: a candidate that takes longer is a failed trial. Here it is noticed between two operations of
            Python, and in the main thread only; through Ray its process is killed.

    Raises:
        BadInput: no budget, an unknown cost, or a folder that holds another search.

    A keyboard interrupt ends the search with what is there; the candidate under way is not lost to a resume.
    """
    started = time.monotonic()
    driver = open_driver(
        space, strategy, evaluation, objective, costs, trials, seconds, seed, eta, macro, out, resume, executor="local"
    )
    driver.start()
    return run(driver, evaluation, observer, started, trial_seconds)


def run(
    driver: Driver, evaluation: Evaluation, observer: Observer, started: float, trial_seconds: float | None = None
) -> Result:
    """Evaluates what the driver asks for until it is over, in this process, and closes its folder."""
    observer("start", driver, None)
    try:
        evaluate = evaluation() if not driver.over else None
        while (job := driver.next()) is not None:
            observer("asked", driver, driver.trials[job.id])
            observer("told", driver, _evaluate_one(driver, evaluate, job, observer, trial_seconds))
    except KeyboardInterrupt:
        driver.stopping = True
    finally:
        driver.folder.close()
    result = driver.result(started)
    observer("end", driver, None)
    return result


def _timed(reports, seconds):
    """The reports, as long as they come within so many seconds; the alarm is set only while the evaluation runs."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield from reports
        return

    def late(signal_number, frame):
        raise CandidateFailed(f"it took longer than {seconds:g} s")

    until, before = time.monotonic() + seconds, signal.signal(signal.SIGALRM, late)
    try:
        while True:
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, until - time.monotonic()))
            metrics = next(reports, None)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if metrics is None:
                return
            yield metrics
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        reports.close()


def _evaluate_one(driver, evaluate, job, observer, seconds):
    metrics: Mapping[str, float] | None = None
    reports = _timed(iter(evaluate(job)), seconds)
    began = time.monotonic()
    try:
        for metrics in reports:
            if isinstance(metrics, Rung):
                goes_on = driver.rung(job.id, metrics)
                observer("rung", driver, driver.trials[job.id])
                if not goes_on:
                    reports.close()
                    return driver.finish(job.id, metrics, stopped=True)
    except FAILURES as error:
        return driver.fail(job.id, str(error) or type(error).__name__, seconds=time.monotonic() - began)
    if metrics is None:
        return driver.fail(job.id, "the evaluation gave no metrics")
    return driver.finish(job.id, {"seconds": time.monotonic() - began, **metrics})
