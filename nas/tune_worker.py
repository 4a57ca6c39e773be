"""A worker of `nas.tune`: a process that prepares an evaluation once and then takes one candidate after the other."""

import json
import math
import os
import signal
import threading
import time
from typing import Any

import numpy as np
import ray
from ray import tune

from nas.evaluate import Job, Rung
from nas.ray_cluster import limit_xla
from nas.search import FAILURES


class Worker(tune.Trainable):
    """One process; it prepares the evaluation once and then takes one candidate after the other."""

    def setup(self, config, evaluation=None, results=None, cpus=1, gpus=0, limit=None):
        """Called once in the process; arguments as `nas.tune.search` hands them on."""
        limit_xla(cpus, gpus)
        self._evaluation, self._results, self._limit = evaluation, results, limit
        self._evaluate = self._watchdog = None
        self.reset_config(config)

    def reset_config(self, new_config):
        """The next candidate."""
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
        """The candidate's next report: metrics, or the reason why there are none."""
        if self._limit is not None and self._results.late(self._job["id"]):
            reason = f"it took longer than {self._limit:g} s"
            return {"reason": reason, "seconds": self._limit, tune.result.DONE: True}
        if self._reports is None:
            # by a worker that was killed after it had finished the candidate, and before Ray heard of it
            if finished := self._results.of(self._job["id"]):
                return _report(finished, last=True)
            self._begin()
        try:
            metrics = next(self._reports)
        except StopIteration:
            return {"reason": "the evaluation gave no metrics", tune.result.DONE: True}
        except FAILURES as error:
            seconds = time.monotonic() - self._began
            return {"reason": str(error) or type(error).__name__, "seconds": seconds, tune.result.DONE: True}
        found = {"seconds": time.monotonic() - self._began, **metrics}
        last = not isinstance(metrics, Rung)
        if last:
            self._unwatch()
            if all(map(math.isfinite, found.values())):
                self._results.write(self._job["id"], found)
        return _report(found, last)

    def save_checkpoint(self, checkpoint_dir):
        """Nothing: a retried candidate starts again."""

    def load_checkpoint(self, checkpoint):
        """Nothing."""

    def cleanup(self):
        """Ends the evaluation with the process."""
        self._unwatch()
        if hasattr(self._reports, "close"):
            self._reports.close()


def _report(found, last):
    # the plain figures are for callbacks such as TensorBoard; Ray flattens and renames, the report is ours
    return {**found, "report": json.dumps({"metrics": found, "last": last}), tune.result.DONE: last}
