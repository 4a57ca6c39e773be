"""A phone without a phone: a folder of ONNX models that another machine times, and its results read back."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hw_models.networks import Measured, quality, sample_connected
from hw_models.onnx_graph import require_onnx, to_onnx
from hw_models.timing import random_arrays
from nas.config import make_space, now
from nas.cost import Stamp
from nas.errors import BadInput
from nas.files import MAX_JSON_BYTES, read_json, to_json, write_atomic, write_json
from nas.layers import counts
from nas.plan import describe_space
from nas.space import Macro, SearchSpace

SCHEMA = "nas.bundle/1"
MAX_BYTES = 2 * 2**30  # of all models together: what a phone's flash and a cable take without complaint
COLUMNS = ("model", "round", "latency_ms")
HERE = Path(__file__).parent


def write_bundle(
    space: SearchSpace,
    folder: str | os.PathLike,
    *,
    networks: int = 100,
    batch: int = 1,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes models with random weights, ``manifest.json``, runners and a template for results; gives the manifest.

    The models are NCHW, float32, with the batch fixed, as the runtimes of phones want them. ``run.py`` needs Python and
    onnxruntime, ``run_adb.sh`` a phone on a cable and onnxruntime_perf_test. Who measures otherwise fills in
    ``results.template.csv`` and ``device.template.json`` and drops the word ``template`` from their names.

    Args:
        space: to sample from, at its macro.
        folder: new or empty.
        networks: how many distinct ones.
        batch: images a call.
        seed: of sampling and weights.
        report: called with (written, of).

    Raises:
        BadInput: a folder that holds something, models of more than `MAX_BYTES`, or ``onnx`` is not installed.
    """
    require_onnx()
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"bundle {folder}: it exists and is not empty; choose a new folder")
    rows = sample_connected(space, networks, seed)
    resolved = [space.layers(row) for row in rows]
    size = sum(4 * counts(layers).params for layers in resolved)
    if size > MAX_BYTES:
        raise BadInput(
            f"bundle: {len(rows)} models would take {size / 2**30:.1f} GiB, more than {MAX_BYTES >> 30}; "
            f"take {max(1, int(len(rows) * MAX_BYTES / size))} with --networks"
        )
    (folder / "models").mkdir(parents=True)
    models = []
    for at, (row, layers) in enumerate(zip(rows, resolved, strict=True)):
        weights, stats = random_arrays(layers, "float32", np.random.default_rng(seed))
        content = to_onnx(layers, weights, stats, layout="NCHW", batch=batch).SerializeToString()
        name = f"{at:04d}"
        write_atomic(folder / "models" / f"{name}.onnx", content)
        digest = hashlib.sha256(content).hexdigest()
        file = {"file": f"models/{name}.onnx", "bytes": len(content), "sha256": digest}
        models.append({"name": name, **file, "row": row.tolist()})
        report(at + 1, len(rows))
    about = {
        "space": describe_space(space),
        "macro": asdict(space.macro),
        "batch": batch,
        "dtype": "float32",
        "seed": seed,
    }
    manifest = json.loads(to_json({"schema": SCHEMA, **about, "created": now(), "models": models}))
    shutil.copyfile(HERE / "bundle_runner.py", folder / "run.py")
    shutil.copyfile(HERE / "bundle_adb.sh", folder / "run_adb.sh")
    write_json(folder / "device.template.json", {"device": "", "runtime": "", "threads": 1, "system": ""})
    lines = [",".join(COLUMNS), *(f"{model['name']},0," for model in models)]
    write_atomic(folder / "results.template.csv", "\n".join(lines) + "\n")
    write_json(folder / "manifest.json", manifest)
    return manifest


