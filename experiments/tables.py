"""Tables of trained networks as people have them: CSV files, architectures as text."""

import csv
import gzip
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nas.errors import BadInput, suggest
from nas.replay import Benchmark, benchmark
from nas.space import SearchSpace
from search_spaces.nasbench201 import from_string

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
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
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


def column(columns: Columns, name: str, where: str) -> list[str]:
    """A column by name.

    Raises:
        BadInput: it is not there; says the nearest.
    """
    if name not in columns:
        raise BadInput(f"{where}: no column '{name}'; {suggest(name, columns)}")
    return columns[name]


def numbers(columns: Columns, names: Sequence[str], where: str) -> np.ndarray:
    """float32[len(names), N].

    Raises:
        BadInput: a column that is not there, or a cell that is no number.
    """
    found = np.zeros((len(names), len(next(iter(columns.values())))), np.float32)
    for values, name in zip(found, names, strict=True):
        for i, text in enumerate(column(columns, name, where)):
            try:
                values[i] = float(text)
            except ValueError:
                raise BadInput(f"{where}: row {i + 1}: '{name}' is '{text[:40]}'; it must be a number") from None
    return found


# ---- architectures as text ---------------------------------------------------------------------------------------
def parse_arch(space: SearchSpace, text: str) -> list[int]:
    """One row: NAS-Bench-201's string where the space is that, else option indices joined by dashes or commas.

    Raises:
        BadInput: it is neither.
    """
    if "|" in text and space.name == "nasbench201":
        return from_string(text).tolist()
    parts = re.split(r"[-,\s]+", text.strip(" []()"))
    if len(parts) != space.length or not all(part.isdecimal() and len(part) < 9 for part in parts):
        form = "a NAS-Bench-201 string, or " if space.name == "nasbench201" else ""
        raise BadInput(
            f"'{text[:60]}' is no architecture of '{space.name}'; it wants {form}{space.length} option indices "
            f"joined by dashes, such as {'-'.join('0' * space.length)}"
        )
    return [int(part) for part in parts]


def parse_options(space: SearchSpace, cells: Sequence[str]) -> list[int]:
    """One row from one cell for each decision, which holds the option itself."""
    row = []
    for decision, cell in zip(space.decisions, cells, strict=True):
        texts = [option if isinstance(option, str) else json.dumps(option) for option in decision.options]
        if cell.strip() not in texts:
            raise BadInput(f"'{cell[:40]}' is no option of '{decision.name}'; options: {', '.join(texts)}")
        row.append(texts.index(cell.strip()))
    return row


def archs(columns: Columns, names: Sequence[str], space: SearchSpace, where: str) -> np.ndarray:
    """int32[N, L] from one column of whole architectures, or from one column for each decision.

    Raises:
        BadInput: the row that cannot be read, and why.
    """
    if len(names) not in (1, space.length):
        raise BadInput(
            f"{where}: {len(names)} architecture columns; give one that holds all of it, or one for each of the "
            f"{space.length} decisions of '{space.name}'"
        )
    cells = [column(columns, name, where) for name in names]
    rows = []
    for i, row in enumerate(zip(*cells, strict=True)):
        try:
            rows.append(parse_arch(space, row[0]) if len(names) == 1 else parse_options(space, row))
        except BadInput as error:
            raise BadInput(f"{where}: row {i + 1}: {error}") from None
    return np.asarray(rows, np.int32)


def archs_by_index(columns: Columns, name: str, other: Columns, space: SearchSpace, where: str, there: str):
    """int32[N, L]: column `name` holds numbers that the table `other` explains in a column of the same name.

    Raises:
        BadInput: the column is missing on either side, a number is repeated or not explained there, or no column there
            holds architectures.
    """
    wanted, known = column(columns, name, where), column(other, name, there)
    twice = len(known) != len(set(known))
    if twice:
        again = next(key for key in known if known.count(key) > 1)
        raise BadInput(f"{there}: '{name}' {again} is there twice; it must name one architecture")
    names = [d.name for d in space.decisions]
    if not set(names) <= set(other):
        names = [c for c in other if c != name and _holds_archs(space, other[c][0])][:1]
    if not names:
        raise BadInput(f"{there}: no column holds architectures of '{space.name}'")
    rows, place = archs(other, names, space, there), {key: i for i, key in enumerate(known)}
    missing = next((i for i, key in enumerate(wanted) if key not in place), None)
    if missing is not None:
        raise BadInput(f"{where}: row {missing + 1}: '{name}' {wanted[missing][:40]} is not in {there}")
    return rows[[place[key] for key in wanted]]


def _holds_archs(space, text):
    try:
        parse_arch(space, text)
    except BadInput:
        return False
    return True


# ---- any CSV -----------------------------------------------------------------------------------------------------
def from_csv(
    path: Path,
    space: SearchSpace,
    arch_column: str,
    validation_columns: Sequence[str],
    test_column: str,
    *,
    arch_table: Path | None = None,
    features: Sequence[str] = (),
) -> Benchmark:
    """A benchmark from a table of anyone's.

    Args:
        path: ``.csv`` or ``.csv.gz`` with a header.
        space: what its architectures mean.
        arch_column: the column with the architecture, see `parse_arch`; or several, joined by commas, one for each
            decision; or, with `arch_table`, one with numbers that the other table explains.
        validation_columns: what a strategy is told, higher is better: one column, or ``EPOCHS:COLUMN`` for each
            fidelity. A single one without epochs counts as one epoch.
        test_column: what is reported.
        arch_table: a table with the column `arch_column` and a column of architectures.
        features: columns that are known without training.

    Raises:
        BadInput: what `read_csv`, `archs`, `numbers` and `nas.replay.benchmark` refuse.
    """
    columns, where = read_csv(path), path.name
    fidelities = sorted(_fidelity(text, columns, len(validation_columns) == 1) for text in validation_columns)
    if arch_table is not None:
        rows = archs_by_index(columns, arch_column, read_csv(arch_table), space, where, arch_table.name)
    else:
        names = [arch_column] if arch_column in columns else arch_column.split(",")
        first = column(columns, names[0], where)[0]
        if len(names) == 1 and first.strip().isdecimal() and space.length > 1:
            raise BadInput(
                f"{where}: '{names[0]}' holds plain numbers such as {first.strip()[:20]}, not architectures; "
                "give --arch-table TABLE.csv, which says what each stands for"
            )
        rows = archs(columns, names, space, where)
    return benchmark(
        where,
        space,
        tuple(epochs for epochs, _ in fidelities),
        rows,
        numbers(columns, [name for _, name in fidelities], where),
        numbers(columns, [test_column], where)[0],
        features=numbers(columns, features, where).T if features else None,
        feature_names=tuple(features),
    )


def _fidelity(text, columns, alone):
    if alone and text in columns:
        return 1, text
    epochs, colon, name = text.partition(":")
    if not colon or not epochs.isdecimal() or not 1 <= int(epochs[:9]) < 10**6:
        if alone:
            column(columns, text, "--validation-column")
        raise BadInput(f"--validation-column {text}: with several fidelities write EPOCHS:COLUMN, such as 12:{text}")
    return int(epochs), name
