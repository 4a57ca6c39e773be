"""`nas search`: options to a search, a run folder and what a person sees."""

import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments import share_command
from experiments.cli import show
from experiments.measured_winner import measure_winner, read_measured
from experiments.options import (
    COUNTED,
    RECIPE_SETTINGS,
    TEXT_SETTINGS,
    accepted,
    check_reachable,
    defaults_for,
    known_spaces,
    make_objective,
    make_own,
    parse_named,
    parse_sets,
    parse_time,
    read_costs,
    read_limits,
    sized_for,
    space_factory,
    split_sets,
    strategy_for,
    tell_parts,
)
from experiments.starts import given_rows, kept_rows, parse_warm_start, start_row
from hw_models.measure import measure
from nas import config as configs
from nas.cost import count_costs
from nas.data import load
from nas.errors import BadInput, suggest
from nas.evaluate import Scratch, fit_macro
from nas.files import read_json
from nas.journal import RunFolder
from nas.model import metric_of
from nas.near import near
from nas.plan import reopen
from nas.progress import progress
from nas.recipe import check_recipe
from nas.records import read_search
from nas.report import write_report
from nas.result import Result, priced, trial_rows
from nas.search import search
from nas.space import Macro
from nas.summary import baselines, front_volume, score_name, table, why_nothing
from search_spaces import SPACES
from strategies import ONE_SHOT, STRATEGIES


@dataclass
class Options:
    """The options of ``nas search``, as typed."""

    space: str
    strategy: str
    data: str
    trials: int | None
    time: str | None
    objective: str | None
    cost: list[str]
    limit: list[str]
    set: list[str]
    width: int | None
    depth: int | None
    search_width: int | None
    search_depth: int | None
    data_limit: int | None
    start_from: Path | None
    edits: int | None
    warm_start: str | None
    rungs: str | None
    eta: int
    executor: str
    address: str | None
    workers: int | None
    cpus: float | None
    gpus: float
    trial_time: str | None
    baseline: str | None
    seed: int
    seeds: int
    out: Path | None
    resume: bool
    json: bool


