"""What the command line's options mean; every refusal is one line."""

import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import hw_models
from hw_models.block_table import SCHEMA, load_blocks
from nas.config import macro_to_json
from nas.cost import COUNTED, Cost, load_cost
from nas.data import Data
from nas.errors import BadInput, suggest
from nas.files import read_json
from nas.objective import Limit, Objective, accuracy, mnasnet, pareto, parse_quantity
from nas.recipe import Recipe
from nas.space import SearchSpace


def parse_sets(items: list[str]) -> dict[str, Any]:
    """``key=value`` pairs; values are JSON where they parse as JSON, else text."""
    found: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise BadInput(f"--set {item}: write it as key=value, for example --set epochs=20")
        if key in found:
            raise BadInput(f"--set {key} is given twice")
        try:
            found[key] = json.loads(text)
        except (ValueError, RecursionError):
            found[key] = text
    return found


def accepted(factory: Callable) -> list[str]:
    """Settings a factory takes: its keyword parameters that are plain values."""
    # the size has options of its own: --width, --depth, --search-width, --search-depth; features are a function
    skip = ("space", "objectives", "constraints", "width", "depth", "features", "macro", "recipe", "steps", "costs")
    return [p.name for p in inspect.signature(factory).parameters.values() if p.name not in skip]


