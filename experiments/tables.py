"""CSV tables as people have them: read whole, checked, columns by name."""

import csv
import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nas.errors import BadInput, suggest

MOST_BYTES = 500_000_000

Columns = dict[str, list[str]]


def read_csv(path: Path) -> Columns:
    """Columns of a ``.csv`` or ``.csv.gz`` with a header, as text.

    Raises:
        BadInput: larger than 500 MB, not text, no rows, a column twice, or a row of another length.
    """
    packed = path.suffix == ".gz"
    try:
        if os.path.getsize(path) > MOST_BYTES:
            raise BadInput(f"{path} has more than {MOST_BYTES:,} bytes; give a smaller table")
        with (gzip.open if packed else open)(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise BadInput(f"{path} unpacks to more than {MOST_BYTES:,} bytes; give a smaller table")
        lines = [line for line in csv.reader(raw.decode("utf-8-sig").splitlines(), strict=True) if line]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{path} cannot be read as {'gzip of ' * packed}CSV: {reason}") from None
    if len(lines) < 2:
        raise BadInput(f"{path} has no rows; it needs a header and a row for each architecture")
    header = lines[0]
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"{path}: column '{twice}' is there twice")
    odd = next((i for i, line in enumerate(lines) if len(line) != len(header)), None)
    if odd is not None:
        raise BadInput(f"{path}: row {odd} has {len(lines[odd])} cells; the header has {len(header)}")
    return dict(zip(header, map(list, zip(*lines[1:], strict=True)), strict=True))


def column(columns: Columns, name: str, where: str = "the table") -> list[str]:
    """A column by name.

    Raises:
        BadInput: it is not there; says the nearest.
    """
    if name not in columns:
        raise BadInput(f"{where}: no column '{name}'; {suggest(name, columns)}")
    return columns[name]


def numbers(columns: Columns, names: Sequence[str], where: str = "the table") -> np.ndarray:
    """float32[len(names), N].

    Raises:
        BadInput: a column that is not there, or a cell that is no number.
    """
    found = np.zeros((len(names), len(next(iter(columns.values())))), np.float32)
    for values, name in zip(found, names, strict=True):
        for i, text in enumerate(column(columns, name, where)):
            try:
                with np.errstate(over="ignore"):
                    values[i] = float(text)
            except ValueError:
                raise BadInput(f"{where}: row {i + 1}: '{name}' is '{text[:40]}'; it must be a number") from None
    return found
