"""`nas specialize`: from a predictor of accuracies and tables of costs to a network for each device and limit."""

import inspect
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from matplotlib.figure import Figure

from experiments import accuracy_models, hwgpt
from experiments.accuracy_models import AccuracyModel
from experiments.cli import show
from experiments.options import (
    accepted,
    call,
    check_reachable,
    parse_named,
    parse_sets,
    read_costs,
    space_factory,
    split_sets,
)
from experiments.run_search import reopened
from hw_models import block_table
from nas import config as configs
from nas.errors import BadInput
from nas.evaluate import use_compilation_cache
from nas.files import read_json, write_json
from nas.objective import Limit, parse_quantity
from nas.plots import COLOURS
from nas.space import SearchSpace
from nas.specialize import Evolution, Specialized, Target, specialize
from search_spaces import SPACES
from search_spaces.once_for_all import to_encoding

EVOLUTION = [f.name for f in fields(Evolution)]
ENCODED = ("ofa_mbv3", "ofa_mbv3_small")


@dataclass(frozen=True)
class Options:
    """The options of the command line, by their names."""

    space: str | None
    accuracy_predictor: Path | None
    accuracy_csv: Path | None
    accuracy_run: Path | None
    cost: list[str]
    limit: list[str]
    set: list[str]
    seeds: int
    seed: int
    out: Path | None
    json: bool


def main(o: Options) -> None:
    """Runs one specialisation."""
    if sum(given is not None for given in (o.accuracy_predictor, o.accuracy_csv, o.accuracy_run)) != 1:
        raise BadInput(
            "accuracy: give one of --accuracy-predictor FILE.npz, --accuracy-csv FILE.csv and --accuracy-run FOLDER"
        )
    if o.out is not None and o.out.exists() and any(o.out.iterdir() if o.out.is_dir() else [o.out]):
        raise BadInput(f"--out {o.out}: it is not empty; give another folder")
    use_compilation_cache()
    space, settings, model = _searched(o) if o.accuracy_run else _known(o)
    if model.left_out:
        known = ", ".join(map(str, space.decisions[0].options))
        print(
            f"nas: {model.left_out} networks of {o.accuracy_csv} have other resolutions than {known}: left out",
            file=sys.stderr,
        )
    print("nas: pricing every option of the space", file=sys.stderr)
    targets = _targets(o, space)
    print(f"nas: {len(targets)} limits x {o.seeds} seeds, {settings.generations} generations", file=sys.stderr)
    found = specialize(space, model.predict, targets, seeds=o.seeds, seed=o.seed, settings=settings)
    told = describe(found, space, model)
    if o.out is not None:
        write(found, space, model, told, o.out, o.seed)
    if o.json:
        return show(told)
    for entry in told["targets"]:
        figure = f"{entry['quantity']} {amount(entry[entry['column']], entry)}"
        frame = f", resolution {entry['r']}, layers {entry['d']}" if "r" in entry else ""
        within = f"{entry['name']} within {amount(entry['limit'], entry)}"
        quality = f"perplexity {entry['perplexity']:.2f}" if "perplexity" in entry else f"top-1 {entry['top1']:.4f}"
        print(f"{within}: predicted {quality}, {figure}{frame}")
    runs, compiling = f"{len(targets)} limits x {o.seeds} seeds", f"{told['compile_seconds']:.1f} s"
    print(f"{told['seconds']:.1f} s for {runs}, and {compiling} to compile")
    rank = f", held out Spearman {model.held_out['spearman']:.3f}" if model.held_out else ""
    print(f"predicted by {model.source}{rank}")
    if o.out is not None:
        first = f"{o.out}/{_file(found.targets[0])}"
        after = (
            f"see one with: nas describe {first}"
            if model.metric == "perplexity"
            else f"train one with: nas train {first} --data FOLDER"
        )
        print(f"written to {o.out}; {after}")


def amount(value: float, entry: dict) -> str:
    """A figure with its unit; counts and bytes as whole numbers."""
    return f"{value:,.0f} {entry['unit']}".strip() if entry["unit"] in ("", "bytes") else f"{value:.2f} {entry['unit']}"


def _searched(o: Options) -> tuple[SearchSpace, Evolution, AccuracyModel]:
    """The space of a search, and what its networks say of all others."""
    found = reopened(o.accuracy_run, None)
    if o.space not in (None, found.space.name):
        raise BadInput(f"--space {o.space}: {o.accuracy_run} searched '{found.space.name}'; leave it out")
    sets = split_sets(parse_sets(o.set), {"settings": EVOLUTION})
    settings = call("specialize", Evolution, **sets["settings"])
    return found.space, settings, accuracy_models.searched(found, o.accuracy_run, o.seed)


