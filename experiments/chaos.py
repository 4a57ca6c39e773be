"""SIGKILL at random instants over workers, raylet and driver: is a finished trial ever lost, or counted twice?

Each strategy searches through Ray while one of its processes after another is killed; a killed driver is started again
with ``resume``. A trial is finished once its worker has written its result, and every result has a number of its own,
so a trial that was evaluated again shows. No candidate may fail, and strategies that wait for their whole generation
must end with the trials of the undisturbed run. A worker is spared while a candidate runs that lost one before: two
deaths are what a candidate fails by. Run: ``python -m experiments.chaos --kills 100``.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from nas.strategy import Strategy
from search_spaces import nasbench201
from strategies import STRATEGIES

TRIALS = 40
STUCK = 240  # seconds without a result, after which a search counts as stuck and its driver is killed
SETTINGS: dict[str, tuple[str, dict]] = {
    "random_search": ("random_search", {}),
    "evolution, steady": ("regularized_evolution", {"population": 8, "tournament": 3}),
    "evolution, generational": ("regularized_evolution", {"population": 8, "tournament": 3, "generational": True}),
    "successive_halving": ("successive_halving", {"fidelities": [1, 3, 9], "trainings": TRIALS}),
}
SYNCHRONOUS = ("random_search", "evolution, generational", "successive_halving")
KINDS = ("worker", "raylet", "worker", "driver")


def strategy(name: str) -> Strategy:
    """One of `SETTINGS`."""
    factory, settings = SETTINGS[name]
    return STRATEGIES[factory](nasbench201(), **settings)


def start():
    """An evaluation that sleeps, scores by the row alone, and gives each result a number that no other has."""

    def evaluate(job):
        time.sleep(random.uniform(0.05, 0.25))
        score = sum(int(i) == 3 for i in job.row) / 6 + 0.001 * int(job.row[0])
        yield {"accuracy": score, "epochs": job.epochs or 9, "nonce": float(random.SystemRandom().randrange(2**50))}

    return evaluate


def drive(name: str, out: str) -> None:
    """The driver's process: goes on with the search in `out`, or starts it."""
    from nas import tune

    there = (Path(out) / "search.json").exists()
    result = tune.search(nasbench201(), strategy(name), start, trials=TRIALS, out=out, resume=there, workers=2)
    print("complete" if result.complete else "incomplete", flush=True)


def descendants(pid: int) -> dict[int, str]:
    """Pid -> command of every process below this one."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat, command = (entry / "stat").read_text(), (entry / "cmdline").read_bytes()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
            names[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    found: dict[int, str] = {}
    level = {pid}
    while level := {p for p, parent in parents.items() if parent in level} - set(found):
        found |= {p: names[p] for p in level}
    return found


def second_chance(out: Path) -> bool:
    """Whether a candidate that lost a worker is under way again: with a second one it would fail, and rightly."""
    for file in (out / ".results").glob("*.begun"):
        with contextlib.suppress(OSError):
            if len(file.read_text().split()) > 1 and not file.with_suffix(".json").exists():
                return True
    return False


def victim(kind: str, driver: int, out: Path) -> int | None:
    """The process to kill; None where there is none of the kind yet, or none that may be killed now."""
    if kind == "driver":
        return driver
    if kind == "worker" and second_chance(out):
        return None
    mark = "Trainable" if kind == "worker" else "/raylet"
    fits = [p for p, name in descendants(driver).items() if mark in name.split(" ", 1)[0]]
    return random.choice(fits) if fits else None


def kill(pid: int) -> None:
    """SIGKILL; a process that is gone already is no fault."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def written(out: Path) -> dict[int, float]:
    """Id -> number of every result that a worker or the journal holds."""
    found = {}
    journal = out / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    for event in (json.loads(line) for line in lines if line.endswith("\n")):
        if event["event"] == "finished":
            found[event["id"]] = event["metrics"]["nonce"]
    for file in (out / ".results").glob("*.json"):
        try:
            found.setdefault(int(file.stem), json.loads(file.read_text())["nonce"])
        except (OSError, ValueError):
            continue
    return found


