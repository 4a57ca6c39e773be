"""Many trivial trials: what the driver's memory grows by for each, and what flushing the journal takes.

Memory is the resident set of this process between two counts of trials, the first of them past all compiling. The
journal's time is that of its two lines of a trial, each flushed to the disk under `--out`.
Run: ``python -m experiments.bench_load [--trials 10000] [--executor ray]``.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from nas.evaluate import function
from nas.journal import RunFolder
from nas.search import search
from search_spaces import nasbench201
from strategies import regularized_evolution


def resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def grown(executor: str, trials: int, out: Path) -> dict[str, float]:
    """Bytes that each trial past the first tenth adds, and seconds for each trial."""
    space, seen, began = nasbench201(), Counter(), time.monotonic()
    strategy = regularized_evolution(space, population=50, tournament=10)
    marks: dict[int, int] = {}

    def watch(event, driver, trial):
        seen[event] += 1
        if event == "told" and seen["told"] in (trials // 10, trials):
            marks[seen["told"]] = resident()

    verb = search
    if executor == "ray":
        from nas.tune import search as verb
    result = verb(space, strategy, function(lambda choices: 0.5, space), trials=trials, out=out, observer=watch)
    assert result.complete and len(result.trials) == trials and all(t.status == "finished" for t in result.trials)
    bytes_each = (marks[trials] - marks[trials // 10]) / (trials - trials // 10)
    return {"trials": trials, "bytes_a_trial": bytes_each, "seconds_a_trial": (time.monotonic() - began) / trials}


def flushes(out: Path, trials: int) -> dict[str, float]:
    """Milliseconds of the journal for each trial: median and 99th percentile."""
    folder, found = RunFolder(out, {"search": "none"}), []
    row, metrics = [0, 1, 2, 3, 4, 0], {"accuracy": 0.5, "epochs": 3.0, "seconds": 1.0}
    for id in range(trials):
        began = time.perf_counter()
        folder.append({"event": "asked", "id": id, "row": row, "epochs": 0, "random": False})
        folder.append({"event": "finished", "id": id, "metrics": metrics, "scores": [0.5], "violation": []})
        found.append(1000 * (time.perf_counter() - began))
    folder.close()
    return {"median_ms": statistics.median(found), "p99_ms": statistics.quantiles(found, n=100)[98]}


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--executor", choices=("local", "ray"), nargs="+", default=["local", "ray"])
    parser.add_argument("--out", type=Path, default=None, help="where the journals are written; default: temporary")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=o.out) as folder:
        found = {"journal": flushes(Path(folder) / "journal", min(2000, o.trials))}
        found |= {name: grown(name, o.trials, Path(folder) / name) for name in o.executor}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
