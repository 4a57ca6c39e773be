"""Mutated files for every reader: each must be accepted, or refused in one line, at once and without a trace.

A fault is any exception but `BadInput`, a message of more than one line, two seconds of processor time, or an attempt
to write, to start a process, to open a connection or to unpickle while a file is read. Honest files are changed by
hypothesis, byte by byte, word by word and, where they are JSON, value by value; what falls is made small again.
Run: ``python -m experiments.fuzz [--inputs 10000] [--readers config journal]``; needs the extra `dev`.
"""

import argparse
import contextlib
import functools
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from experiments.fuzz_readers import Reader, readers
from nas.errors import BadInput

SECONDS = 2
# events of `sys.addaudithook` that no reader may cause
FORBIDDEN = re.compile(
    r"os\.(mkdir|rename|remove|rmdir|link|symlink|truncate|chmod|system|exec|posix_spawn|fork|putenv)$"
    r"|(subprocess|socket|shutil|tempfile|pickle|ctypes|ftplib|urllib)\."
)
WORDS = ("NaN", "Infinity", "-1", "0", "1e999", "9" * 400, "99999999999", "0.5", "null", "true", "None", "../../x", "")
WORDS += ("!!python/object/apply:os.system [touch x]", "&a [*a]", "\x00", "\ud7ff\u2028", "[" * 3000, "{" * 3000, '"')
VALUES = (None, True, -1, 0, 3, 0.5, 2**31, 2**64, 10**400, 1e308, "", "x", "../../x", "9" * 400, "\x1b[2J\n", "nan")
VALUES += ([], {}, [[]], [0], {"": None}, [1e308] * 3, ["x"] * 40, {"a": {"b": [1]}}, json.loads("[" * 200 + "]" * 200))


# ---- mutation ----------------------------------------------------------------------------------------------------
def changed(data: bytes, edit: tuple[str, int, int]) -> bytes:
    """The data after one edit: its kind, a place, and a number that says which of many."""
    kind, place, which = edit
    at = place % (len(data) + 1)
    end = min(len(data), at + 1 + which % 40)
    match kind:
        case "value" | "key" if (made := _json_edit(data, kind, place, which)) is not None:
            return made
        case "word" | "value" | "key":
            spans = [m.span() for m in re.finditer(rb"[A-Za-z0-9_.+-]+", data)] or [(0, 0)]
            start, stop = spans[place % len(spans)]
            return data[:start] + WORDS[which % len(WORDS)].encode(errors="surrogatepass") + data[stop:]
        case "cut":
            return data[:at]
        case "drop":
            return data[:at] + data[end:]
        case "twice":
            return data[:end] + data[at:end] + data[end:]
        case _:
            return data[:at] + bytes([which % 256]) + data[at + 1 :]


def _json_edit(data, kind, place, which):
    """JSON with one value (or key) replaced, or dropped; None where it is no JSON. Of lines of JSON one is edited."""
    lines = data.split(b"\n")
    for at in (None, place % len(lines)):
        with contextlib.suppress(ValueError, RecursionError):
            made = _tree_edit(json.loads(data if at is None else lines[at]), kind, place, which)
            return made if at is None else b"\n".join([*lines[:at], made, *lines[at + 1 :]])
    return None


def _tree_edit(tree, kind, place, which):
    spots = []

    def walk(node):
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            spots.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    root = [tree]
    walk(root)
    node, key = spots[place % len(spots)]
    if kind == "value":
        node[key] = VALUES[which % len(VALUES)]
    elif isinstance(node, dict) and which % 2:
        node[f"{key}_"] = node.pop(key)
    elif node is not root:
        del node[key]
    return json.dumps(root[0]).encode()


EDITS = st.tuples(
    st.sampled_from(("value", "word", "value", "key", "cut", "drop", "twice", "byte")),
    st.integers(0, 2**20),
    st.integers(0, 2**16),
)


