"""Reading and writing small files so that a kill at any instant leaves the old or the new one, never half."""

import json
import math
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from nas.errors import BadInput

MAX_JSON_BYTES = 64 * 2**20  # the largest honest one, a measured table, has a few megabytes


def write_atomic(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes beside the target, flushes to disk, then renames over it."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # the temporary name tells nobody anything
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def to_json(value: Any, *, indent: int | None = 1) -> str:
    """Strict JSON: numpy scalars and arrays become numbers and lists, NaN and infinities null.

    With an indent, a list of numbers stands on one line.
    """
    text = json.dumps(_plain(value), indent=indent, allow_nan=False)
    return _NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text)


# a line ends inside of the brackets, so it is none of a string's; no string and no other list within
_NUMBERS = re.compile(r"\[\n\s*(-?\d[^][{}\"]*?)\n\s*\]")


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def check_out(path: str | os.PathLike | None, schema: str | None = None) -> None:
    """Refuses an ``--out`` that cannot be written, or that would write over something else, before any work.

    Args:
        path: of the file; None is none.
        schema: of what will be written; an earlier file of that schema may be replaced, whatever its version.

    Raises:
        BadInput: there is no such folder, it is a folder, or it holds something else.
    """
    if path is None:
        return
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"--out {path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise BadInput(f"--out {path}: there is no folder {path.parent}; make it first")
    if path.exists():
        kind = None if schema is None else schema.partition("/")[0]
        try:
            held = read_json(path, "file to replace").get("schema") if kind else None
        except BadInput:
            held = None
        if kind is None or str(held).partition("/")[0] != kind:
            raise BadInput(f"--out {path}: there is another file already; choose a new name, or delete it")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes strict JSON atomically."""
    write_atomic(path, to_json(value) + "\n")


class _NotFinite(ValueError):
    pass


def _refuse(constant):
    raise _NotFinite(f"it has {constant} for a number; the entries are no finite numbers")


def read_json(path: str | os.PathLike, what: str) -> dict:
    """Reads a JSON object.

    Raises:
        BadInput: no such file, too large, truncated or not an object.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BadInput(f"{path}: larger than {MAX_JSON_BYTES >> 20} MiB; that is no {what}")
        data = json.loads(path.read_text(), parse_constant=_refuse)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; expected: {what}") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); expected: {what}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        text = isinstance(error, UnicodeDecodeError)
        detail = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "not text"
        if isinstance(error, _NotFinite):
            detail = str(error)
        elif not text and not isinstance(error, json.JSONDecodeError):
            detail = "numbers or nesting out of all bounds"
        raise BadInput(f"{path}: not valid JSON ({detail}); the {what} is broken or was cut off") from None
    if not isinstance(data, dict):
        raise BadInput(f"{path}: holds a {type(data).__name__}, not a JSON object; expected: {what}")
    return data
