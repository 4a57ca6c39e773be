"""What workers leave in the run folder for the driver: results, and how often and how long a candidate was tried."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from nas.errors import BadInput
from nas.files import read_json

MAX_DEATHS = 2  # of workers, before a candidate is held to be what kills them
MAX_BEGUN = 8  # workers that begin a candidate in one search, whoever may be to blame for their deaths


class Results(NamedTuple):
    """Files of finished candidates, each written by its worker: what a killed driver had not heard of is not lost.

    They are renamed into place but not flushed to disk: they have to outlive processes, and after a power failure the
    candidate starts again.
    """

    folder: Path | None

    def write(self, id: int, metrics: Mapping[str, float]) -> None:
        """The last metrics of a candidate."""
        if self.folder is not None:
            self.folder.mkdir(exist_ok=True)
            half = self.folder / f"{id}.{os.getpid()}.half"
            half.write_text(json.dumps(metrics))
            half.rename(self.folder / f"{id}.json")

    def read(self) -> dict[int, dict[str, float]]:
        """The metrics of each candidate's id; what cannot be read is left out, and the candidate starts again."""
        found = {}
        for file in [] if self.folder is None else sorted(self.folder.glob("*.json")):
            with contextlib.suppress(ValueError):
                if (metrics := self.of(int(file.stem))) is not None:
                    found[int(file.stem)] = metrics
        return found

    def of(self, id: int) -> dict[str, float] | None:
        """The last metrics of one candidate; None where there are none, or none that can be read."""
        file = None if self.folder is None else self.folder / f"{id}.json"
        if file is not None and file.exists():
            with contextlib.suppress(BadInput, ValueError, TypeError, OverflowError):
                return {name: float(value) for name, value in read_json(file, "a worker's result").items()}
        return None

    def begun(self, id: int, on: str | None = None) -> list[str]:
        """The node of each worker that has begun the candidate in this search; `on` adds one."""
        if self.folder is None:
            return []
        file = self.folder / f"{id}.begun"
        if on is not None:
            self.folder.mkdir(exist_ok=True)
            with file.open("a") as lines:
                lines.write(f"{on}\n")
        return file.read_text().split() if file.exists() else []

    def to_blame(self, id: int, stands: Callable[[str], bool]) -> bool:
        """Whether a candidate whose worker is gone is held to be what kills workers.

        It is where `MAX_DEATHS` of them died on nodes that stand: a node that goes takes its workers along, by no
        fault of theirs. `MAX_BEGUN` bounds how often nodes are held to blame. Without a folder there is no count.
        """
        begun = self.begun(id)
        if self.folder is None or len(begun) >= MAX_BEGUN:
            return True
        return len(begun) >= MAX_DEATHS and sum(map(stands, begun)) >= MAX_DEATHS

    def begin(self) -> None:
        """Forgets what the workers of an earlier driver had begun."""
        for file in [] if self.folder is None else list(self.folder.glob("*.begun")):
            file.unlink(missing_ok=True)

    def late(self, id: int, *, set: bool = False) -> bool:
        """Whether the candidate has been killed for taking too long; `set` marks it so."""
        if self.folder is None:
            return False
        mark = self.folder / f"{id}.late"
        if set:
            self.folder.mkdir(exist_ok=True)
            mark.touch()
        return mark.exists()

    def clear(self) -> None:
        """Removes them: by now the journal holds all."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