def main(o: Options) -> None:
    """Runs one search from the options of the command line."""
    seconds, trial_seconds = parse_time(o.time), parse_time(o.trial_time, "--trial-time")
    _check(o, seconds)
    shares = o.strategy in ONE_SHOT
    factory = space_factory(o.space, SPACES)
    takers = {
        "space": accepted(factory),
        "strategy": accepted({**STRATEGIES, **ONE_SHOT}[o.strategy]),
        "recipe": list(RECIPE_SETTINGS),
        "data": list(TEXT_SETTINGS),
    } | ({"sharing": ["searcher"]} if shares else {})
    sets = split_sets(parse_sets(o.set), takers)
    space = make_own(o.space, factory, **sets["space"])
    whole = load(o.data, **sets["data"])
    sizes = sized_for(space, defaults_for(whole.input_shape))
    # DARTS trains its logits on as many images as its weights, and of a text on the validation part
    halves = {"validation_fraction": 0.5} if shares and not whole.is_text else {}
    data_options = dict(sizes.data_options) | halves | sets["data"]
    if o.data_limit is not None:
        data_options["limit"] = o.data_limit
    data = load(o.data, **data_options)
    tell_parts(data)
    frame = replace(space.macro, width=o.width or sizes.width, depth=o.depth or sizes.depth)
    macro = fit_macro(frame, data)
    kind = o.objective or metric_of(data)
    if kind == "perplexity" and not data.is_text:
        raise BadInput(f"--objective perplexity: '{o.data}' is images; it is of a text, so take accuracy")
    search_macro = replace(
        macro, width=o.search_width or sizes.search_width, depth=o.search_depth or sizes.search_depth
    )
    space = space.at(macro)
    if data.is_text:
        space.layers([0] * space.length, macro)  # a frame that is none is refused here

    # all that can be wrong is said before anything is measured or written
    given = read_costs([c for c in o.cost if not c.endswith("=measure")], space, None)
    quantities = {name: name for name in COUNTED} | {name: "latency" for name, _ in parse_named(o.cost, "--cost")}
    quantities |= {name: cost.stamp.quantity for name, cost in given.items()}
    wanted = make_objective(kind, [n for n, _ in parse_named(o.cost, "--cost")], read_limits(o.limit, quantities))
    counted = count_costs(space, macro) if any(limit.cost in COUNTED for limit in wanted.limits) else {}
    check_reachable(wanted.limits, {**counted, **given})
    recipe = (sizes.share if shares else sizes.search).replace(**sets["recipe"])
    check_recipe(recipe, data.input_shape)
    training = dict(data=o.data, recipe=recipe, macro=search_macro, data_options=data_options)
    evaluation = None if shares else Scratch(space, rungs=_rungs(o.rungs), **training)
    if o.edits is not None:
        space = near(space, start_row(o.start_from, space), o.edits)
    out = o.out or _fresh()
    RunFolder.check(out, resume=o.resume)
    if o.resume and not (out / "search.json").exists():
        print(f"nas: {out} holds no search yet; a new one starts", file=sys.stderr)
    costs = read_costs(o.cost, space, lambda name: _measure(space, macro, out, name))
    for name, cost in costs.items():
        _keep(cost, out / f"{name}.json")
    objective = make_objective(kind, list(costs), read_limits(o.limit, quantities))
    check_reachable(objective.limits, costs)
    common = dict(
        objective=objective,
        costs=costs,
        trials=o.trials,
        seconds=seconds,
        seed=o.seed,
        macro=macro,
        resume=o.resume,
    )
    if shares:
        sharing = share_command.plan(o, space, sets["strategy"], costs, **training)
        result = share_command.run(o, sharing, sets["sharing"].get("searcher"), common | {"out": out})
        measure_winner(result)
        write_outputs(result, sizes.train)
        return _tell(result, out, o)
    common |= {"eta": o.eta if o.rungs else None, "trial_seconds": trial_seconds}

    def run(name, arguments, folder):
        strategy = strategy_for(name, STRATEGIES[name], space, objective, **arguments)
        observer = progress()
        if o.executor == "local":
            return search(space, strategy, evaluation, out=folder, observer=observer, **common)
        print("nas: starting Ray", file=sys.stderr)
        from nas import tune

        cluster = dict(address=o.address, workers=o.workers, cpus=o.cpus or 1, gpus=o.gpus)
        return tune.search(space, strategy, evaluation, out=folder, observer=observer, **cluster, **common)

    sized = _sized(o, out, takers["strategy"], sets["strategy"], evaluation.recipe.epochs)
    _check_population(o, sets["strategy"].get("population"))
    sets["strategy"] = sized | sets["strategy"]
    sets["strategy"] |= _first(o, out, sets["strategy"], space=space, macro=search_macro, data=data)
    result, baseline = run(o.strategy, sets["strategy"], out), None
    if o.baseline:
        print("nas: random search with the same budget, as the baseline", file=sys.stderr)
        common["resume"] = (out / "baseline").exists()
        baseline = run("random_search", {}, out / "baseline")
    measure_winner(result)
    write_outputs(result, sizes.train, baseline)
    _tell(result, out, o, baseline)


SIZED = ("population", "tournament", "capacity", "fidelities", "budget", "trainings")


