"""The run folder: a journal that is the truth, and the files people read, made from it."""

import contextlib
import csv
import fcntl
import io
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nas.errors import BadInput
from nas.files import read_json, to_json, write_atomic, write_json
from nas.records import read_event, read_search


class RunFolder:
    """One search on disk. Without a path everything stays in memory.

    ``search.json`` says what is searched; ``journal.jsonl`` holds every event in the order the strategy saw them, each
    line on disk before anyone relies on it; the rest can be made again from these two.
    """

    def __init__(self, path: str | os.PathLike | None, search: Mapping[str, Any], *, resume: bool = False):
        """Opens a new folder, or goes on in one.

        Raises:
            BadInput: the folder holds a search and `resume` is off, holds another search, or cannot be written.
        """
        self.path = None if path is None else Path(path)
        self._file: io.TextIOWrapper | None = None
        self.events: list[dict[str, Any]] = []  # that were there when it was opened, until they are taken
        self._first, self._last = math.inf, -math.inf
        self.description: dict[str, Any] = json.loads(to_json(dict(search)))
        if self.path is None:
            return
        file = self.path / "search.json"
        self.check(self.path, resume=resume)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if file.exists():
                self._check_same(file)
            self._file = _locked(self.path)
            try:
                if file.exists():
                    self.events = list(self._read())
                else:
                    write_json(file, self.description)
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise BadInput(f"out: {self.path} cannot be written ({error.strerror}); choose another folder") from None

    @staticmethod
    def check(path: str | os.PathLike, *, resume: bool) -> None:
        """Refuses a folder that a search could not open, before anything is measured or written.

        Raises:
            BadInput: it holds a search and `resume` is off, or nothing to resume, or other files.
        """
        path = Path(path)
        there = (path / "search.json").exists()
        if there and not resume:
            raise BadInput(f"out: {path} holds a search already; add --resume to go on with it, or choose another")
        others = [] if there or not path.is_dir() else sorted(p.name for p in path.iterdir() if not _ours(p))
        if others:
            raise BadInput(f"out: {path} holds other files ({others[0]}); choose a new or empty folder")
        if path.exists() and not path.is_dir():
            raise BadInput(f"out: {path} is a file; choose a folder")

    @classmethod
    def writer(cls, path: str | os.PathLike) -> "RunFolder":
        """The folder for writing what is made from the journal, the journal itself closed."""
        folder = cls(None, {})
        folder.path = Path(path)
        return folder

    @classmethod
    def reader(cls, path: str | os.PathLike) -> "RunFolder":
        """The events of a folder, which is not written to."""
        folder = cls(None, {})
        folder.path = Path(path)
        folder.description = dict(read_search(Path(path) / "search.json"))
        folder.events = list(folder._read(mend=False))
        return folder

    def _check_same(self, file):
        described = self.description
        held = read_json(file, "search description")
        for name in described:
            if name not in _MAY_CHANGE and held.get(name) != described[name]:
                where, was, now = _difference(name, held.get(name), described[name])
                raise BadInput(
                    f"out: {self.path} holds another search: its {where} is {_short(was)}, "
                    f"not {_short(now)}; give the same options or choose another folder"
                )

    def _read(self, *, mend: bool = True) -> Iterator[dict[str, Any]]:
        """Events on disk. A last line cut off by a kill is dropped: nobody relied on it."""
        if self.path is None or not (self.path / "journal.jsonl").exists():
            return
        path = self.path / "journal.jsonl"
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                yield read_event(line)
            except (ValueError, RecursionError) as error:
                raise BadInput(
                    f"{path}: line {number} is no event of a search; the journal was edited or damaged ({error})"
                ) from None
        if mend and len(whole) < len(data):
            with path.open("r+b") as file:
                file.truncate(len(whole))

    def take(self) -> list[dict[str, Any]]:
        """The events that were there when it was opened, once: what is replayed need not stay in memory."""
        events, self.events = self.events, []
        for event in events:
            self._note(event)
        return events

    def _note(self, event):
        if "at" in event:
            self._first, self._last = min(self._first, event["at"]), max(self._last, event["at"])

    @property
    def span(self) -> float:
        """Seconds between the earliest and the latest event taken or added."""
        return max(0.0, self._last - self._first)

    def append(self, event: dict[str, Any]) -> None:
        """Adds one event, with the time, and returns when it is on disk.

        Raises:
            BadInput: it cannot be written, as on a full disk.
        """
        event = {**event, "at": round(time.time(), 3)}
        self._note(event)
        if self._file is not None:
            try:
                self._file.write(to_json(event, indent=None) + "\n")
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise BadInput(
                    f"out: {self.path} cannot be written ({error.strerror}); what finished is not lost: "
                    "make room, and --resume"
                ) from None

    def write(self, name: str, value: Any) -> None:
        """Writes one file of the folder atomically: JSON, or text as it is."""
        if self.path is not None:
            write_atomic(self.path / name, value if isinstance(value, str) else to_json(value) + "\n")

    def write_table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Writes a CSV with the union of the rows' columns, in order of appearance."""
        columns = list(dict.fromkeys(c for row in rows for c in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write(name, text.getvalue())

    def close(self) -> None:
        """Closes the journal."""
        if self._file is not None:
            # on a full disk the line that could not be written fails once more; a resume drops what is there of it
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def _locked(path):
    """The journal, for this process alone: the lock goes with the process, however it ends."""
    journal = (path / "journal.jsonl").open("a")
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        journal.close()
        raise BadInput(
            f"out: a search that is still running writes to {path}; wait for its end, or choose another folder"
        ) from None
    except OSError:
        pass  # a file system without locks
    return journal


def _ours(path):
    """A search that was killed while it measured has left its tables and nothing else."""
    if path.name.startswith(".") or path.name.endswith(".partial.json"):
        return True
    if path.name == "journal.jsonl" and path.stat().st_size == 0:  # opened, and killed before anything was written
        return True
    return path.is_file() and path.suffix == ".json" and b'"nas.cost/1"' in path.read_bytes()[:200]


# what may differ on resume: a search can be given more time, and moved
_MAY_CHANGE = ("budget", "versions", "created", "executor")


def _difference(name: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    """(dotted name, value, value) of the first entry in which two descriptions differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *now]:
            if was.get(key) != now.get(key):
                return _difference(f"{name} {key}", was.get(key), now.get(key))
    return name, was, now


def _short(value: Any) -> str:
    text = to_json(value, indent=None)
    return text if len(text) <= 60 else text[:57] + "..."
