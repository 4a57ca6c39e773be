"""The same search through Ray Tune, on this machine or a cluster."""

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from nas.cost import Cost
from nas.driver import Driver, Observer, quiet
from nas.errors import BadInput
from nas.evaluate import Evaluation
from nas.handover import Results
from nas.objective import Objective
from nas.plan import open_driver
from nas.ray_cluster import StaysHere, check_address, connect, connected, fitting, stands
from nas.result import Result
from nas.space import Macro, SearchSpace
from nas.strategy import Strategy
from nas.tune_worker import Worker

MAX_RESTARTS = 5  # of a Ray of our own that dies


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
    workers: int | None = None,
    cpus: float = 1,
    gpus: float = 0,
    trial_seconds: float | None = None,
    address: str | None = None,
    callbacks: Sequence[tune.Callback] = (),
) -> Result:
    """`nas.search.search` with workers: same arguments, same journal, same `Result`.

    Args:
        space: see `nas.search.search`, as all up to `observer`.
        strategy: results reach it in the order in which workers finish, so an asynchronous one may differ from run to
            run; the journal keeps the order, and a resume follows it.
        evaluation: sent to each worker once and called there; workers are kept for all candidates.
        objective: see there.
        costs: see there.
        trials: see there.
        seconds: see there.
        seed: see there.
        eta: see there.
        macro: see there.
        out: see there.
        resume: see there.
        observer: called in this process.
        workers: candidates at once; default: as many as Ray's CPUs (and GPUs) hold.
        cpus: cores of each worker. XLA gets as many threads: two workers of one core train more small networks an hour
            than one of two.
        gpus: share of a GPU of each worker; each process gets that share of its memory.
        trial_seconds: a candidate that takes longer is killed with its worker, and is a failed trial.
        address: of a running cluster; default RAY_ADDRESS, else a Ray of its own on this machine.
        callbacks: of Ray Tune (TensorBoard, MLflow, Weights & Biases).

    Raises:
        BadInput: as there; or more workers than the machine has cores for.
    """
    started = time.monotonic()
    if trial_seconds is not None and not trial_seconds > 0:
        raise BadInput(f"trial_seconds is {trial_seconds}; it must be above zero")
    if address is not None:
        check_address(address)  # before anything is written
    driver = open_driver(
        space, strategy, evaluation, objective, costs, trials, seconds, seed, eta, macro, out, resume, executor="ray"
    )
    # a search that is over already needs no cluster
    cluster = contextlib.nullcontext(False) if driver.over else connected(address)
    with contextlib.closing(driver.folder), cluster as own:
        workers = 0 if driver.over else fitting(workers, cpus, gpus)
        driver.start()
        results = Results(None if driver.folder.path is None else driver.folder.path.resolve() / ".results")
        driver.adopt(results.read())
        results.begin()
        observer("start", driver, None)
        if not driver.over:
            own_worker = dict(evaluation=evaluation, results=results, cpus=cpus, gpus=gpus, limit=trial_seconds)
            for _ in range(MAX_RESTARTS):
                gone = _run(driver, own_worker, observer, workers, callbacks)
                driver.adopt(results.read())
                if not gone:
                    break
                if not own:
                    raise BadInput("ray: the cluster has gone; nothing finished is lost: start it, and --resume")
                driver.again()
                ray.shutdown()
                connect(None)
        results.clear()
    result = driver.result(started)
    observer("end", driver, None)
    return result


def _run(driver, own_worker, observer, workers, callbacks):
    # Ray's own records are of no use once it ends; on a cluster they must lie where every node can write
    root = None if driver.folder.path is None else driver.folder.path.resolve()
    for left in root.glob(".ray-*") if root else ():  # by a search that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=root, ignore_cleanup_errors=True) as storage:
        trainable = tune.with_resources(
            tune.with_parameters(Worker, **own_worker), {"cpu": own_worker["cpus"], "gpu": own_worker["gpus"]}
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Asker(driver, observer, own_worker["results"]),
                scheduler=_Rungs(driver, observer),
                num_samples=-1,
                max_concurrent_trials=workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=storage,
                verbose=0,
                # the journal is the truth; a checkpoint of each candidate would cost a round trip to its worker
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                # a candidate that kills its worker gets one more chance: the worker may have been the one at fault
                failure_config=tune.FailureConfig(max_failures=1),
                callbacks=[_Retries(driver), watch := _Alive(), _Silent(), *callbacks],
            ),
        )
        try:
            tuner.fit()
        except Exception:
            if not watch.gone:
                raise
        return watch.gone


