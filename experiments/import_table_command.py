"""`nas import table`: other people's tables, turned into what --cost takes."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments import hat, hwgpt
from experiments.fit_command import unit_factor
from experiments.measure_commands import framed
from experiments.options import frame
from experiments.tables import read_csv
from hw_models.conv_table import read_profile
from hw_models.grid_table import grid_cost
from hw_models.readers import FORMATS, import_blocks
from nas.errors import BadInput, suggest
from nas.files import check_out

# of one space at one frame; tables of blocks serve every space that their blocks make up
OF_A_SPACE = ("tensorrt", "grid")
OF_NETWORKS = ("hwgpt", "hat")  # measured whole: a table is fitted to them


@dataclass
class Options:
    """The options of ``nas import table``, as typed."""

    form: str
    source: Path
    out: Path
    column: str | None
    unit: str | None
    device: str | None
    quantity: str
    batch: int
    space: str | None
    set: list[str]
    width: int | None
    depth: int | None
    input: str | None
    classes: int | None


def main(o: Options) -> None:
    """Reads the published table, writes ours and says what to do with it."""
    known = (*FORMATS, *OF_A_SPACE, *OF_NETWORKS)
    if o.form not in known:
        raise BadInput(f"import table: no format '{o.form}'; {suggest(o.form, known)}")
    if o.form in FORMATS:
        check_out(o.out, "nas.blocks/1")
        return _blocks(o)
    check_out(o.out, "nas.cost/1")
    if o.form in OF_NETWORKS:
        return (_networks if o.form == "hwgpt" else _translators)(o)
    if o.space is None:
        raise BadInput(f"import table {o.form}: say of which space, --space fbnet; such a table is of one space")
    space = framed(o.space, o.set, o.width, o.depth, o.input, o.classes)
    cost, what = (_profile if o.form == "tensorrt" else _grid)(o, space)
    cost.save(o.out)
    at = f"{space.name}, {frame(cost.stamp.macro)}, batch {cost.stamp.batch}"
    print(f"{what}; {cost.stamp.quantity} of {at} written to {o.out}; use it with --cost NAME={o.out}")


def _blocks(o):
    table, dropped = import_blocks(o.form, o.source, column=o.column, unit=o.unit, device=o.device)
    if dropped:
        print(f"nas: {o.source}: {dropped} entries are missing, zero or negative and left out", file=sys.stderr)
    table.save(o.out)
    entries = sum(map(len, table.entries.values()))
    print(f"{entries:,} blocks on {table.stamp.device} written to {o.out}; use them with --cost NAME={o.out}")


def _networks(o):
    if o.unit is not None or o.space is not None or o.set:
        raise BadInput("import table hwgpt: the file says which space and units; leave --unit, --space and --set out")
    cost = hwgpt.cost(o.source, o.column, o.quantity)
    cost.save(o.out)
    stamp = cost.stamp
    _tell(cost, f"{stamp.quantity} of gpt (scale {cost.details['scale']}, batch {stamp.batch}) on {stamp.device}")
    if o.quantity in hwgpt.CAVEAT:
        print(f"nas: {hwgpt.CAVEAT[o.quantity].removesuffix('; ')}", file=sys.stderr)
    print(f"written to {o.out}; use it with nas specialize --space gpt --cost {stamp.device}={o.out}")


def _translators(o):
    if o.unit is not None or o.space is not None or o.quantity != "latency":
        raise BadInput("import table hat: it holds latencies of hat in ms; leave --unit, --space and --quantity out")
    cost = hat.cost(o.source, part=o.column or "sum", sets=o.set, device=o.device)
    cost.save(o.out)
    part = {"sum": "encoder and decoder"}.get(cost.details["part"], f"the {cost.details['part']} alone")
    _tell(cost, f"latency of hat ({cost.details['task']}, {part}) on {cost.stamp.device}")
    print(f"written to {o.out}; use it with nas describe --cost NAME={o.out}")


def _tell(cost, what):
    fit = cost.details["fit"]
    figures = f"mean error {fit['mape']:.1%}, Spearman {fit['spearman']:.3f}, within ±10 % {fit['within_10']:.0%}"
    print(f"{what}, fitted to {fit['networks']} networks; on {fit['held_out']}: {figures}")


def _profile(o, space):
    if o.column is None:
        raise BadInput("import table tensorrt: say which precision with --column fp16")
    if o.unit not in (None, "ms") or o.quantity != "latency":
        raise BadInput("import table tensorrt: its figures are latencies in ms; leave --unit and --quantity out")
    device = o.device or "NVIDIA V100"
    table = read_profile(read_csv(o.source), o.source.name, o.column, o.batch, device)
    off = np.median(table.held_out())
    entries = sum(map(len, table.times.values()))
    what = f"{entries:,} convolutions on {device} at {o.column}, between them median error {off:.1%}"
    return table.cost(space, space.macro), f"{what}; pools, additions and dense layers are not counted"


def _grid(o, space):
    factor = unit_factor(o.quantity, o.unit)
    if o.device is None:
        raise BadInput("import table grid: say what it was measured on with --device NAME")
    about = dict(quantity=o.quantity, factor=factor, device=o.device, batch=o.batch)
    cost = grid_cost(o.source, space, space.macro, **about)
    return cost, f"{len(cost.factors)} layers on {o.device}"
