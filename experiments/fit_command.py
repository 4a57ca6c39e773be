"""`nas fit`: from measurements of whole networks to a table, and how good such a table is."""

import datetime
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from experiments import transfer_command
from experiments.arch_rows import table_rows
from experiments.cli import show
from experiments.measure_commands import describe_fitted, tell
from experiments.options import make_own, space_factory
from experiments.tables import column
from hw_models.bundle import read_results
from hw_models.fit import LEAST, agreement, check, fit, usable
from hw_models.networks import fitted
from nas.config import macro_to_json
from nas.cost import Stamp
from nas.errors import BadInput, suggest
from nas.files import check_out
from nas.objective import UNITS
from nas.space import Macro, SearchSpace
from search_spaces import SPACES

KEYS = ("spearman", "within_5", "within_10", "mape")


@dataclass(frozen=True)
class Options:
    """The options of the command line, by their names."""

    results: Path | None
    space: str
    csv: Path | None
    arch_column: str
    arch_table: Path | None
    value_column: str | None
    unit: str | None
    quantity: str
    samples: int | None
    seeds: int
    transfer: bool
    known: Path | None
    seed: int
    device: str | None
    runtime: str
    batch: int | None
    dtype: str
    width: int | None
    depth: int | None
    out: Path | None
    json: bool


def main(options: Options) -> None:
    """`nas fit`."""
    check_out(options.out, "nas.cost/1")
    if options.results is not None:
        return from_bundle(options)
    if options.csv is None or options.value_column is None:
        raise BadInput("fit: say what to fit to: --csv FILE --value-column NAME --unit ms, or --results BUNDLE")
    factor = unit_factor(options.quantity, options.unit)
    space = make_own(options.space, space_factory(options.space, SPACES))
    columns, rows = table_rows(space, options.csv, options.arch_column, options.arch_table)
    values = read_values(columns, options.value_column, str(options.csv)) * factor
    stamp = stamp_of(options, space)
    good = usable(values)
    if not good.all():
        print(
            f"nas: {options.value_column}: {(~good).sum()} of {len(good)} entries are missing, negative or near zero "
            "(below a twentieth of the median) and left out",
            file=sys.stderr,
        )
    rows, values = once_each(rows[good], values[good], str(options.csv))
    check(rows, values, stamp)
    found = {"device": stamp.device, "quantity": stamp.quantity, "unit": stamp.unit, "dropped": int((~good).sum())}
    if options.samples is not None and options.out is not None:
        raise BadInput("--out: with --samples nothing is written, it tells how good a table would be; drop one")
    if options.transfer != (options.known is not None):
        raise BadInput("--transfer and --known go together: --known FILE holds other devices on the same networks")
    if options.known is not None:
        found |= transfer(options, space, rows, values, stamp)
    elif options.samples is None:
        cost = fit(space, rows, values, stamp, seed=options.seed)
        if options.out is not None:
            cost.save(options.out)
        found |= {"networks": len(rows), **{k: cost.details["fit"][k] for k in (*KEYS, "held_out", "shares", "noise")}}
    else:
        found |= draws(space, rows, values, stamp, options.samples, options.seeds, options.seed)
    if options.json:
        show(found)
    else:
        print(text(found, options.out))


def from_bundle(options: Options) -> None:
    """A table from the results of a bundle (`nas measure --bundle`); the bundle says what its figures are about."""
    if options.csv is not None or options.value_column is not None:
        raise BadInput("fit: --results is a bundle's folder, which holds all it needs; leave --csv and its columns out")
    if options.out is None:
        raise BadInput("fit: say where the table goes: --out phone.json")
    space, found = read_results(options.results, SPACES)
    cost = fitted(space, found, seed=options.seed)
    cost.save(options.out)
    tell(space, cost, describe_fitted(cost, found), options.out, options.json)


def transfer(options: Options, space: SearchSpace, rows: np.ndarray, values: np.ndarray, stamp: Stamp) -> dict:
    """`nas fit --transfer`: writes the table, or tells how good one of `--samples` networks is."""
    assert options.known is not None and options.value_column is not None
    known, devices = transfer_command.read_known(
        space, options.known, options.arch_column, options.arch_table, options.value_column
    )
    places = transfer_command.places_of(known, rows, str(options.csv))
    if options.samples is not None:
        size = (options.samples, options.seeds, options.seed)
        return {"known": devices, **transfer_command.draws(space, known, places, values, stamp, *size)}
    cost = transfer_command.table(space, known, places, values, stamp)
    if options.out is not None:
        cost.save(options.out)
    held_out = f"each of the {len(rows)} left out; others, unlike all of these, may be several times as far off"
    return {"known": devices, "networks": len(rows), "mape": cost.stamp.error, "held_out": held_out}


