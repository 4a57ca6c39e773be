"""`nas search` with a weight-sharing strategy: one set of weights is trained, not one for each candidate."""

import functools
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from experiments.options import call, strategy_for
from nas import sharing as weights
from nas.errors import BadInput, suggest
from nas.progress import counting, progress
from nas.result import Result
from nas.sharing import Sharing
from nas.wording import number
from strategies import ONE_SHOT, STRATEGIES

# options of a search of many trainings, which mean nothing for one
MANY = ("rungs", "start_from", "edits", "warm_start", "baseline", "trial_time")
SEARCHER = "regularized_evolution"


def check(o: Any) -> None:
    """Refuses options that a weight-sharing search does not have."""
    for name in MANY:
        if getattr(o, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise BadInput(f"{option}: strategy '{o.strategy}' trains one set of weights for all; leave it out")


def plan(o: Any, space, settings: Mapping[str, Any], costs, **training: Any) -> Sharing:
    """The training that the options describe; `training` are further fields of `Sharing`."""
    factory = ONE_SHOT[o.strategy]
    own = {"costs": costs} if "costs" in inspect.signature(factory).parameters else {}

    def make(**frame):
        return call(f"strategy {o.strategy}", functools.partial(factory, space, **own, **frame), **settings)

    return Sharing(space, make, **training)


def run(o: Any, sharing: Sharing, searcher: str | None, common: Mapping[str, Any]) -> Result:
    """Trains, here or through Ray Tune, and looks for the best architecture in the shared weights."""
    strategy = None
    if sharing.method.derive is None:
        name = searcher or SEARCHER
        if name not in STRATEGIES:
            raise BadInput(f"--set searcher={name}: no strategy '{name}'; {suggest(name, STRATEGIES)}")
        strategy = strategy_for(name, STRATEGIES[name], sharing.space, common["objective"])
    elif searcher is not None:
        raise BadInput(f"--set searcher: strategy '{o.strategy}' derives its architecture itself; leave it out")
    print("nas: compiling the supernet; training starts when that is done", file=sys.stderr)
    done: dict[int, int] = {}
    with counting("steps", sharing.steps * o.seeds) as show:

        def watch(seed, steps, metrics):
            done[seed] = steps
            show(sum(done.values()), ", ".join(f"{name} {number(value)}" for name, value in metrics.items()))

        train = None if o.executor == "local" else _through_ray(o)
        return weights.search(
            sharing, searcher=strategy, seeds=o.seeds, watch=watch, train=train, observer=progress(), **common
        )


def _through_ray(o):
    print("nas: starting Ray", file=sys.stderr)
    from nas.tune_shared import train_shared

    return functools.partial(train_shared, workers=o.workers, cpus=o.cpus, gpus=o.gpus, address=o.address)