def one_search(name: str, out: Path, most: int) -> tuple[Counter, dict[int, float]]:
    """Searches to the end under fire; (kills by kind, results that were there at a kill)."""
    kills: Counter = Counter()
    seen: dict[int, float] = {}
    while True:
        command = [sys.executable, "-m", "experiments.chaos", "--drive", name, str(out)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        before, quiet_since = len(written(out)), time.monotonic()
        while child.poll() is None:
            time.sleep(random.uniform(0.2, 1.2))
            now = len(written(out))
            quiet_since = time.monotonic() if now != before else quiet_since
            stuck, before = time.monotonic() - quiet_since > STUCK, now
            if not stuck and (sum(kills.values()) >= most or now == 0):
                continue
            kind = "stuck" if stuck else KINDS[sum(kills.values()) % len(KINDS)]
            pid = victim("driver" if stuck else kind, child.pid, out)
            if pid is None or child.poll() is not None:
                continue
            below = descendants(child.pid)
            # results written up to here were finished before the kill
            seen = written(out) | seen
            kill(pid)
            kills[kind] += 1
            if pid == child.pid:
                for other in below:
                    kill(other)
        if child.communicate()[0].strip().endswith("incomplete") or child.returncode:
            for other in descendants(child.pid):
                kill(other)
            continue
        return kills, seen


def check(name: str, out: Path, seen: dict[int, float], undisturbed: list) -> dict[str, object]:
    """What was lost, what was counted twice, and whether the trials are those of the undisturbed run."""
    events = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    finished = [e for e in events if e["event"] == "finished"]
    nonces = {e["id"]: e["metrics"]["nonce"] for e in finished}
    trials = sorted((e["row"], e["epochs"]) for e in events if e["event"] == "asked")
    return {
        "trials": len(nonces),
        "lost": sum(nonces.get(id) != nonce for id, nonce in seen.items()),
        "twice": len(finished) - len(nonces),
        "failed": sum(e["event"] == "failed" for e in events),
        "same": trials == undisturbed if name in SYNCHRONOUS else None,
    }


def main() -> None:
    """Prints a row for each strategy, and exits with 1 where anything was lost, counted twice or failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategies", nargs="+", default=list(SETTINGS))
    parser.add_argument("--drive", nargs=2, metavar=("NAME", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        return drive(*options.drive)
    random.seed(options.seed)
    from nas.search import search

    totals = {name: Counter() for name in options.strategies}
    undisturbed = {
        name: sorted(
            (t.row.tolist(), t.epochs) for t in search(nasbench201(), strategy(name), start, trials=TRIALS).trials
        )
        for name in options.strategies
        if name in SYNCHRONOUS
    }
    done = 0
    with tempfile.TemporaryDirectory() as folder:
        while done < options.kills:
            for name in options.strategies:
                out = Path(folder) / f"{done}-{name.replace(' ', '-')}"
                most = min(8, options.kills - done)
                if most <= 0:
                    break
                kills, seen = one_search(name, out, most)
                done += sum(kills.values())
                found = check(name, out, seen, undisturbed.get(name, []))
                totals[name].update(kills)
                totals[name].update({"searches": 1, "differ": found.pop("same") is False, **found})
                print(f"{done}/{options.kills} kills: {name}: {dict(kills)} {found}", file=sys.stderr, flush=True)
    head = ("searches", "trials", "worker", "raylet", "driver", "stuck", "failed", "lost", "twice", "differ")
    print("".join(f"{text:>14}" for text in ("", *head)).replace(" " * 14, f"{'strategy':<24}", 1))
    for name, row in totals.items():
        print(f"{name:<24}" + "".join(f"{row[column]:>14}" for column in head))
    sys.exit(any(row[column] for row in totals.values() for column in ("lost", "twice", "failed", "differ")))


if __name__ == "__main__":
    main()
