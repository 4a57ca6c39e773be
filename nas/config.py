"""The architecture config: what a search gives back, as JSON that builds the same network anywhere."""

import datetime
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas.cost import Cost, cost_column
from nas.errors import BadInput, suggest
from nas.files import read_json, to_json, write_json
from nas.layers import Layer
from nas.plan import describe_space, versions
from nas.recipe import Recipe
from nas.result import Result, Trial
from nas.space import MACRO_LIMITS, Macro, SearchSpace

SCHEMA = "nas.architecture/1"
Spaces = Mapping[str, Callable[..., SearchSpace]]


@dataclass(frozen=True)
class Architecture:
    """One found (or imported) architecture.

    Attributes:
        space: it belongs to.
        row: int32[L], as given by the strategy.
        macro: frame it is deployed at; `layers` and costs are those of this frame.
        search_macro: frame it was searched at.
        recipe: how it was, or shall be, trained; None for an imported one.
        metrics: measured, with split, epochs and seed.
        costs: each with its stamp, and whether estimated or measured.
        provenance: strategy, seed, trial, versions, date.
    """

    space: SearchSpace
    row: np.ndarray
    macro: Macro
    search_macro: Macro
    recipe: Recipe | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    costs: tuple[Mapping[str, Any], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The resolved network at `macro`."""
        return self.space.layers(self.row, self.macro)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the schema."""
        return {
            "schema": SCHEMA,
            "space": describe_space(self.space),
            "choices": self.space.decode(self.row),
            "encoding": np.asarray(self.row).tolist(),
            "search_macro": asdict(self.search_macro),
            "macro": asdict(self.macro),
            "recipe": None if self.recipe is None else asdict(self.recipe),
            "metrics": dict(self.metrics),
            "cost": [dict(c) for c in self.costs],
            "provenance": dict(self.provenance),
            "layers": layers_to_json(self.layers),
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes the config atomically."""
        write_json(path, self.to_dict())


def from_result(result: Result, trial: Trial | None = None, *, recipe: Recipe | None = None) -> Architecture:
    """The config of one trial of a search, by default the best.

    Args:
        result: of a search.
        trial: one of its finished trials.
        recipe: what the found network shall be trained with; None leaves that to ``nas train``.

    Raises:
        BadInput: no candidate finished within the limits.
    """
    trial = trial or result.best
    if trial is None:
        raise BadInput("search: no candidate finished within the limits, so there is no best one to save")
    known = {cost_column(name, cost) for name, cost in result.costs.items()}
    told = result.description
    macro = Macro(**told["macro"])
    searched = told["evaluation"].get("macro")
    return Architecture(
        space=result.space,
        row=trial.row,
        macro=macro,
        search_macro=Macro(**searched) if searched else macro,
        recipe=recipe,
        metrics={n: v for n, v in trial.metrics.items() if n not in known and n != "train_compilations"}
        | {"split": told["evaluation"].get("split", ""), "seed": told["seed"]},
        costs=price(result.costs, trial.row),
        provenance={n: told[n] for n in ("strategy", "objective", "evaluation")}
        | {"trial": trial.id, "versions": versions(), "created": now()},
    )


def price(costs: Mapping[str, Cost], row) -> tuple[dict[str, Any], ...]:
    """What each cost says of one row: name, value, ``estimated``, stamp."""
    rows = np.asarray(row)[None]
    return tuple(
        {"name": name, "value": float(cost(rows)[0]), "how": "estimated", "stamp": asdict(cost.stamp)}
        for name, cost in costs.items()
    )


def load(path: str | os.PathLike, spaces: Spaces) -> Architecture:
    """Reads and checks a config.

    Args:
        path: of the JSON file.
        spaces: name -> factory; nothing else can be built, whatever the file says.

    Raises:
        BadInput: broken or truncated file, newer schema, unknown space, another fingerprint, unknown choice, or an
            encoding or layers that disagree with the choices.
    """
    data = read_json(path, "architecture config")
    schema = data.get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, str) and schema.startswith("nas.architecture/")
        hint = "it was written by a newer version; upgrade" if newer else "it is no architecture config"
        raise BadInput(f"{path}: schema is {json.dumps(schema)[:60]}, this version reads {SCHEMA}; {hint}")
    try:
        file = ArchitectureFile.model_validate(data, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    try:
        space = make_space(file.space.name, file.space.arguments, spaces)
        if space.fingerprint != file.space.fingerprint:
            raise BadInput(
                f"space '{space.name}' has changed: its fingerprint is {space.fingerprint} here and "
                f"{file.space.fingerprint} in the file"
            )
        row = space.encode(file.choices)
        if row.tolist() != file.encoding:
            raise BadInput(f"choices and encoding disagree: choices say {row.tolist()}, encoding {file.encoding}")
        architecture = Architecture(
            space=space,
            row=row,
            macro=Macro(**file.macro.model_dump()),
            search_macro=Macro(**file.search_macro.model_dump()),
            recipe=None if file.recipe is None else make_recipe(file.recipe),
            metrics=file.metrics,
            costs=tuple(c.model_dump() for c in file.cost),
            provenance=file.provenance,
        )
        if json.loads(to_json(layers_to_json(architecture.layers))) != data["layers"]:
            raise BadInput("layers disagree with choices and macro; the file was edited")
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    return architecture


def make_space(name: str, arguments: Mapping[str, Any], spaces: Spaces) -> SearchSpace:
    """Calls the factory of that name.

    Raises:
        BadInput: unknown space, or arguments that its factory does not take.
    """
    if name not in spaces:
        raise BadInput(f"no space '{name}'; {suggest(name, spaces)}")
    try:
        return spaces[name](**arguments)
    except BadInput:
        raise
    except Exception as error:  # whatever a factory, which may be a person's own, makes of what a file says
        raise BadInput(f"space '{name}': {error}") from None


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from JSON, unknown settings refused."""
    return Recipe().replace(**values)


def layers_to_json(layers: tuple[Layer, ...]) -> list[dict[str, Any]]:
    """Layers as JSON objects, in order."""
    return [asdict(layer) | {"attributes": dict(layer.attributes)} for layer in layers]


def layers_from_json(items: list[dict[str, Any]]) -> tuple[Layer, ...]:
    """Layers from JSON objects: enough to build the network without its space."""

    def tuples(value):
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return tuple(Layer(**{n: tuples(v) if n != "attributes" else _attributes(v) for n, v in i.items()}) for i in items)


def _attributes(values):
    return {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}


def macro_to_json(macro: Macro) -> dict[str, Any]:
    """A macro as JSON gives it back."""
    return json.loads(to_json(asdict(macro)))


def now() -> str:
    """The time, ISO, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# ---- the schema --------------------------------------------------------------------------------------------------
class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SpaceFile(_Strict):
    """Which space; rebuilt by calling the factory of that name with these arguments."""

    name: str = Field(max_length=200)
    arguments: dict[str, Any]
    fingerprint: str = Field(pattern="^[0-9a-f]{16}$")


class MacroFile(_Strict):
    """Width after the stem, cells, (height, width, channels) or (tokens,), classes."""

    width: int = Field(ge=1, le=MACRO_LIMITS["width"])
    depth: int = Field(ge=1, le=MACRO_LIMITS["depth"])
    input: tuple[int, ...] = Field(min_length=1, max_length=3)
    classes: int = Field(ge=1, le=MACRO_LIMITS["classes"])


class LayerFile(_Strict):
    """One resolved layer; `inputs` are indices into the list, shapes are without the batch."""

    name: str
    op: str
    attributes: dict[str, Any]
    inputs: list[int]
    input_shapes: list[list[int]]
    output_shape: list[int]
    scope: str
    block: str


class CostFile(_Strict):
    """One cost of the deployed network; the stamp says what the value is about."""

    name: str
    value: float
    how: Literal["estimated", "measured"]
    stamp: dict[str, Any]


class ArchitectureFile(_Strict):
    """An architecture: the choices are the authority, the encoding and the layers are checked against them."""

    schema_: Literal["nas.architecture/1"] = Field(alias="schema")
    space: SpaceFile
    choices: dict[str, Any]
    encoding: list[int]
    search_macro: MacroFile
    macro: MacroFile
    recipe: dict[str, Any] | None
    metrics: dict[str, Any]
    cost: list[CostFile]
    provenance: dict[str, Any]
    layers: list[LayerFile]


def json_schema() -> dict[str, Any]:
    """JSON Schema of the config; `docs/architecture.schema.json` is made from it."""
    return ArchitectureFile.model_json_schema(by_alias=True)