class _Alive(StaysHere, tune.Callback):
    """Ends Tune's loop when no node of Ray is left: it would wait for ever.

    A cluster whose head stands is waited for: spot machines come back.
    """

    def __init__(self):
        self.gone, self.looked = False, time.monotonic()

    def on_step_begin(self, iteration, trials, **info):
        if time.monotonic() - self.looked > 5:
            self.looked = time.monotonic()
            self.gone = not stands()
            if self.gone:
                raise ConnectionError("no node of Ray is left")


class _Silent(StaysHere, TrialProgressCallback):
    """In the place of Tune's own, which prints nothing here, but keeps every trial: 30 kilobytes each."""

    def log_result(self, *args, **kwargs):
        """Nothing."""

    def on_trial_complete(self, iteration, trials, trial, **info):
        """Nothing."""


class _Retries(StaysHere, tune.Callback):
    def __init__(self, driver: Driver):
        self.driver = driver

    def on_trial_recover(self, iteration, trials, trial, **info):
        self.driver.retried(trial.config["job"]["id"], "its worker died")


class _Asker(StaysHere, Searcher):
    """Ray's side of the strategy; Ray's trial ids become ours."""

    def __init__(self, driver: Driver, observer: Observer, results: Results):
        super().__init__()
        self.driver, self.observer, self.results = driver, observer, results
        self.ids: dict[str, int] = {}

    def suggest(self, trial_id):
        job = self.driver.next()
        if job is None:
            return Searcher.FINISHED if self.driver.exhausted else None
        self.ids[trial_id] = job.id
        self.observer("asked", self.driver, self.driver.trials[job.id])
        return {"job": {"id": job.id, "row": job.row.tolist(), "epochs": job.epochs, "seed": job.seed}}

    def on_trial_complete(self, trial_id, result=None, error=False):
        id = self.ids.pop(trial_id)
        if self.driver.trials[id].status != "pending":
            return
        if (error or not result) and (finished := self.results.of(id)):
            trial = self.driver.finish(id, finished)
        elif error or not result:
            if not self.results.to_blame(id, stands):
                self.driver.retried(id, "its node went, or its worker never began")
                return self.driver.again([id])
            trial = self.driver.fail(id, "its worker died twice (out of memory, or killed)")
        elif "report" not in result:
            trial = self.driver.fail(id, result.get("reason", "no metrics"), seconds=result.get("seconds", 0.0))
        else:
            report = json.loads(result["report"])
            trial = self.driver.finish(id, report["metrics"], stopped=not report["last"])
        self.observer("told", self.driver, trial)

    def save(self, checkpoint_path):
        """Nothing, as `StaysHere`."""

    def restore(self, checkpoint_path):
        """Nothing."""


def _forget(controller, at_least: int = 100) -> None:
    """Takes what is over out of Tune's hands: it keeps kilobytes of each trial, and looks at all of them in each step.

    The lists have no other owner and no public way in; where a later Ray has them no more, it may keep what it likes.
    """
    controller = getattr(controller, "_tune_controller", controller)
    trials = controller.get_trials()
    over = {trial for trial in trials if trial.is_finished()}
    if len(over) < at_least:
        return
    trials[:] = [trial for trial in trials if trial not in over]
    for name in ("_stopped_trials", "_failed_trials", "_trials_to_cache"):
        getattr(controller, name, set()).difference_update(over)
    for trial in over:
        getattr(controller, "_trial_metadata", {}).pop(trial.trial_id, None)


class _Rungs(StaysHere, FIFOScheduler):
    """Stops candidates at rungs."""

    def __init__(self, driver: Driver, observer: Observer):
        super().__init__()
        self.driver, self.observer = driver, observer

    def choose_trial_to_run(self, tune_controller):
        _forget(tune_controller)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller, trial, result):
        if result.get(tune.result.DONE) or "report" not in result:
            return TrialScheduler.CONTINUE
        id = trial.config["job"]["id"]
        goes_on = self.driver.rung(id, json.loads(result["report"])["metrics"])
        self.observer("rung", self.driver, self.driver.trials[id])
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP
