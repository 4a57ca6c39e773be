"""Tables of layers by options: a matrix of figures, a row for each decision of a space and a column for each option.

So FBNet's users keep what they measured (a Raspberry Pi 3's latency and energy are public in this form).
"""

import math
from pathlib import Path

import numpy as np

from nas.config import macro_to_json
from nas.cost import Cost, Factor, Stamp
from nas.errors import BadInput
from nas.objective import UNITS
from nas.space import Macro, SearchSpace

MOST_BYTES = 10_000_000


def grid_cost(
    source: Path, space: SearchSpace, macro: Macro, *, quantity: str, factor: float, device: str, batch: int = 1
) -> Cost:
    """The sum over decisions of the chosen options' figures.

    Args:
        source: text, numbers parted by blanks, commas or tabs; lines that begin with ``#`` are left out.
        space: a row for each of its decisions, a column for each option, both in the space's order.
        macro: the frame it holds for.
        quantity: ``latency`` or ``energy``.
        factor: from the file's unit to the quantity's own.
        device: for the stamp.
        batch: images a call.

    Raises:
        BadInput: another number of rows or columns, what is no number, or a figure below zero.
    """
    try:
        if source.stat().st_size > MOST_BYTES:
            raise BadInput(f"{source}: has more than {MOST_BYTES:,} bytes; that is no table of layers by options")
        lines = [line.replace(",", " ").split() for line in source.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{source}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    lines = [line for line in lines if line and not line[0].startswith("#")]
    if len(lines) != space.length:
        raise BadInput(f"{source}: has {len(lines)} rows; space '{space.name}' has {space.length} decisions")
    tables = []
    for i, (line, decision) in enumerate(zip(lines, space.decisions, strict=True), 1):
        options = len(decision.options)
        if len(line) != options:
            raise BadInput(f"{source}, row {i}: has {len(line)} figures; '{decision.name}' has {options} options")
        try:
            figures = [float(cell) for cell in line]
        except ValueError:
            raise BadInput(f"{source}, row {i}: holds what is no number") from None
        if not all(math.isfinite(v) and v >= 0 for v in figures):
            raise BadInput(f"{source}, row {i}: every figure must be a finite number, zero or above")
        tables.append(factor * np.asarray(figures))
    text = f"table of layers by options, {source.name}; what networks as a whole take is not known"
    stamp = Stamp(quantity, UNITS[quantity][0], device, "not stated", batch, "not stated", macro_to_json(macro), text)
    factors = tuple(Factor((i,), table) for i, table in enumerate(tables))
    return Cost(stamp, 0.0, factors, None, space.fingerprint)
