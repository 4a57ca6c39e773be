"""The same search through Ray Tune, on this machine or a cluster. The only file that imports Ray."""

import contextlib
import json
import logging
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# read by Ray when it is imported: our own journal and progress take the place of its loggers and tables
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# workers stay in the folder they were started in, where relative names of data mean what the person meant
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import numpy as np
import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from nas.cost import Cost
from nas.driver import Driver, Observer, open_driver, quiet
from nas.errors import BadInput
from nas.evaluate import CandidateFailed, Evaluation, Job, Rung
from nas.handover import Results
from nas.objective import Objective
from nas.one_shot import Shared
from nas.result import Result
from nas.search import FAILURES
from nas.sharing import Sharing, Watch, checkpoint_of, nothing_trained
from nas.space import Macro, SearchSpace
from nas.strategy import Strategy

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
        _check_address(address)  # before anything is written
    driver = open_driver(
        space, strategy, evaluation, objective, costs, trials, seconds, seed, eta, macro, out, resume, executor="ray"
    )
    # a search that is over already needs no cluster
    connected = contextlib.nullcontext(False) if driver.over else _connected(address)
    with contextlib.closing(driver.folder), connected as own:
        workers = 0 if driver.over else _workers(workers, cpus, gpus)
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
                _connect(None)
        results.clear()
    result = driver.result(started)
    observer("end", driver, None)
    return result


@contextlib.contextmanager
def _connected(address):
    """Ray, started where it is not there yet and then shut down at the end; gives whether it was."""
    own = not ray.is_initialized()
    try:
        _connect(address)
        yield own
    finally:
        if own and ray.is_initialized():
            ray.shutdown()


def _connect(address):
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    _quieten()
    if address is None:
        options |= {"include_dashboard": False, "num_cpus": cores()}
    else:
        _check_address(address)
    try:
        with warnings.catch_warnings():
            # Ray starts its processes by fork and exec at once; the threads that JAX warns about are not carried over
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            ray.init(address=address, **options)
        _quieten()
    except ConnectionError as error:
        raise BadInput(f"address: no Ray cluster at '{address}' ({str(error).splitlines()[0]})") from None


def _check_address(address):
    """Ray itself tries for minutes and then kills the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        if address in ("auto", "local"):
            return
        raise BadInput(f"address: '{address}' is none; give host:port or auto, or leave it out")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise BadInput(f"address: no Ray cluster at '{address}' ({error}); give host:port, or leave it out") from None


def _quieten():
    # Ray sets its levels again when it starts
    for name in ("ray", "ray.tune", "ray.air", "ray._private.authentication"):
        logging.getLogger(name).setLevel(logging.ERROR)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _workers(asked, cpus, gpus):
    there = ray.cluster_resources()
    room = int(there.get("CPU", 0) // cpus) if cpus else 10**6
    if gpus:
        room = min(room, int(there.get("GPU", 0) / gpus))
    if asked is not None and asked < 1:
        raise BadInput(f"workers is {asked}; it must be at least 1")
    if room < 1 or (asked or 1) > room:
        most = f"ask for at most {room}" if room else "give each of them less"
        have = ", ".join(f"{there.get(k, 0):g} {k}s" for k in ("CPU", "GPU") if k == "CPU" or gpus)
        need = f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        raise BadInput(f"workers: {asked or 1} of {need} each do not fit into {have}; {most}")
    return asked or room


def _stands(node: str | None = None) -> bool:
    """Whether the raylet of a node answers, or of any; Ray itself takes up to 15 seconds to call one dead."""
    for one in ray.nodes():
        if one["Alive"] and node in (None, one["NodeID"]):
            with contextlib.suppress(OSError):
                socket.create_connection((one["NodeManagerAddress"], one["NodeManagerPort"]), timeout=2).close()
                return True
    return False


def _run(driver, own_worker, observer, workers, callbacks):
    # Ray's own records are of no use once it ends; on a cluster they must lie where every node can write
    root = None if driver.folder.path is None else driver.folder.path.resolve()
    for left in root.glob(".ray-*") if root else ():  # by a search that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=root, ignore_cleanup_errors=True) as storage:
        trainable = tune.with_resources(
            tune.with_parameters(_Worker, **own_worker), {"cpu": own_worker["cpus"], "gpu": own_worker["gpus"]}
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


class _StaysHere:
    """Ray pickles its searcher, scheduler and callbacks for a resume of its own; ours reads the journal."""

    def __getstate__(self):
        return {}


class _Alive(_StaysHere, tune.Callback):
    """Ends Tune's loop when no node of Ray is left: it would wait for ever.

    A cluster whose head stands is waited for: spot machines come back.
    """

    def __init__(self):
        self.gone, self.looked = False, time.monotonic()

    def on_step_begin(self, iteration, trials, **info):
        if time.monotonic() - self.looked > 5:
            self.looked = time.monotonic()
            self.gone = not _stands()
            if self.gone:
                raise ConnectionError("no node of Ray is left")


class _Silent(_StaysHere, TrialProgressCallback):
    """In the place of Tune's own, which prints nothing here, but keeps every trial: 30 kilobytes each."""

    def log_result(self, *args, **kwargs):
        """Nothing."""

    def on_trial_complete(self, iteration, trials, trial, **info):
        """Nothing."""


