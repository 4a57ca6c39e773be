"""Readers of published tables of block latencies; each gives the entries of a `hw_models.block_table.BlockTable`.

Units are those that the publications state; entries at or below zero are dropped and counted.
"""

import csv
import gzip
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hw_models.block_table import ANY, BlockTable, entry_key
from nas.cost import Stamp
from nas.errors import BadInput, suggest
from nas.layers import Shape
from nas.objective import UNITS

MOST_BYTES = 100_000_000
# a median block outside of this (ms) is a unit taken for another
PLAUSIBLE_MS = (5e-4, 5e3)
KINDS = {"Conv": "stem", "Conv_1": "final_conv", "AvgPool2D": "pool", "Conv_2": "feature_mix", "Logits": "logits"}
Entry = tuple[str, str, float]  # side of the whole image, key, figure


@dataclass(frozen=True)
class Format:
    """How a published table is read.

    Attributes:
        read: ``(source, column) -> entries``.
        facts: what it states of an inverted residual.
        unit: of its figures, as published.
        about: device, runtime, dtype; where they are several or unknown, the person says.
        columns: the devices, where there are several; the first is the default of none.
    """

    read: Callable[[Path, str], Iterable[Entry]]
    facts: tuple[str, ...]
    unit: str
    about: tuple[str, str, str]
    columns: tuple[str, ...] = ()


def import_blocks(
    form: str, source: str | Path, *, column: str | None = None, unit: str | None = None, device: str | None = None
) -> tuple[BlockTable, int]:
    """The table, and how many of its entries were dropped because they are zero or below.

    Args:
        form: of `FORMATS`.
        source: file or folder.
        column: device, where the table has several.
        unit: of the figures, where they are not in the published one.
        device: for the stamp.

    Raises:
        BadInput: unknown format or column, a file that is not of the format, or figures out of all bounds.
    """
    if form not in FORMATS:
        raise BadInput(f"import table: no format '{form}'; {suggest(form, FORMATS)}")
    known = FORMATS[form]
    if known.columns and column not in known.columns:
        said = f"no column '{column}'" if column else "say which device with --column"
        raise BadInput(f"import table {form}: {said}; {suggest(column or '', known.columns)}")
    units = UNITS["latency"][1]
    if unit is not None and unit not in units:
        raise BadInput(f"--unit: '{unit}' is no unit of latency; {suggest(unit, units)}")
    factor, dropped, base = units[unit or known.unit], 0, None
    entries: dict[str, dict[str, float]] = {}
    for side, key, value in known.read(Path(source), column or ""):
        if not math.isfinite(value) or value <= 0:
            dropped += 1
        elif key == "base":
            base = value * factor
        else:
            entries.setdefault(side, {})[key] = value * factor
    middle = float(np.median([v for some in entries.values() for v in some.values()])) if entries else math.nan
    if not PLAUSIBLE_MS[0] <= middle <= PLAUSIBLE_MS[1]:
        what = f"the median block takes {middle:.3g} ms, out of all bounds; say with --unit what the figures are in"
        raise BadInput(f"{source}: {what if entries else f'holds no entry of format {form}'}")
    name, runtime, dtype = known.about
    text = f"published table, format {form}, {Path(source).name}; what networks as a whole take is not known"
    stamp = Stamp("latency", "ms", device or column or name, runtime, 1, dtype, {}, text)
    return BlockTable(stamp, known.facts, entries, base), dropped


# ---- files -------------------------------------------------------------------------------------------------------
def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInput(f"{path}: has more than {MOST_BYTES:,} bytes; that is no table of blocks")
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            raw: Any = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None
    if len(raw) > MOST_BYTES:
        raise BadInput(f"{path}: unpacks to more than {MOST_BYTES:,} bytes; that is no table of blocks")
    return raw