def _known(o: Options) -> tuple[SearchSpace, Evolution, AccuracyModel]:
    """Once-for-all's own space, and a predictor or measured networks of it."""
    factory = space_factory(o.space or "ofa_mbv3", SPACES)
    if factory is SPACES["gpt"]:
        if o.accuracy_csv is None:
            raise BadInput(
                "--space gpt: perplexities are in HW-GPT-Bench's tables; give one, --accuracy-csv gpt_s.csv.gz"
            )
        sets = split_sets(parse_sets(o.set), {"settings": EVOLUTION})
        space, model = hwgpt.perplexities(o.accuracy_csv, o.seed)
        return space, call("specialize", Evolution, **sets["settings"]), model
    if factory is not SPACES["ofa_mbv3"]:
        raise BadInput(
            f"--space {o.space}: accuracies are published for ofa_mbv3 and gpt; search, and give --accuracy-run"
        )
    takers = {"space": [*accepted(factory), "width"], "settings": EVOLUTION}
    sets = split_sets(parse_sets(o.set), takers)
    if "resolutions" not in sets["space"]:
        sets["space"]["resolutions"] = _common_resolutions(o, factory)
    space, settings = call("ofa_mbv3", factory, **sets["space"]), call("specialize", Evolution, **sets["settings"])
    if o.accuracy_predictor:
        return space, settings, accuracy_models.published(o.accuracy_predictor, space)
    return space, settings, accuracy_models.fitted(o.accuracy_csv, space, o.seed)


def _common_resolutions(o: Options, factory) -> list[int]:
    """Those that the predictor and every block table know."""
    known = set(inspect.signature(factory).parameters["resolutions"].default)
    if o.accuracy_csv is not None:
        known &= set(accuracy_models.measured_resolutions(o.accuracy_csv))
    for _, path in parse_named(o.cost, "--cost"):
        if Path(path).is_file() and read_json(path, "cost table").get("schema") == block_table.SCHEMA:
            known &= {int(side) for side in block_table.load_blocks(path).entries if side != block_table.ANY}
    if not known:
        raise BadInput(
            "resolutions: the predictor and the tables have none in common; say which with --set resolutions"
        )
    return sorted(known)


def _targets(o: Options, space: SearchSpace) -> list[Target]:
    costs = read_costs(o.cost, space, None)
    targets = []
    for name, value in parse_named(o.limit, "--limit"):
        if name not in costs:
            raise BadInput(f"--limit {name}: no such cost; add --cost {name}=FILE; given: {', '.join(costs) or 'none'}")
        quantity = costs[name].stamp.quantity
        limit = Limit(name, parse_quantity(value, quantity, f"--limit {name}"))
        check_reachable([limit], costs)
        targets.append(Target(name, costs[name], limit.value))
    return targets


def describe(found: Specialized, space: SearchSpace, model: accuracy_models.AccuracyModel) -> dict:
    """What is printed and written."""
    entries = []
    for i, target in enumerate(found.targets):
        best = found.best(i)
        stamp = target.cost.stamp
        entries.append(
            {"name": target.name, "limit": target.limit, "unit": stamp.unit, "quantity": stamp.quantity}
            | _written(found.rows[i, best], space)
            | {
                model.metric: model.figure(found.accuracy[i, best]),
                "column": target.cost.column,
                "device": stamp.device,
            }
            | {target.cost.column: float(found.cost[i, best])}
            | {f"seeds_{model.metric}": [model.figure(share) for share in found.accuracy[i]]}
        )
    return {
        "space": space.name,
        "arguments": dict(space.arguments),
        "accuracy": {
            "source": model.source,
            "metric": model.metric,
            "how": "predicted",
            "held_out": model.held_out,
            "left_out": model.left_out,
        },
        "targets": entries,
        "seconds": found.seconds,
        "compile_seconds": found.compile_seconds,
    }


def _written(row, space: SearchSpace) -> dict:
    """A row as once-for-all's encoding where the space has one, else its choices."""
    return to_encoding(row, space) if space.name in ENCODED else {"choices": space.decode(row)}


def write(found: Specialized, space: SearchSpace, model, told: dict, out: Path, seed: int) -> None:
    """A config for each limit, ``specialized.json`` and a picture."""
    out.mkdir(parents=True, exist_ok=True)
    for i, target in enumerate(found.targets):
        row = found.rows[i, found.best(i)]
        name = "accuracy" if model.metric == "top1" else model.metric
        metrics = {name: model.figure(found.accuracy[i, found.best(i)]), "how": "predicted", "source": model.source}
        prices = configs.price({target.name: target.cost}, row)
        provenance = {"strategy": "specialize", "seed": seed, "limit": target.limit, "created": configs.now()}
        macro = space.macro
        configs.Architecture(space, row, macro, macro, None, metrics, prices, provenance).save(out / _file(target))
    write_json(out / "specialized.json", {"schema": "nas.specialized/1", **told})
    draw(told, out / "specialized.png")


def _file(target: Target) -> str:
    return f"{target.name}-{target.limit:g}{target.cost.stamp.unit}.json"


def draw(told: dict, path: Path) -> None:
    """Predicted accuracy or perplexity against cost: a line for each device."""
    metric = told["accuracy"]["metric"]
    scale, label = (100, "predicted top-1 (%)") if metric == "top1" else (1, f"predicted {metric}")
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(e["name"] for e in told["targets"]):
        own = sorted((e for e in told["targets"] if e["name"] == name), key=lambda e: e["limit"])
        x, y = [e[e["column"]] for e in own], [scale * e[metric] for e in own]
        axes.plot(x, y, marker="o")
        axes.annotate(own[0]["device"], (x[-1], y[-1]), xytext=(0, 8), textcoords="offset points", ha="right")
    units = {f"{e['quantity']} ({e['unit'] or 'count'})" for e in told["targets"]}
    axes.set(xlabel=" or ".join(sorted(units)), ylabel=label)
    axes.grid(color=COLOURS["grid"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)
    figure.savefig(path, dpi=150)