class _Retries(_StaysHere, tune.Callback):
    def __init__(self, driver: Driver):
        self.driver = driver

    def on_trial_recover(self, iteration, trials, trial, **info):
        self.driver.retried(trial.config["job"]["id"], "its worker died")


def train_shared(
    sharing: Sharing,
    seeds: Sequence[int],
    folder: Path | None,
    seconds: float | None,
    watch: Watch,
    *,
    workers: int | None = None,
    cpus: float | None = None,
    gpus: float = 0,
    address: str | None = None,
) -> list[Shared]:
    """`nas.sharing.train_here` with a worker for each seed; a worker that dies goes on from its last checkpoint.

    Args:
        sharing: see there, as all up to `watch`. On a cluster `folder` must lie where every node can write.
        seeds: see there.
        folder: see there; None takes a temporary one of this machine.
        seconds: see there.
        watch: called in this process, about every two seconds for each seed.
        workers: seeds at once; default: as many as Ray's CPUs (and GPUs) hold.
        cpus: cores of each worker; default: all of them, shared by the seeds.
        gpus: share of a GPU of each worker.
        address: of a running cluster; default RAY_ADDRESS, else a Ray of its own on this machine.

    Raises:
        BadInput: as there; or more workers than the machine has cores for.
    """
    with _connected(address):
        cpus = cpus or max(1, ray.cluster_resources().get("CPU", 1) // len(seeds))
        workers = _workers(workers, cpus, gpus)
        with tempfile.TemporaryDirectory(prefix=".ray-", dir=folder and folder.parent) as storage:
            folder = folder or Path(storage)
            seed_trainable = tune.with_parameters(
                _train_seed, sharing=sharing, folder=folder.resolve(), seconds=seconds, cpus=cpus, gpus=gpus
            )
            tuner = tune.Tuner(
                tune.with_resources(seed_trainable, {"cpu": cpus, "gpu": gpus}),
                param_space={"seed": tune.grid_search(list(seeds))},
                tune_config=tune.TuneConfig(max_concurrent_trials=workers),
                run_config=tune.RunConfig(
                    name="train",
                    storage_path=storage,
                    verbose=0,
                    # the checkpoint of a seed is written by its worker, and a retried worker goes on from it
                    failure_config=tune.FailureConfig(max_failures=3),
                    callbacks=[_Watching(watch)],
                ),
            )
            grid = tuner.fit()
            bad = {}
            for result in map(grid.__getitem__, range(len(grid))):
                bad[(result.config or {})["seed"]] = (result.metrics or {}).get("reason") or result.error
            good = [seed for seed in seeds if bad.get(seed) is None]
            if not good:
                raise nothing_trained(sharing, seeds[0], bad[seeds[0]])
            # what was interrupted is taken as far as it came
            return [sharing.train(seed, checkpoint_of(folder, seed), 0.0) for seed in good]


def _train_seed(config, sharing, folder, seconds, cpus, gpus):
    _limit_xla(cpus, gpus)
    shown = time.monotonic()

    def report(seed, done, metrics):
        nonlocal shown
        if time.monotonic() - shown > 2:
            shown = time.monotonic()
            tune.report({"steps": done, "metrics": metrics})

    try:
        sharing.train(config["seed"], checkpoint_of(folder, config["seed"]), seconds, report)
    except CandidateFailed as error:
        tune.report({"reason": str(error)})


class _Watching(_StaysHere, tune.Callback):
    def __init__(self, watch: Watch):
        self.watch = watch

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if "steps" in result:
            self.watch(trial.config["seed"], result["steps"], result["metrics"])


def _limit_xla(cpus, gpus):
    # XLA reads these when it starts, with the first array, not when it is imported
    os.environ["NPROC"] = str(max(1, int(cpus)))
    if 0 < gpus < 1:
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * gpus:.3f}"