def read_results(
    folder: str | os.PathLike, spaces: Mapping[str, Callable[..., SearchSpace]]
) -> tuple[SearchSpace, Measured]:
    """The space and the measurements of a bundle that was run; the models are not opened.

    Where some models were timed more often than others, as after a run that was stopped, the first rounds that all have
    are taken; models without any time are left out, and the notes say so.

    Args:
        folder: of the bundle, with ``results.csv`` and ``device.json``.
        spaces: name -> factory; no other space is built.

    Raises:
        BadInput: not a bundle, another space than of this version, results that are missing, not above zero, of an
            unknown model, given twice, or of a device without a name.
    """
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json", "bundle (nas measure --bundle writes one)")
    space, macro, names = _checked(folder / "manifest.json", manifest, spaces)
    about = read_json(folder / "device.json", "description of the device (run.py and run_adb.sh write it)")
    for name in ("device", "runtime"):
        if not isinstance(about.get(name), str) or not about[name].strip():
            raise BadInput(f"{folder}/device.json: '{name}' is empty; a figure without its conditions is none")
    times = _times(folder / "results.csv", names)
    measured = [name for name in names if name in times]
    rounds = min(len(times[name]) for name in measured)
    ms = np.asarray([[times[name][r] for r in sorted(times[name])[:rounds]] for name in measured])
    notes = quality(ms)
    if len(measured) < len(names):
        notes += (f"{len(names) - len(measured)} of {len(names)} models were not measured",)
    device = f"{about['device'].strip()[:100]}, {about.get('threads')} threads"
    source = f"whole networks of a bundle, lower quartiles of {rounds} rounds"
    stamp = Stamp(
        "latency",
        "ms",
        device,
        about["runtime"].strip()[:100],
        manifest["batch"],
        manifest["dtype"],
        asdict(macro),
        source,
    )
    return space, Measured(
        np.asarray([names[name] for name in measured], np.int32), ms, stamp, space.fingerprint, notes
    )


def _checked(path, manifest, spaces) -> tuple[SearchSpace, Macro, dict[str, np.ndarray]]:
    if manifest.get("schema") != SCHEMA:
        raise BadInput(f"{path}: schema is {str(manifest.get('schema'))[:40]!r}; this version reads {SCHEMA}")
    try:
        described = manifest["space"]
        space = make_space(described["name"], described["arguments"], spaces)
        if space.fingerprint != described["fingerprint"]:
            raise BadInput(f"space '{space.name}' has changed since; write the bundle again")
        macro = Macro(**manifest["macro"])
        batch = manifest["batch"]
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1 or manifest["dtype"] != "float32":
            raise BadInput("batch or dtype is none that a bundle has")
        names = {str(m["name"]): space.check(np.asarray(m["row"])) for m in manifest["models"]}
        if not names or len(names) < len(manifest["models"]):
            raise BadInput("there are no models, or two of one name")
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"{path}: not the manifest of a bundle: {type(error).__name__} {error}") from None
    return space, macro, names


def _times(path: Path, names: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Model -> round -> ms, from the CSV."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BadInput(f"{path}: larger than {MAX_JSON_BYTES >> 20} MiB; these are no results")
        lines = list(csv.reader(path.read_text().splitlines()))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; run run.py or run_adb.sh of the bundle on the device first") from None
    except (OSError, UnicodeDecodeError, csv.Error):
        raise BadInput(f"{path}: cannot be read as CSV; run the bundle again") from None
    if not lines or tuple(word.strip() for word in lines[0]) != COLUMNS:
        raise BadInput(f"{path}: the first line must be {','.join(COLUMNS)}, times in milliseconds")
    found: dict[str, dict[int, float]] = {}
    for number, words in enumerate(lines[1:], 2):
        if not words:
            continue
        where = f"{path}, line {number}"
        if len(words) != len(COLUMNS):
            raise BadInput(f"{where}: {len(words)} values; there must be {len(COLUMNS)}: {','.join(COLUMNS)}")
        name, turn, text = (word.strip() for word in words)
        if name not in names:
            raise BadInput(f"{where}: no model '{name[:40]}' in the manifest; these are results of another bundle")
        try:
            at, ms = int(turn), float(text)
        except ValueError:
            raise BadInput(
                f"{where}: '{turn[:20]}' and '{text[:20]}' are no round and time; measure or delete it"
            ) from None
        if not (np.isfinite(ms) and ms > 0):
            raise BadInput(f"{where}: {text[:20]} ms; a time is above zero; measure or delete it")
        if at in found.setdefault(name, {}):
            raise BadInput(f"{where}: model '{name}' has round {at} twice; delete one")
        found[name][at] = ms
    if not found:
        raise BadInput(f"{path}: holds no times; run run.py or run_adb.sh of the bundle on the device first")
    return found
