"""What a search is about, checked and described before it starts, and read back from its folder."""

import dataclasses
import datetime
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from nas.cost import COUNTED, Cost
from nas.driver import Driver
from nas.errors import BadInput
from nas.evaluate import use_compilation_cache
from nas.files import read_json
from nas.journal import RunFolder
from nas.objective import Limit, Objective, check_costs
from nas.records import read_search
from nas.result import Result
from nas.space import Macro, SearchSpace
from nas.strategy import Strategy


def open_driver(
    space, strategy, evaluation, objective, costs, trials, seconds, seed, eta, macro, out, resume, *, executor: str
) -> Driver:
    """Checks the arguments of a search and opens its folder."""
    use_compilation_cache()  # the strategy's programs are compiled here
    plan = plan_search(
        space, strategy, evaluation, objective, costs, trials, seconds, seed, eta, macro, executor=executor
    )
    return plan.driver(strategy, RunFolder(out, plan.described, resume=resume))


class Plan(NamedTuple):
    """A search that was checked: what `search.json` says, and all that a driver needs but strategy and folder."""

    described: dict[str, Any]
    settings: dict[str, Any]

    def driver(self, strategy: Strategy, folder: RunFolder) -> Driver:
        """The driver of this search in that folder, which is closed where there can be none."""
        try:
            return Driver(strategy=strategy, folder=folder, **self.settings)
        except BaseException:
            folder.close()
            raise


def plan_search(
    space, strategy, evaluation, objective, costs, trials, seconds, seed, eta, macro, *, executor: str
) -> Plan:
    """Checks the arguments of a search; of the strategy only name and arguments are read.

    Raises:
        BadInput: no budget, or arguments that do not fit together.
    """
    objective = objective or Objective()
    if macro is None:
        macro = evaluation.frame() if hasattr(evaluation, "frame") else space.macro
    if trials is None and seconds is None:
        raise BadInput("budget: say how much to search: trials=N and/or seconds=S (--trials 24, --time 2h)")
    if trials is not None and (isinstance(trials, bool) or not isinstance(trials, int) or trials < 1):
        raise BadInput(f"trials is {trials!r}; it must be a whole number of at least 1")
    if seconds is not None and not seconds > 0:
        raise BadInput(f"time is {seconds!r}; it must be above zero")
    check_costs(objective, [*COUNTED, *(costs or {})])
    if eta is not None and eta < 2:
        raise BadInput(f"eta is {eta}; it must be at least 2")
    described = {
        "schema": "nas.search/1",
        "space": describe_space(space),
        "strategy": {"name": strategy.name, "arguments": dict(strategy.arguments)},
        "evaluation": evaluation.describe() if hasattr(evaluation, "describe") else {"kind": "function"},
        "objective": dataclasses.asdict(objective),
        "costs": {n: dataclasses.asdict(c.stamp) for n, c in (costs or {}).items()},
        "macro": dataclasses.asdict(macro),
        "seed": seed,
        "eta": eta,
        "budget": {"trials": trials, "seconds": seconds},
        "executor": executor,
        "versions": versions(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    settings = dict(space=space, objective=objective, costs=costs or {}, seed=seed, trials=trials, seconds=seconds)
    return Plan(described, settings | dict(eta=eta, macro=macro))


def reopen(folder: Any, space: SearchSpace, costs: Mapping[str, Cost]) -> Result:
    """The result of a run folder, finished or not, without going on with it.

    Raises:
        BadInput: no run folder, or a damaged one.
    """
    where = Path(folder) / "search.json"
    described = read_search(where)
    given = dict(described["objective"])
    given["limits"] = tuple(Limit(**x) for x in given["limits"])
    try:
        objective = Objective(**{**given, "costs": tuple(given["costs"])})
        check_costs(objective, [*COUNTED, *costs])
        macro, budget, seed = Macro(**described["macro"]), described["budget"], described["seed"]
    except (BadInput, TypeError) as error:
        raise BadInput(f"{where}: {error}") from None
    driver = Driver(
        space,
        None,
        objective=objective,
        costs=costs,
        folder=RunFolder.reader(folder),
        seed=seed,
        trials=budget["trials"],
        seconds=None,
        macro=macro,
    )
    driver.stopping = budget["trials"] is None or len(driver.trials) < budget["trials"]
    training = Path(folder) / "training.json"
    held = read_json(training, "record of a training") if training.exists() else None
    return dataclasses.replace(driver.result(), training=held)


def describe_space(space: SearchSpace) -> dict[str, Any]:
    """Name, arguments and fingerprint, and what a view keeps to."""
    view = {"view": dict(space.view)} if space.view else {}
    return {"name": space.name, "arguments": dict(space.arguments), "fingerprint": space.fingerprint} | view


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("jax", "jaxlib", "flax", "optax", "numpy", "ray"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found