class _Worker(tune.Trainable):
    """One process; it prepares the evaluation once and then takes one candidate after the other."""

    def setup(self, config, evaluation=None, results=None, cpus=1, gpus=0, limit=None):
        _limit_xla(cpus, gpus)
        self._evaluation, self._results, self._limit = evaluation, results, limit
        self._evaluate = self._watchdog = None
        self.reset_config(config)

    def reset_config(self, new_config):
        self._job = new_config["job"]
        self._reports: Any = None
        return True

    def _begin(self):
        # in the first step, not before: Ray gives a candidate whose worker is still starting to one that is free, and
        # gives up the starting one, which would then never get through a long preparation
        job = self._job
        self._results.begun(job["id"], on=ray.get_runtime_context().get_node_id())
        self._evaluate = self._evaluate or self._evaluation()
        self._watch()
        self._reports = self._evaluate(Job(job["id"], np.asarray(job["row"], np.int32), job["epochs"], job["seed"]))
        self._began = time.monotonic()

    def _watch(self):
        """Kills this process when the candidate takes too long: nothing gentler ends a hang inside compiled code."""
        self._unwatch()
        if self._limit is not None:
            self._watchdog = threading.Timer(self._limit, self._kill)
            self._watchdog.daemon = True
            self._watchdog.start()

    def _unwatch(self):
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _kill(self):
        self._results.late(self._job["id"], set=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def step(self):
        if self._limit is not None and self._results.late(self._job["id"]):
            reason = f"it took longer than {self._limit:g} s"
            return {"reason": reason, "seconds": self._limit, tune.result.DONE: True}
        if self._reports is None:
            self._begin()
        try:
            metrics = next(self._reports)
        except StopIteration:
            return {"reason": "the evaluation gave no metrics", tune.result.DONE: True}
        except FAILURES as error:
            seconds = time.monotonic() - self._began
            return {"reason": str(error) or type(error).__name__, "seconds": seconds, tune.result.DONE: True}
        found = {"seconds": time.monotonic() - self._began, **metrics}
        # the plain figures are for callbacks such as TensorBoard; Ray flattens and renames, the report is ours
        last = not isinstance(metrics, Rung)
        if last:
            self._unwatch()
            if all(map(math.isfinite, found.values())):
                self._results.write(self._job["id"], found)
        return {**found, "report": json.dumps({"metrics": found, "last": last}), tune.result.DONE: last}

    def save_checkpoint(self, checkpoint_dir):
        return None

    def load_checkpoint(self, checkpoint):
        """A retried candidate starts again."""

    def cleanup(self):
        self._unwatch()
        if hasattr(self._reports, "close"):
            self._reports.close()


class _Asker(_StaysHere, Searcher):
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
        if error or not result:
            if not self.results.to_blame(id, _stands):
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
        """Nothing, as `_StaysHere`."""

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


class _Rungs(_StaysHere, FIFOScheduler):
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
