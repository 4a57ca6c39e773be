"""The found network timed as a whole on this machine, beside what its table predicted."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from hw_models.networks import measure_networks
from hw_models.runtimes import RUNTIMES, device_name, runtime_name
from nas.cost import Cost, cost_column
from nas.errors import BadInput
from nas.files import read_json, write_json
from nas.result import Result
from nas.space import Macro

FILE, SCHEMA = "best.measured.json", "nas.measured/1"


def measure_winner(result: Result) -> None:
    """Writes ``best.measured.json``: for each latency table, predicted and measured ms of the winner.

    A table of another machine cannot be checked here, and the file says so. What was measured of the same trial
    before is kept.
    """
    tables = {n: c for n, c in result.costs.items() if c.stamp.quantity == "latency" and c.function is None}
    if result.best is None or not tables or read_measured(result.out, result.best.id):
        return
    row = np.asarray(result.best.row, np.int32)[None]
    found = {name: _one(result, name, cost, row) for name, cost in tables.items()}
    write_json(Path(result.out) / FILE, {"schema": SCHEMA, "trial": result.best.id, "costs": found})


def read_measured(folder: Any, trial: int) -> dict[str, dict[str, Any]]:
    """Cost name -> what was measured of this trial; empty where nothing was."""
    path = Path(folder) / FILE
    held = read_json(path, "measuring of the found network") if path.exists() else {}
    return held.get("costs", {}) if held.get("schema") == SCHEMA and held.get("trial") == trial else {}


def _one(result: Result, name: str, cost: Cost, row: np.ndarray) -> dict[str, Any]:
    stamp = cost.stamp
    about = {"predicted_ms": result.best.metrics[cost_column(name, cost)], "device": stamp.device}
    runtime = next((r for r in RUNTIMES if _here(r) == (stamp.device, stamp.runtime)), None)
    if runtime is None:
        return about | {"why_not": f"its table is of {stamp.device}, {stamp.runtime}, which this machine is not"}
    print(f"nas: measuring the found network, to hold it against '{name}'", file=sys.stderr)
    frame = Macro(**{**stamp.macro, "input": tuple(stamp.macro["input"])})
    conditions = dict(rows=row, runtime=runtime, batch=stamp.batch, dtype=stamp.dtype)
    try:
        measured = measure_networks(result.space, frame, progress=lambda *_: None, **conditions)
    except BadInput as error:
        return about | {"why_not": str(error)}
    took, spread = float(measured.latency_ms[0]), float(measured.spread[0])
    return about | {"measured_ms": took, "spread": spread, "notes": list(measured.notes)}


def _here(runtime: str) -> tuple[str, str] | None:
    try:
        return device_name(runtime), runtime_name(runtime)
    except BadInput:  # not installed
        return None