def split_sets(sets: Mapping[str, Any], takers: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Each setting to the one that takes it.

    Raises:
        BadInput: nobody takes it; says the nearest and who takes what.
    """
    out: dict[str, dict[str, Any]] = {who: {} for who in takers}
    for key, value in sets.items():
        who = next((w for w, keys in takers.items() if key in keys), None)
        if who is None:
            raise BadInput(
                f"--set {key}: no such setting; {suggest(key, [k for keys in takers.values() for k in keys])}"
            )
        out[who][key] = value
    return out


def check_types(what: str, factory: Callable, arguments: Mapping[str, Any]) -> None:
    """Refuses values of ``--set`` that are of another type than the factory's own defaults.

    Raises:
        BadInput: says which type would be right.
    """
    parameters = inspect.signature(factory).parameters
    for name, value in arguments.items():
        takes = _takes(parameters[name].default, value) if name in parameters else None
        if takes is not None:
            raise BadInput(f"--set {name}: {what} takes {takes}, not {value!r}")


def _takes(default: Any, value: Any) -> str | None:
    """What a setting of this default takes, where `value` is none of it; other defaults say nothing."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        if not _number(value):
            return "a number"
        return "a whole number" if isinstance(default, int) and not isinstance(value, int) else None
    if isinstance(default, str):
        return f"a text, such as {default[:60]}" if isinstance(value, int | float | list | dict) else None
    if isinstance(default, tuple | list) and default and isinstance(value, str | int | float | list | dict):
        names = all(isinstance(option, str) for option in default)
        good = isinstance(value, list) and all(isinstance(v, str) if names else _number(v) for v in value)
        example = json.dumps(list(default[:2]))
        return None if good else f"a list of {'names' if names else 'numbers'}, such as {example}"
    return None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def call(what: str, factory: Callable, *args, **arguments):
    """Calls a factory; a value of a wrong type becomes one line."""
    check_types(what, factory, arguments)
    try:
        return factory(*args, **arguments)
    except (TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{what}: {error}") from None


def strategy_for(name: str, factory: Callable, space: SearchSpace, objective: Objective, **arguments: Any):
    """Makes a multi-trial strategy that takes as many scores and violations as the objective gives."""
    shape = {"objectives": len(objective.axes), "constraints": len(objective.limits)}
    takes = inspect.signature(factory).parameters
    return call(f"strategy {name}", factory, space, **arguments, **{k: v for k, v in shape.items() if k in takes})


def space_factory(name: str, spaces: Mapping[str, Callable[..., SearchSpace]]) -> Callable[..., SearchSpace]:
    """A factory by name, or ``package.module:factory`` that a person typed."""
    if ":" not in name:
        if name not in spaces:
            raise BadInput(
                f"--space: no space '{name}'; {suggest(name, spaces)}; or package.module:factory for your own"
            )
        return spaces[name]
    module, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a person's own module raises
        raise BadInput(f"--space '{name}': {type(error).__name__}: {error}") from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise BadInput(f"--space '{name}': '{attribute}' is no function that makes a SearchSpace")
    return found


def make_own(name: str, factory: Callable, **arguments: Any) -> SearchSpace:
    """Calls a space factory, which may be a person's own."""
    check_types(name, factory, arguments)
    try:
        space = factory(**arguments)
    except BadInput:
        raise
    except Exception as error:  # a person's own code
        raise BadInput(f"--space '{name}': {type(error).__name__}: {error}") from None
    if not isinstance(space, SearchSpace):
        raise BadInput(f"--space '{name}': it made a {type(space).__name__}, not a SearchSpace")
    return space


def known_spaces(own: str | None, spaces: Mapping[str, Callable[..., SearchSpace]]) -> dict[str, Callable]:
    """The spaces a config may name: ours, and the one that a person typed."""
    if own is None:
        return dict(spaces)
    factory = space_factory(own, spaces)
    return {**spaces, make_own(own, factory).name: factory}


def parse_time(text: str | None, option: str = "--time") -> float | None:
    """``90s``, ``15m``, ``2h``, ``1d`` in seconds."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([smhd])\s*", text)
    if not found or float(found[1]) <= 0:
        raise BadInput(f"{option} {text}: write a number above zero with s, m, h or d, for example 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def parse_shape(text: str) -> tuple[int, int, int]:
    """``32x32x3`` to (height, width, channels)."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() for p in parts):
        raise BadInput(f"--input {text}: write height x width x channels, for example 32x32x3")
    height, width, channels = map(int, parts)
    return height, width, channels


RUN_FILES = ("best", "pareto", "search", "training")  # a cost is kept beside these, as NAME.json


def parse_named(items: list[str], option: str) -> list[tuple[str, str]]:
    """``NAME=VALUE`` pairs."""
    pairs = []
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,40}", name) or not value:
            raise BadInput(
                f"{option} {item}: write it as NAME=VALUE, for example {option} cpu="
                + ("20ms" if option == "--limit" else "measure")
            )
        if option == "--cost" and name in RUN_FILES:
            raise BadInput(f"--cost {name}: the run folder has a {name}.json of its own; give the cost another name")
        pairs.append((name, value))
    return pairs


def read_costs(items: list[str], space: SearchSpace, measure: Callable[[str], Cost] | None) -> dict[str, Cost]:
    """``NAME=FILE`` or ``NAME=measure`` to costs."""
    costs: dict[str, Cost] = {}
    for name, value in parse_named(items, "--cost"):
        if name in COUNTED or name in costs:
            raise BadInput(f"--cost {name}: that name is taken; params, macs and memory are always there")
        if value == "measure":
            if measure is None:
                raise BadInput(
                    f"--cost {name}=measure: only a search measures; give its table, such as runs/a/{name}.json"
                )
            costs[name] = measure(name)
        else:
            if value.startswith("table:"):
                value = str(shipped(value.removeprefix("table:"), f"--cost {name}"))
            if not Path(value).exists():
                raise BadInput(f"--cost {name}={value}: no such file; give a table (.json) or the word 'measure'")
            if read_json(value, "cost table").get("schema") == SCHEMA:
                costs[name] = load_blocks(value).cost(space, space.macro)
                continue
            costs[name] = load_cost(value, space)
            _check_frame(costs[name], space.macro, f"--cost {name}={value}")
    return costs


def shipped(table: str, where: str) -> Path:
    """A table that comes with the toolkit, by name.

    Raises:
        BadInput: no such table; says the nearest.
    """
    tables = {path.stem: path for path in (Path(hw_models.__file__).parent / "tables").glob("*.json")}
    if table not in tables:
        raise BadInput(f"{where}: no table '{table}' comes with the toolkit; {suggest(table, tables)}")
    return tables[table]


def _check_frame(cost, macro, where):
    if dict(cost.stamp.macro) != macro_to_json(macro):
        raise BadInput(
            f"{where}: it is for {frame(cost.stamp.macro)}, not {frame(macro_to_json(macro))}; search at its frame "
            "(--width, --depth and --data decide), or take a table for this one"
        )


def frame(macro: Mapping[str, Any]) -> str:
    """A macro in words."""
    size = "x".join(map(str, macro["input"]))
    return f"width {macro['width']}, depth {macro['depth']}, input {size}, {macro['classes']} classes"


def read_limits(items: list[str], quantities: Mapping[str, str]) -> tuple[Limit, ...]:
    """``NAME=20ms`` to limits; `quantities` says what each cost is."""
    limits = []
    for name, value in parse_named(items, "--limit"):
        if name not in quantities:
            raise BadInput(
                f"--limit {name}: no such cost; {suggest(name, quantities)}; add one with --cost {name}=FILE or measure"
            )
        limits.append(Limit(name, parse_quantity(value, quantities[name], f"--limit {name}")))
    return tuple(limits)


def check_reachable(limits: Sequence[Limit], costs: Mapping[str, Cost]) -> None:
    """Refuses limits that no architecture of the space can meet, before anything is trained for them.

    Raises:
        BadInput: says what the cheapest takes.
    """
    for limit in limits:
        cost = costs.get(limit.cost)
        if cost is not None and cost.least > limit.value:
            unit = f" {cost.stamp.unit}".rstrip()
            raise BadInput(
                f"--limit {limit.cost}: no architecture of the space is within {limit.value:,.6g}{unit}; the cheapest "
                f"takes {cost.least:,.6g}{unit} or more"
            )


def make_objective(kind: str, costs: list[str], limits: tuple[Limit, ...]) -> Objective:
    """From ``--objective``: mnasnet takes its target from the (first) limit, pareto sets accuracy against each cost.

    Perplexity, of a text, is minimised.
    """
    if kind in ("accuracy", "perplexity"):
        return accuracy(limits=limits, metric=kind)
    if kind in ("mnasnet", "mnasnet-hard"):
        if not limits:
            raise BadInput(f"--objective {kind} needs its target: add --limit NAME=20ms")
        form = {"alpha": 0.0, "beta": -1.0} if kind == "mnasnet-hard" else {}
        return mnasnet(limits[0].cost, limits[0].value, limits=limits[1:], **form)
    if kind == "pareto":
        return pareto(*(costs or ["params"]), limits=limits)
    known = ("accuracy", "perplexity", "mnasnet", "mnasnet-hard", "pareto")
    raise BadInput(f"--objective: no objective '{kind}'; {suggest(kind, known)}")


RECIPE_SETTINGS = tuple(f.name for f in fields(Recipe))
TEXT_SETTINGS = ("sequence", "level", "vocabulary")  # of `nas.data.load`


def tell_parts(data: Data) -> None:
    """Says on stderr what the parts of a text are, as they are not always the published ones."""
    if data.is_text:
        count = f"{data.train.labels.size:,} {data.level} to train on, {data.num_classes:,} different ones"
        print(f"nas: {data.name}: {data.note}; {count}", file=sys.stderr)


@dataclass(frozen=True)
class Sizes:
    """Sizes and lengths for a kind of data: of what a search trains, and of the found network's own training.

    The recipe of shared weights is DARTS's (Liu et al. 2019: 50 epochs, batch 64, learning rate .025, weight decay
    3e-4), shortened, at six times the rate and a sixth of the decay: our kernels have six times the variance of
    PyTorch's, and behind batch norm a kernel turns by the rate over its squared size (van Laarhoven, "L2 Regularization
    versus Batch and Weight Normalization", 2017). With the paper's own rate operations with weights lag behind those
    without.
    """

    search_width: int
    search_depth: int
    search: Recipe
    share: Recipe
    width: int
    depth: int
    train: Recipe
    data_options: Mapping[str, Any]


# cells of the whole network while searching and deployed, where depth does not count the cells of a stage
DEPTHS = {"darts": (3, 8), "nasnet": (3, 8), "amoebanet": (3, 8)}

# mobile networks: a quarter of the width while searching, their own numbers of layers always
MOBILE = ("nas_bench_macro", "fbnet", "proxylessnas", "mnasnet", "mobile", "ofa_mbv3")


def sized_for(space: SearchSpace, sizes: "Sizes") -> "Sizes":
    """The sizes for this space: those of the data for ours, and the space's own macro for a person's own."""
    if space.name in ("nasbench201", "nats_size"):
        return replace(sizes, depth=1 if space.name == "nats_size" else sizes.depth)
    if space.name in DEPTHS:
        searched, deployed = DEPTHS[space.name]
        return replace(sizes, search_depth=searched, depth=deployed)
    if len(space.macro.input) == 1:
        return sizes
    width, depth = space.macro.width, space.macro.depth
    if space.name in MOBILE:
        return replace(sizes, search_width=max(4, width // 4), search_depth=1, width=width, depth=1)
    return replace(sizes, search_width=width, search_depth=depth, width=width, depth=depth)


# of language models: Adam in place of the paper's SGD of rate 20, which needs hundreds of epochs; its clipping at .25.
# A rate at which the biases of rare tokens get where they belong in some hundred steps
TEXT = Recipe(epochs=5, batch=32, optimizer="adamw", learning_rate=2e-2, weight_decay=1e-5, gradient_clip=0.25)


def defaults_for(input_shape: tuple[int, ...]) -> Sizes:
    """Sizes that fit two cores and still rank architectures; measured in `experiments.rank_stability`."""
    if len(input_shape) == 1:
        return Sizes(
            search_width=32,
            search_depth=1,
            search=TEXT,
            share=TEXT,
            width=128,
            depth=1,
            train=TEXT.replace(
                epochs=10, learning_rate=5e-3, dropout_input=0.1, dropout_hidden=0.1, dropout_output=0.2
            ),
            data_options={"limit": 4000},
        )
    if max(input_shape[:2]) <= 16:
        return Sizes(
            search_width=8,
            search_depth=1,
            search=Recipe(epochs=5, batch=64),
            share=Recipe(epochs=30, batch=64, learning_rate=0.05, augment=("crop:1",)),
            width=16,
            depth=1,
            train=Recipe(epochs=40, batch=32, learning_rate=0.05, augment=("crop:1",)),
            # the test split is the same whatever is cut for validation
            data_options={"validation_fraction": 0.5, "limit": 400},
        )
    return Sizes(
        search_width=16,
        search_depth=1,
        search=Recipe(epochs=4, batch=128, augment=("crop:4", "flip")),
        share=Recipe(epochs=30, batch=64, learning_rate=0.15, weight_decay=5e-5, augment=("crop:4", "flip")),
        width=16,
        depth=5,
        train=Recipe(epochs=40, batch=128, augment=("crop:4", "flip")),
        data_options={"limit": 10_000},
    )