def unit_factor(quantity: str, unit: str | None) -> float:
    """What a figure in `unit` is multiplied by to be in the quantity's own.

    Raises:
        BadInput: no such quantity; no unit, or one of another quantity. Nothing is guessed.
    """
    measured = [name for name, (own, _) in UNITS.items() if own]
    if quantity not in measured:
        raise BadInput(f"--quantity: no quantity '{quantity}'; {suggest(quantity, measured)}")
    units = UNITS[quantity][1]
    if unit is None:
        raise BadInput(f"--unit is missing: say what the column is in; {quantity} takes {', '.join(units)}")
    if unit.lower() not in units:
        raise BadInput(f"--unit: '{unit}' is no unit of {quantity}; {suggest(unit.lower(), units)}")
    return units[unit.lower()]


def read_values(columns: dict[str, list[str]], name: str, where: str) -> np.ndarray:
    """float64[N]; an empty cell is NaN.

    Raises:
        BadInput: no such column, or a cell that is no number.
    """
    texts = column(columns, name, where)
    found = np.full(len(texts), np.nan)
    for i, cell in enumerate(texts):
        try:
            found[i] = float(cell) if cell.strip() else np.nan
        except ValueError:
            raise BadInput(f"{where}, row {i + 1}: column '{name}' is '{cell[:40]}'; it must be a number") from None
    return found


def once_each(rows: np.ndarray, values: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows int32[M, L], each once and in their order, with the median of what was measured of each.

    A network that stands on both sides of a cross-validation would make the error look smaller than it is.
    """
    _, first, of = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    if len(first) == len(rows):
        return rows, values
    groups = np.split(values[np.argsort(of, kind="stable")], np.cumsum(np.bincount(of.ravel()))[:-1])
    medians = np.asarray([np.median(group) for group in groups])
    many = [group for group in groups if len(group) > 1]
    spread = float(np.mean([np.ptp(group) / np.median(group) for group in many]))
    print(
        f"nas: {where}: {len(many)} networks are there more than once; each counts once, with its median "
        f"(repeats lie {spread:.1%} apart)",
        file=sys.stderr,
    )
    order = np.argsort(first)
    return rows[first[order]], medians[order]


def stamp_of(options: Options, space: SearchSpace) -> Stamp:
    """What the figures are about, as far as the person says; without a batch nothing can be written."""
    if options.out is not None and options.batch is None:
        raise BadInput("--batch is missing: say how many images a call had, so that the table can be compared")
    macro: Macro = space.macro
    macro = replace(macro, width=options.width or macro.width, depth=options.depth or macro.depth)
    return Stamp(
        options.quantity,
        UNITS[options.quantity][0],
        options.device or options.value_column,
        options.runtime,
        options.batch or 1,
        options.dtype,
        macro_to_json(macro),
        f"column {options.value_column} of {options.csv.name}",
        None,
        datetime.date.today().isoformat(),
    )


def draws(space, rows, values, stamp, samples: int, seeds: int, seed: int) -> dict:
    """`samples` networks fitted and the rest predicted, for each of `seeds` draws; means, and the spread over draws."""
    if not LEAST <= samples < len(rows):
        raise BadInput(f"--samples {samples}: it must be from {LEAST} to {len(rows) - 1}; some must be left to test on")
    each = []
    for draw in range(seed, seed + seeds):
        order = np.random.default_rng(draw).permutation(len(rows))
        train, test = order[:samples], order[samples:]
        cost = fit(space, rows[train], values[train], stamp, seed=draw, hold_out=False)
        each.append(agreement(cost(rows[test]), values[test]))
    means = {key: float(np.mean([one[key] for one in each])) for key in KEYS}
    spread = {key: float(np.std([one[key] for one in each])) for key in KEYS}
    return {**means, "spread": spread, "samples": samples, "seeds": seeds, "tested": len(rows) - samples}


def text(found: dict, out: Path | None) -> str:
    """The figures for people."""
    how = found.get("held_out") or f"{found['tested']} others, mean of {found['seeds']} draws of {found['samples']}"
    lines = [f"{found['quantity']} on {found['device']}: mean error {found['mape']:.1%} ({how})"]
    if "spearman" in found:
        lines[0] += (
            f", Spearman {found['spearman']:.3f}, within ±5 % {found['within_5']:.1%}, ±10 % {found['within_10']:.1%}"
        )
    for name in ("alone", "chosen"):
        if found.get(name):
            lines.append(f"  {name}: Spearman {found[name]['spearman']:.3f}, ±10 % {found[name]['within_10']:.1%}")
    if out is not None:
        lines.append(f"written to {out}; search with --cost {found['quantity']}={out}")
    return "\n".join(lines)