def _sized(o, out, takes, given, epochs):
    """What follows from the budget where a strategy takes it; the factories' defaults suit hundreds of trials."""
    if o.resume and (out / "search.json").exists():  # its budget may have grown since
        held = read_json(out / "search.json", "search description").get("strategy", {}).get("arguments", {})
        return {name: held[name] for name in SIZED if name in held and name in takes}
    chosen = {"fidelities": sorted({max(1, epochs // 9), max(1, epochs // 3), epochs})}
    if o.trials is not None:
        population = min(25, max(4, o.trials // 3))  # it has to begin to learn before the end
        chosen |= {"population": population, "tournament": max(2, population // 4), "capacity": max(256, o.trials)}
        chosen |= {} if "budget" in given else {"trainings": o.trials}
    return {name: value for name, value in chosen.items() if name in takes}


def _check_population(o, population):
    if isinstance(population, int) and o.trials is not None and population > o.trials:
        raise BadInput(
            f"--set population={population}: larger than the budget of {o.trials} trials; make one fit the other"
        )


def _first(o, out, arguments, **where):
    """The rows that are asked first: as many of a warm start as a population, or 10."""
    if o.start_from is None and o.warm_start is None:
        return {}
    kept = kept_rows(out) if o.resume else None
    count = arguments.get("population", arguments.get("initial", 10))
    rows = kept or given_rows(o.start_from, o.warm_start, kept=count, seed=o.seed, **where)
    return {"first": rows}


def _check(o, seconds):
    if o.strategy in ONE_SHOT:
        share_command.check(o)
    elif o.strategy not in STRATEGIES:
        known = [*STRATEGIES, *ONE_SHOT]
        raise BadInput(f"--strategy: no strategy '{o.strategy}'; {suggest(o.strategy, known)}")
    elif o.seeds != 1:
        raise BadInput(f"--seeds: strategy '{o.strategy}' is one search; call it again with another --seed and --out")
    elif o.rungs and "fidelities" in accepted(STRATEGIES[o.strategy]):
        raise BadInput(f"--rungs: {o.strategy} has rungs of its own; give --set fidelities=[{o.rungs},EPOCHS] instead")
    if o.executor not in ("ray", "local"):
        raise BadInput(f"--executor: no executor '{o.executor}'; {suggest(o.executor, ('ray', 'local'))}")
    if o.edits is not None and o.start_from is None:
        raise BadInput("--edits: say which architecture they are edits of: --start-from CONFIG")
    if o.warm_start is not None:
        parse_warm_start(o.warm_start)
    if o.baseline not in (None, "random"):
        raise BadInput(f"--baseline: no baseline '{o.baseline}'; known: random")
    if o.trials is None and seconds is None and o.strategy not in ONE_SHOT:
        raise BadInput("budget: say how much to search with --trials 24 and/or --time 2h")
    if o.trials is not None and o.trials < 1:
        raise BadInput(f"--trials {o.trials}: it must be at least 1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    elsewhere = o.executor != "ray" or o.address is not None or "RAY_ADDRESS" in os.environ
    if o.workers is not None and not elsewhere and (o.workers < 1 or o.workers * (o.cpus or 1) > cores):
        most = f"use at most {int(cores // (o.cpus or 1))}" if o.workers > 0 else "use at least 1"
        raise BadInput(f"--workers {o.workers}: of {o.cpus or 1:g} cores each, on a machine with {cores} cores; {most}")
    if o.resume and o.out is None:
        raise BadInput("--resume: say which search to go on with: --out FOLDER")


def _rungs(text):
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--rungs {text}: write rising epochs, for example 1,3") from None


def _fresh() -> Path:
    """runs/1, runs/2, ...: the first that is free."""
    return next(p for n in range(1, 10**6) if not (p := Path("runs") / str(n)).exists())


def _measure(space, macro, out, name):
    """Measures this machine into the run folder, or takes what is there: a resumed search keeps its table."""
    from nas.cost import load_cost

    path = Path(out) / f"{name}.json"
    if path.exists():
        return load_cost(path, space)
    path.parent.mkdir(parents=True, exist_ok=True)
    cost = measure(space, macro, path=path.with_suffix(".partial.json"))
    cost.save(path)
    path.with_suffix(".partial.json").unlink(missing_ok=True)
    return cost


def _keep(cost, path):
    """The tables a search used stay with it, whatever becomes of the files they came from."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        cost.save(path)


def write_outputs(result, recipe, baseline=None) -> None:
    """best.json, pareto.json, trials.csv and report.html, from the result alone."""
    folder, result = RunFolder.writer(result.out), priced(result)
    folder.write_table("trials.csv", trial_rows(result))
    best = None
    if result.best is not None:
        best = configs.from_result(result, recipe=recipe).to_dict()
        front = [configs.from_result(result, t, recipe=recipe).to_dict() for t in result.pareto]
        folder.write("best.json", best)
        folder.write("pareto.json", {"schema": "nas.pareto/1", "architectures": front})
    timed = read_measured(result.out, result.best.id) if result.best else None
    more = dict(baseline=baseline, measured=timed)
    write_report(result, result.out, config=best, search=dict(result.description), costs=result.costs, **more)


def _tell(result, out, o, baseline=None):
    from rich.console import Console

    in_full = None if baseline is None or baseline.best is None else float(baseline.best.scores[0])
    if o.json:
        return show(summary_json(result) | {"out": str(out), "baseline": in_full})
    Console().print(table(result))
    if in_full is not None:
        print(f"random search, run in full with the same budget: {score_name(result.objective)} {in_full:.4g}")
    if result.best is None:
        print(f"No architecture was found: {why_nothing(result)}. See {out}/report.html and trials.csv.")
    else:
        for name, timed in read_measured(out, result.best.id).items():
            if "measured_ms" in timed:
                print(f"{name}: {timed['predicted_ms']:.4g} ms by its table, {timed['measured_ms']:.4g} ms measured")
        print(f"Written to {out}: best.json, pareto.json, trials.csv, report.html")
        own = f" --space {o.space}" if ":" in o.space else ""
        limit = f" --data-limit {o.data_limit}" if o.data_limit else ""
        print(f"Next: nas train {out}/best.json --data {o.data}{limit} --out {out}/model{own}")
    if not result.complete:
        print(f"Stopped early; go on with the same command and --resume --out {out}")


def summary_json(result) -> dict[str, Any]:
    """What ``--json`` prints at the end of a search."""
    best, volume = result.best, front_volume(result)
    return {
        "best": None
        if best is None
        else {"trial": best.id, "choices": result.space.decode(best.row), "metrics": best.metrics},
        "pareto": [{"trial": t.id, "metrics": t.metrics} for t in result.pareto],
        "trials": {s: sum(t.status == s for t in result.trials) for s in ("finished", "stopped", "failed", "pending")},
        "hypervolume": None if volume is None else {"value": volume[0], "reference": volume[1]},
        "baselines": asdict(baselines(result)),
        "seconds": result.seconds,
        "device_hours": result.device_seconds / 3600,
        "complete": result.complete,
    }


def report(folder: Path, own: str | None) -> None:
    """`nas report`: everything that can be made again from search.json and journal.jsonl."""
    result = reopened(folder, own)
    write_outputs(result, defaults_for(result.space.macro.input).train)
    print(f"written to {folder}/report.html")


def reopened(folder: Path, own: str | None) -> Result:
    """What a run folder holds, from search.json, journal.jsonl and its tables alone.

    Raises:
        BadInput: a file of the folder is absent, broken or not of this search.
    """
    where = folder / "search.json"
    described = read_search(where)
    try:
        macro, told = Macro(**described["macro"]), described["space"]
        space = configs.make_space(told["name"], told["arguments"], known_spaces(own, SPACES))
        if space.fingerprint != told["fingerprint"]:
            raise BadInput(f"space '{space.name}' has changed since; its fingerprint is {space.fingerprint} here")
    except (BadInput, TypeError) as error:
        raise BadInput(f"{where}: {error}") from None
    read = read_costs([f"{name}={folder / name}.json" for name in described["costs"]], space.at(macro), None)
    return reopen(folder, space.at(macro), read)
