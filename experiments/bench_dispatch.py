"""What our search adds to Ray Tune: 200 trivial trials, ours and raw Ray Tune in one run, rounds interleaved.

Both use the same Ray, the same number of reused actors and the same results; raw Ray Tune samples at random and keeps
no journal. The same search without Ray says how much of ours is strategy, prices and journal.
Run: ``python -m experiments.bench_dispatch [--trials 200] [--rounds 3]``.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from nas import ray_cluster
from nas import tune as ours
from nas.evaluate import function
from nas.search import search
from search_spaces import nasbench201
from strategies import random_search


def run_ours(trials: int, verb=ours.search) -> float:
    """Seconds of our search, its journal flushed to disk for every trial; `verb` is that of an executor."""
    space = nasbench201()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        result = verb(
            space,
            random_search(space),
            function(lambda choices: 0.5, space),
            trials=trials,
            out=Path(folder) / "run",
        )
        assert len(result.trials) == trials and result.complete
        return time.monotonic() - started


def run_raw(trials: int, workers: int) -> float:
    """Seconds of Ray Tune alone: a class trainable with reused actors and random sampling of as many choices."""
    from ray import tune

    class Trivial(tune.Trainable):
        def step(self):
            return {"accuracy": 0.5, "done": True}

        def reset_config(self, new_config):
            return True

        def save_checkpoint(self, checkpoint_dir):
            return None

        def load_checkpoint(self, checkpoint):
            pass

    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        tune.Tuner(
            tune.with_resources(Trivial, {"cpu": 1}),
            param_space={f"edge_{i}": tune.choice(list(range(5))) for i in range(6)},
            tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=workers, reuse_actors=True),
            run_config=tune.RunConfig(storage_path=folder, name="raw", verbose=0),
        ).fit()
        return time.monotonic() - started


def main() -> None:
    """Prints the seconds of each and the ratio of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ray_cluster.connect(None)
    workers = ray_cluster.cores()
    run_raw(4, workers)
    run_ours(4)
    seconds: dict[str, list[float]] = {"ours": [], "raw": [], "ours without Ray": []}
    for _ in range(options.rounds):
        seconds["raw"].append(run_raw(options.trials, workers))
        seconds["ours"].append(run_ours(options.trials))
        seconds["ours without Ray"].append(run_ours(options.trials, search))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    found = {"trials": options.trials, "workers": workers, "seconds": seconds, "ratio": median["ours"] / median["raw"]}
    print(json.dumps(found | {"load": os.getloadavg()[0]}, indent=1))
    parts = ", ".join(f"{name} {value:.2f} s" for name, value in median.items())
    print(f"{parts}; ratio of ours to raw {found['ratio']:.2f}", file=sys.stderr)


if __name__ == "__main__":
    main()
