"""Training of shared weights through Ray Tune, a worker for each seed."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ray
from ray import tune

from nas.evaluate import CandidateFailed
from nas.one_shot import Shared
from nas.ray_cluster import StaysHere, connected, fitting, limit_xla
from nas.sharing import Sharing, Watch, checkpoint_of, nothing_trained


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
    with connected(address):
        cpus = cpus or max(1, ray.cluster_resources().get("CPU", 1) // len(seeds))
        workers = fitting(workers, cpus, gpus)
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
    limit_xla(cpus, gpus)
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


class _Watching(StaysHere, tune.Callback):
    def __init__(self, watch: Watch):
        self.watch = watch

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if "steps" in result:
            self.watch(trial.config["seed"], result["steps"], result["metrics"])
