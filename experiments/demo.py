"""`make demo`: a search on real digits with a latency measured on this machine, and what to do with its result."""

import shlex
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Runs the four commands a person would type, showing each."""
    out = next(p for p in (Path("runs") / f"demo{n}" for n in ("", *range(2, 10**6))) if not p.exists())
    started = time.monotonic()
    run(
        f"search --space nasbench201 --strategy regularized_evolution --data digits --trials 24 "
        f"--objective pareto --cost cpu=measure --seed 0 --out {out}"
    )
    run(f"train {out}/best.json --data digits --out {out}/model")
    run(f"evaluate {out}/model --data digits")
    run(f"describe {out}/best.json --cost cpu={out}/cpu.json")
    print(f"\nDone in {time.monotonic() - started:.0f} s. Look at {out}/report.html")


def run(line: str) -> None:
    """One `nas` command, in a process of its own as a person would have it."""
    print(f"\n$ nas {line}", flush=True)
    code = subprocess.run([sys.executable, "-m", "experiments.cli", *shlex.split(line)]).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
