"""The file of raw samples that a killed measuring goes on from, and what the samples are of: device and runtime."""

import datetime
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hw_models.runtimes import device_name, runtime_name
from hw_models.timing import Samples
from nas.cost import Stamp
from nas.errors import BadInput
from nas.files import read_json, write_json
from nas.space import Macro, SearchSpace

SCHEMA = "nas.measurement/1"


def stamp_of(macro: Macro, batch: int, dtype: str, source: str, runtime: str = "xla") -> Stamp:
    """The stamp of a latency on this machine, today."""
    today = datetime.date.today().isoformat()
    device = device_name(runtime)
    return Stamp("latency", "ms", device, runtime_name(runtime), batch, dtype, asdict(macro), source, None, today)


def about(space: SearchSpace, stamp: Stamp, seed: int) -> dict[str, Any]:
    """What samples must have in common to stand in one table, as JSON gives it back."""
    names = ("device", "runtime", "batch", "dtype", "macro")
    common = {"space": space.fingerprint, "seed": seed} | {name: getattr(stamp, name) for name in names}
    return json.loads(json.dumps(common))


def open_samples(path: str | os.PathLike | None, about: Mapping[str, Any]) -> Samples:
    """The samples of an earlier call, none where there is no file.

    Raises:
        BadInput: the file holds something else; it is left as it is.
    """
    if path is None or not Path(path).exists():
        return {}
    data = read_json(path, "measuring to go on with")
    if data.get("schema") != SCHEMA:
        raise BadInput(f"{path}: not a measuring to go on with ({SCHEMA}); give another path, or delete it")
    found = data.get("about")
    for name, value in about.items():
        was = found.get(name) if isinstance(found, dict) else None
        if was != value:
            raise BadInput(
                f"{path}: measured with {name} {json.dumps(was)}, not {json.dumps(value)}; "
                "give another path, or delete it"
            )
    samples: Any = data.get("samples")
    try:
        good = all(np.isfinite(np.asarray(v, np.float64).reshape(len(v), 2)).all() for v in samples.values())
    except (AttributeError, TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise BadInput(f"{path}: holds samples that are no numbers; delete it and measure again")
    return samples


def save_samples(path: str | os.PathLike | None, about: Mapping[str, Any], samples: Samples) -> None:
    """Writes all samples (atomically), where there is a path."""
    if path is not None:
        write_json(path, {"schema": SCHEMA, "about": about, "samples": samples})