def _yaml(path: Path) -> dict[str, float]:
    """Key -> ``mean`` of a YAML of plain mappings.

    Tags, which could name code, are refused, and so are anchors, with which a few lines can fill the memory.
    """
    raw = _bytes(path)
    if re.search(rb"[&*]", raw):
        raise BadInput(f"{path}: not the plain YAML of a latency table: it has anchors")
    try:
        data = yaml.load(raw, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return {str(key): float(value["mean"]) for key, value in data.items()}
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        at = "" if line is None else f", line {line + 1}"
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise BadInput(f"{path}{at}: not the plain YAML of a latency table: {problem}") from None
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        raise BadInput(f"{path}: not a latency table; it maps a block's key to count, mean and std") from None


def _rows(path: Path, *needed: str) -> Iterator[dict[str, str]]:
    try:
        reader = csv.DictReader(_bytes(path).decode("utf-8-sig").splitlines(), strict=True)
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise BadInput(f"{path}: has no column '{missing[0]}'; it is another table")
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise BadInput(f"{path}, row {number}: has not as many cells as the header")
            yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read as CSV: {error}") from None


def _figure(path: Path, key: str, text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        raise BadInput(f"{path}: '{key[:60]}' has '{str(text)[:40]}'; it must be a number") from None


# ---- formats -----------------------------------------------------------------------------------------------------
def _named(path: Path, key: str, expand: str) -> str:
    """Our key of a once-for-all or ProxylessNAS key, whose ``expand`` is `channels` or a `ratio`."""
    found = re.fullmatch(r"([A-Za-z0-9_]+)-input:([0-9x]+)-output:([0-9x]+)((?:-[a-z]+:[0-9.]+)*)", key)
    if not found:
        raise BadInput(
            f"{path}: '{key[:60]}' is no key of a block; it looks like Conv-input:224x224x3-output:112x112x32"
        )
    kind, ins, out = found[1], _shape(path, key, found[2]), _shape(path, key, found[3])
    if kind in KINDS:
        return entry_key("head" if kind == "Logits" and len(ins) == 3 else KINDS[kind], ins, out, {})
    try:
        said = {name: float(value) for name, _, value in (pair.partition(":") for pair in found[4].split("-") if pair)}
        facts: dict[str, Any] = {"kernel": int(said["kernel"]), "stride": int(said["stride"])}
        facts["mid"] = round(said["expand"] * (ins[-1] if expand == "ratio" else 1))
        facts["skip"] = int(said["idskip"])
        if "hs" in said:
            facts |= {"gated": int(said["se"]), "activation": "hard_swish" if said["hs"] else "relu"}
    except KeyError as error:
        raise BadInput(f"{path}: '{key[:60]}' does not say {error}; it is another table") from None
    except (ValueError, OverflowError):
        raise BadInput(f"{path}: '{key[:60]}' has numbers that no block has") from None
    return entry_key("mbconv", ins, out, facts)


def _shape(path: Path, key: str, text: str) -> Shape:
    """``56x56x24``; ``1x1x1536`` of a dense layer are the channels alone, as in our layers."""
    try:
        shape = tuple(map(int, text.split("x")))
    except ValueError:
        raise BadInput(f"{path}: '{key[:60]}': '{text[:20]}' is no shape; it looks like 56x56x24") from None
    return shape[2:] if len(shape) == 3 and shape[:2] == (1, 1) else shape


def _ofa(source: Path, column: str) -> Iterator[Entry]:
    files = sorted(source.glob("*_lookup_table.yaml")) if source.is_dir() else []
    if not files:
        raise BadInput(f"{source}: no folder of once-for-all tables; it holds 160_lookup_table.yaml and the like")
    for path in files:
        side = path.name.partition("_")[0]
        for key, value in _yaml(path).items():
            yield side, _named(path, key, "channels"), value


def _proxylessnas(source: Path, column: str) -> Iterator[Entry]:
    for key, value in _yaml(source).items():
        yield ANY, _named(source, key, "ratio"), value


def _big_little(source: Path, column: str) -> Iterator[Entry]:
    for row in _rows(source, "block", column):
        yield ANY, _named(source, row["block"], "ratio"), _figure(source, row["block"], row[column])


def _tfnas(source: Path, column: str) -> Iterator[Entry]:
    for row in _rows(source, "hw", "in_ch", "se_ch", "out_ch", "kernel", "stride", "act", "mid_ch", "latency_ms"):
        value = _figure(source, str(row), row["latency_ms"])
        if row["act"] == "base":
            yield ANY, "base", value
            continue
        try:
            hw, into, se, out, kernel, stride, mid = (
                int(row[name]) for name in ("hw", "in_ch", "se_ch", "out_ch", "kernel", "stride", "mid_ch")
            )
            facts = {"kernel": kernel, "stride": stride, "mid": mid, "se": se, "activation": _ACTS[row["act"]]}
            outs = (-(-hw // stride), -(-hw // stride), out)
        except (KeyError, ValueError, ZeroDivisionError):
            raise BadInput(f"{source}: '{','.join(row.values())[:60]}' is no block of TF-NAS's table") from None
        yield ANY, entry_key("mbconv", (hw, hw, into), outs, facts), value


_ACTS = {"relu": "relu", "relu6": "relu6", "swish": "swish", "hswish": "hard_swish"}
_NNMETER = {
    "firstconv": ("stem", ("hw", "in", "out", "stride", "kernel")),
    "FirstConvBlock": ("stem", ("hw", "in", "out", "kernel", "", "stride", "act")),
    "FinalExpandBlock": ("final_conv", ("hw", "in", "out", "kernel", "", "stride", "act")),
    "FeatureMixBlock": ("feature_mix", ("hw", "in", "out", "kernel", "", "stride", "act")),
    "LogitsBlock": ("logits", ("hw", "in", "out", "kernel", "", "stride", "act")),
    "conv": ("mbconv", ("hw", "in", "out", "expand", "stride", "act", "kernel", "se")),
    "MobileNetV2ResBlock": ("mbconv", ("hw", "in", "out", "kernel", "expand", "stride", "act")),
    "MobileNetV3ResBlock": ("mbconv", ("hw", "in", "out", "kernel", "expand", "stride", "act")),
}


def _nnmeter(source: Path, column: str) -> Iterator[Entry]:
    """Of the kinds in `_NNMETER`; the others, attention and residual networks, are in none of our spaces."""
    for row in _rows(source, "block", column):
        kind, *values = row["block"].replace("hard_swish", "hswish").split("_")
        if kind not in _NNMETER:
            continue
        ours, names = _NNMETER[kind]
        said = dict(zip(names, values, strict=False))
        try:
            hw, into, out, stride = (int(said[name]) for name in ("hw", "in", "out", "stride"))
            facts: dict[str, Any] = {}
            if ours == "mbconv":
                gated = said.get("se", "se" if kind == "MobileNetV3ResBlock" else "nose") == "se"
                facts = {"kernel": int(said["kernel"]), "stride": stride, "mid": round(float(said["expand"]) * into)}
                facts |= {"gated": int(gated), "activation": _ACTS[said["act"]]}
            ins: Shape = (into,) if ours in ("feature_mix", "logits") else (hw, hw, into)
            outs: Shape = (out,) if len(ins) == 1 else (-(-hw // stride), -(-hw // stride), out)
        except (KeyError, ValueError, ArithmeticError):
            raise BadInput(f"{source}: '{row['block'][:60]}' is no key of nn-Meter's block tables") from None
        yield ANY, entry_key(ours, ins, outs, facts), _figure(source, row["block"], row[column])


_MOBILE = ("kernel", "stride", "mid")
FORMATS: dict[str, Format] = {
    "ofa": Format(
        _ofa, (*_MOBILE, "gated", "activation", "skip"), "ms", ("Samsung Note10", "not stated", "not stated")
    ),
    "proxylessnas": Format(_proxylessnas, (*_MOBILE, "skip"), "ms", ("Google Pixel 1", "TFLite", "not stated")),
    "big_little": Format(
        _big_little,
        (*_MOBILE, "skip"),
        "ms",
        ("a big.LITTLE phone", "not stated", "not stated"),
        ("cpu_b_ms", "cpu_s_ms", "gpu_ms"),
    ),
    "tfnas": Format(_tfnas, (*_MOBILE, "se", "activation"), "ms", ("not stated", "PyTorch", "not stated")),
    "nnmeter_phones": Format(
        _nnmeter,
        (*_MOBILE, "gated", "activation"),
        "ms",
        ("a phone", "TFLite CPU", "float32"),
        ("pixel1_ms", "pixel4_ms", "pixel6_ms", "xiaomi11_ms"),
    ),
    "nnmeter_onnx": Format(
        _nnmeter,
        (*_MOBILE, "gated", "activation"),
        "ms",
        ("a CPU, not named", "ONNX Runtime", "quantized"),
        ("latency_ms",),
    ),
}
