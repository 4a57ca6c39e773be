"""Architectures in cells of a table to rows of a space: one owner for every command that reads such tables."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments.tables import Columns, column, read_csv
from nas.errors import BadInput
from nas.space import SearchSpace
from search_spaces.nasbench201 import from_string

FORMS = 'a NAS-Bench-201 string, a JSON object of choices, or option numbers joined by "-" or ","'


def parse_arch(space: SearchSpace, text: str) -> np.ndarray:
    """int32[L] of one architecture: `FORMS`.

    Raises:
        BadInput: none of the forms, or no architecture of this space.
    """
    return space.check(_read(space, text.strip()))


def _read(space, text):
    """As `parse_arch`, but whether its options are there and allowed is not checked."""
    if text.startswith("|"):
        if space.name != "nasbench201":
            raise BadInput(f"'{text[:40]}' is an architecture of nasbench201, not of '{space.name}'")
        return from_string(text)
    if text.startswith("{"):
        try:
            return space.encode(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise BadInput(" ".join(str(error).split())) from None
    parts = re.split(r"\s*[-,]\s*", text)
    if len(parts) != space.length or not all(p.isascii() and p.isdigit() for p in parts):
        raise BadInput(f"'{text[:40]}' is no architecture of space '{space.name}'; write {FORMS}")
    return np.asarray([int(p[:9]) for p in parts], np.int32)


def parse_archs(space: SearchSpace, texts: list[str], where: str) -> np.ndarray:
    """int32[N, L].

    Raises:
        BadInput: as `parse_arch`, with the row that is wrong.
    """
    rows = []
    for number, text in enumerate(texts, 1):
        try:
            rows.append(_read(space, text.strip()))
        except BadInput as error:
            raise BadInput(f"{where}, row {number}: {error}") from None
    wrong = np.flatnonzero(~np.asarray(jax.jit(space.valid)(np.stack(rows))))  # at once: one by one takes seconds
    if len(wrong):
        try:
            space.check(rows[wrong[0]])
        except BadInput as error:
            raise BadInput(f"{where}, row {wrong[0] + 1}: {error}") from None
    return np.stack(rows)


def option_rows(space: SearchSpace, columns: Columns, names: Sequence[str], where: str) -> np.ndarray:
    """int32[N, L] from one column for each decision, in order, whose cells hold the option itself.

    Raises:
        BadInput: another number of columns, one that is not there, or a cell that is no option.
    """
    if len(names) != space.length:
        raise BadInput(f"{where}: {len(names)} architecture columns; '{space.name}' has {space.length} decisions")
    rows = []
    for decision, name in zip(space.decisions, names, strict=True):
        known = {o if isinstance(o, str) else json.dumps(o): i for i, o in enumerate(decision.options)}
        cells = column(columns, name, where)
        odd = next((i for i, cell in enumerate(cells) if cell.strip() not in known), None)
        if odd is not None:
            raise BadInput(
                f"{where}, row {odd + 1}: '{cells[odd][:40]}' is no option of '{decision.name}'; "
                f"options: {', '.join(known)}"
            )
        rows.append([known[cell.strip()] for cell in cells])
    return np.asarray(rows, np.int32).T


def table_rows(space: SearchSpace, path: Path, arch_column: str, arch_table: Path | None):
    """(columns of the table, rows int32[N, L]) of a CSV with an architecture in each row.

    Args:
        space: of the architectures.
        path: ``.csv`` or ``.csv.gz``.
        arch_column: holds the architecture, or its number in `arch_table`.
        arch_table: a table with the same column, and one that holds architectures: the first that reads as such.

    Raises:
        BadInput: a column, a number or an architecture that is not as it should be.
    """
    columns = read_csv(path)
    names = column(columns, arch_column, str(path))
    if arch_table is None:
        if names[0].strip().isdecimal() and space.length > 1:
            raise BadInput(f"{path}: column '{arch_column}' holds numbers; say of which table with --arch-table")
        return columns, parse_archs(space, names, str(path))
    others = read_csv(arch_table)
    numbers = column(others, arch_column, str(arch_table))
    for texts in others.values():
        try:
            parse_arch(space, texts[0])
        except BadInput:
            continue
        known = dict(zip(numbers, parse_archs(space, texts, str(arch_table)), strict=True))
        break
    else:
        raise BadInput(f"{arch_table}: no column holds architectures of space '{space.name}'; they are {FORMS}")
    if len(known) < len(numbers):
        raise BadInput(f"{arch_table}: column '{arch_column}' has a value twice; it must tell its rows apart")
    missing = next((name for name in names if name not in known), None)
    if missing is not None:
        raise BadInput(f"{path}: {arch_column} '{missing[:40]}' is not in {arch_table}")
    return columns, np.stack([known[name] for name in names])
