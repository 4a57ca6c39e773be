"""`nas fit --transfer`: a device from a few measured networks and the devices that are known for the space."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.arch_rows import table_rows
from hw_models.fit import agreement, fit, usable
from hw_models.transfer import LEAST, SIMULATED, Known, chip_of, choose, learn, left_out_by, places_among, predict
from nas.cost import Cost, Stamp
from nas.errors import BadInput
from nas.space import SearchSpace


def read_known(space: SearchSpace, path: Path, arch_column: str, arch_table: Path | None, device: str):
    """(what is known, its devices): the columns of figures, without those of the new device's chip and simulated ones.

    Raises:
        BadInput: as `table_rows` and `learn`.
    """
    columns, rows = table_rows(space, path, arch_column, arch_table)
    found = {}
    for name, cells in columns.items():
        if name in ("index", arch_column) or chip_of(name) in (chip_of(device), *SIMULATED) or name.endswith("_std_ms"):
            continue
        try:
            values = np.asarray([float(cell) if cell.strip() else np.nan for cell in cells])
        except ValueError:
            continue  # a column of words
        if usable(values).mean() > 0.5:
            found[name] = values
    if len({chip_of(name) for name in found}) < 3:
        raise BadInput(
            f"{path}: has figures of fewer than 3 chips beside that of '{device}'; transfer learns from others"
        )
    return learn(space, rows, np.stack(list(found.values())), [chip_of(name) for name in found]), list(found)


def places_of(known: Known, rows: np.ndarray, where: str) -> np.ndarray:
    """int[n]: where measured networks stand among the known ones.

    Raises:
        BadInput: one is not among them.
    """
    places = places_among(known.rows, rows)
    if missing := int((places < 0).sum()):
        raise BadInput(f"{where}: {missing} of its networks are not in --known; measure networks that are")
    return places


def table(space: SearchSpace, known: Known, places: np.ndarray, values: np.ndarray, stamp: Stamp) -> Cost:
    """The table of the new device: fitted to what is predicted for the known networks."""
    predicted, error = predict(known, places, values, left_out=left_out_by(stamp.runtime))
    made = fit(space, known.rows, predicted, stamp, hold_out=False)
    off = float(np.mean(np.abs(made(known.rows) / predicted - 1)))
    source = f"{stamp.source}; transferred from known devices by {len(values)} measured networks"
    note = f"{source}, the error is of each left out; the table is {off:.1%} off the predictions"
    return replace(made, stamp=replace(stamp, error=error, source=note))


def draws(space: SearchSpace, known: Known, places, values, stamp: Stamp, samples: int, seeds: int, seed: int) -> dict:
    """Agreement on the rest of the networks: means over draws, of the same networks alone, and of chosen networks."""
    if not LEAST <= samples < len(values):
        raise BadInput(
            f"--samples {samples}: it must be from {LEAST} to {len(values) - 1}; some must be left to test on"
        )

    def test(train: np.ndarray) -> dict[str, float]:
        rest = np.setdiff1d(np.arange(len(values)), train)
        predicted, _ = predict(known, places[train], values[train], left_out=left_out_by(stamp.runtime))
        return agreement(predicted[places[rest]], values[rest])

    each, alone = [], []
    for draw in range(seed, seed + seeds):
        order = np.random.default_rng(draw).permutation(len(values))
        train, rest = order[:samples], order[samples:]
        each.append(test(train))
        if samples >= 8:
            cost = fit(space, known.rows[places[train]], values[train], stamp, hold_out=False)
            alone.append(agreement(cost(known.rows[places[rest]]), values[rest]))
    inside = {place: i for i, place in enumerate(places.tolist())}
    chosen = [inside[place] for place in choose(known, 3 * samples).tolist() if place in inside][:samples]
    mean = lambda some: {key: float(np.mean([one[key] for one in some])) for key in each[0]} if some else None  # noqa: E731
    return {
        **(mean(each) or {}),
        "spread": {key: float(np.std([one[key] for one in each])) for key in each[0]},
        "alone": mean(alone),
        "chosen": test(np.asarray(chosen)) if len(chosen) == samples else None,
        "samples": samples,
        "seeds": seeds,
        "tested": len(values) - samples,
    }
