"""What the files of a run folder hold, checked when they are read: the lines of the journal, and ``search.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from nas.errors import BadInput
from nas.files import read_json

Count = Annotated[int, Field(ge=0, lt=2**31)]
Number = FiniteFloat | None  # null stands for a number that is not finite, which JSON has not


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


# ---- journal.jsonl -----------------------------------------------------------------------------------------------
class _Event(_Strict):
    id: Count
    at: FiniteFloat = 0.0


class _Asked(_Event):
    event: Literal["asked"]
    row: list[Count]
    epochs: Count
    random: bool


class _Rung(_Event):
    event: Literal["rung"]
    epochs: Count
    score: Number
    goes_on: bool


class _Result(_Event):
    event: Literal["finished", "stopped"]
    metrics: dict[str, Number]
    scores: list[Number]
    violation: list[Number]


class _Failed(_Event):
    event: Literal["failed"]
    reason: str
    seconds: Number


class _Retried(_Event):
    event: Literal["retried"]
    reason: str


_EVENT: TypeAdapter[Any] = TypeAdapter(
    Annotated[_Asked | _Rung | _Result | _Failed | _Retried, Field(discriminator="event")]
)


def read_event(line: bytes) -> dict[str, Any]:
    """One line of the journal.

    Raises:
        ValueError: it is no event.
    """
    event = json.loads(line)
    try:
        _EVENT.validate_python(event)
    except ValidationError as error:
        raise ValueError(_first(error)) from None
    return event


# ---- search.json -------------------------------------------------------------------------------------------------
class _Space(BaseModel):
    name: str
    arguments: dict[str, Any]
    fingerprint: str


class _Named(BaseModel):
    name: str
    arguments: dict[str, Any]


class _Limit(_Strict):
    cost: str
    value: FiniteFloat


class _Objective(_Strict):
    kind: Literal["accuracy", "mnasnet", "pareto"]
    costs: list[str]
    target: Number
    alpha: FiniteFloat
    beta: FiniteFloat
    limits: list[_Limit]
    metric: str


class _Budget(_Strict):
    trials: Count | None
    seconds: Number


class _Search(BaseModel):
    model_config = ConfigDict(strict=True)

    schema_: Literal["nas.search/1"] = Field(alias="schema")
    space: _Space
    strategy: _Named
    evaluation: dict[str, Any]
    objective: _Objective
    costs: dict[str, dict[str, Any]]
    macro: dict[str, Any]
    seed: int
    eta: int | None
    budget: _Budget
    executor: str
    versions: dict[str, str]
    created: str


def read_search(path: Path) -> Mapping[str, Any]:
    """A ``search.json``.

    Raises:
        BadInput: no such file, or one that describes no search.
    """
    described = read_json(path, "search description")
    if described.get("schema") != "nas.search/1":
        shown = str(described.get("schema"))[:40]
        raise BadInput(f"{path}: schema is {shown}; this version reads nas.search/1")
    try:
        _Search.model_validate(described)
    except ValidationError as error:
        raise BadInput(f"{path}: not a search description (nas.search/1): {_first(error)}") from None
    return described


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