def mutants(sample: bytes) -> st.SearchStrategy[bytes]:
    """The sample after one to three edits."""
    return st.lists(EDITS, min_size=1, max_size=3).map(lambda edits: functools.reduce(changed, edits, sample))


# ---- one attempt -------------------------------------------------------------------------------------------------
_seen: list[str] | None = None  # what was done while watched; an audit hook cannot be taken off again


def _hook(event, arguments):
    if _seen is None:
        return
    if event == "open":
        path, _, flags = arguments
        kept = jax.config.jax_compilation_cache_dir  # a program that took long to compile may be kept
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and path != os.devnull and not (kept and str(path).startswith(kept)):
            _seen.append(f"opens {path!r} for writing")
    elif FORBIDDEN.match(event):
        _seen.append(f"{event}{arguments!r}"[:200])


@functools.cache
def _watch():
    sys.addaudithook(_hook)


class Fault(AssertionError):
    """A reader did what none may do."""


def _late(number, frame):
    raise Fault(f"took more than {SECONDS} s of processor time")


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Nothing inside may write, start, connect or unpickle, or take longer than `SECONDS` (main thread)."""
    global _seen
    _watch()
    before = signal.signal(signal.SIGPROF, _late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    _seen = found = []
    try:
        yield
    finally:
        _seen = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    if found:
        raise Fault(found[0])


def attempt(reader: Reader, data: bytes) -> str:
    """``accepted`` or ``refused``.

    Raises:
        Fault: as above; other exceptions are those of the reader.
    """
    reader.path.write_bytes(data)
    try:
        with watched():
            reader.read()
        return "accepted"
    except BadInput as error:
        text = str(error)
        if not text or not text.isprintable():
            raise Fault(f"refused in other than one line: {text[:200]!r}") from None
        return "refused"


def fuzz(reader: Reader, inputs: int, start: int = 0) -> tuple[Counter, float]:
    """(how many were accepted and refused, the longest processor time, s) of so many mutants.

    Raises:
        Exception: of the smallest mutant found that makes the reader fail; it is left in ``reader.path``.
    """
    counts: Counter = Counter()
    longest = 0.0
    with contextlib.suppress(BadInput):
        reader.read()  # compiles what it compiles; that an honest file is accepted is for tests to see

    @seed(start)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutants(reader.path.read_bytes()))
    def run(data):
        nonlocal longest
        began = time.process_time()
        counts[attempt(reader, data)] += 1
        longest = max(longest, time.process_time() - began)

    sample = reader.path.read_bytes()
    run()
    reader.path.write_bytes(sample)
    return counts, longest


def main() -> None:
    """Prints a row for each reader, and exits with 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all readers together")
    parser.add_argument("--readers", nargs="+", default=None)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    faults, total = 0, Counter()
    with tempfile.TemporaryDirectory() as folder:
        chosen = [r for r in readers(Path(folder)) if o.readers is None or r.name in o.readers]
        share = sum(r.share for r in chosen)
        print(f"{'reader':<24}{'inputs':>8}{'accepted':>10}{'refused':>9}{'longest s':>11}")
        for reader in chosen:
            try:
                counts, longest = fuzz(reader, -(-int(o.inputs * reader.share) // share), o.seed)
            except Exception as error:
                faults += 1
                where = traceback.extract_tb(error.__traceback__)[-1]
                what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                print(f"{reader.name:<24}FAULT {what} ({Path(where.filename).name}:{where.lineno})", flush=True)
                print(f"    {reader.path.read_bytes()[:400]!r}", flush=True)
                continue
            total.update(counts)
            row = counts.total(), counts["accepted"], counts["refused"]
            print(f"{reader.name:<24}{row[0]:>8}{row[1]:>10}{row[2]:>9}{longest:>11.2f}", flush=True)
    print(f"{'all':<24}{total.total():>8}{total['accepted']:>10}{total['refused']:>9}; {faults} readers failed")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
