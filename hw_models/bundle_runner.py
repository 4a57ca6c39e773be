"""Times the models of this folder with ONNX Runtime: ``python run.py --device "Pixel 8" --threads 1``.

It needs Python, numpy and onnxruntime and nothing else, and writes results.csv and device.json beside itself. Stopped,
it goes on where it was. This file is copied into each bundle as run.py.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import re
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

KEPT_BYTES = 512 * 2**20  # models of more than this together are loaded anew for each sample
CALLS, CALL_MS = 5, 1.0  # a sample is the best of so many calls of about so many ms


def main(words: list[str] | None = None, folder: Path | None = None) -> None:
    """Measures what is not in results.csv yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=processor(), help="what the results are called after")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--provider", default="CPUExecutionProvider", help="of onnxruntime")
    given = parser.parse_args(words)
    folder = folder or Path(__file__).resolve().parent
    manifest = json.loads((folder / "manifest.json").read_text())
    conditions = {
        "device": given.device,
        "runtime": f"onnxruntime {onnxruntime.__version__} {given.provider}",
        "threads": given.threads,
        "system": platform.platform(),
    }
    about, results = folder / "device.json", folder / "results.csv"
    if results.exists() and about.exists() and json.loads(about.read_text()) != conditions:
        sys.exit(f"{results} was measured under other conditions ({about}); move it away first")
    about.write_text(json.dumps(conditions, indent=1) + "\n")
    done = finished(results)
    sessions: dict = {}
    small = sum(model["bytes"] for model in manifest["models"]) < KEPT_BYTES
    total, began, timed = given.rounds * len(manifest["models"]), time.monotonic(), 0
    with results.open("a", newline="") as file:
        if not done and not results.stat().st_size:
            file.write("model,round,latency_ms\n")
        for round in range(given.rounds):
            # every model once in each round, in another order: what drifts meets all alike
            for at in np.random.default_rng(round).permutation(len(manifest["models"])):
                model = manifest["models"][at]
                if (model["name"], round) in done:
                    continue
                call = sessions.get(model["name"]) or session(folder, model, given)
                if small:
                    sessions[model["name"]] = call
                file.write(f"{model['name']},{round},{sample(call):.6g}\n")
                file.flush()
                timed += 1
            left = (time.monotonic() - began) / max(timed, 1) * (total - len(done) - timed)
            print(f"round {round + 1} of {given.rounds}, about {left:.0f} s left", file=sys.stderr, flush=True)
    print(f"written to {results}; take the folder back and run: nas fit --results FOLDER")


def session(folder, model, given):
    """A function that runs a model once."""
    if not re.fullmatch(r"models/[0-9]{1,6}\.onnx", model["file"]):
        sys.exit(f"manifest.json names a file outside of the bundle: {model['file']!r}")
    content = (folder / model["file"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != model["sha256"]:
        sys.exit(f"{model['file']} is not the file of the manifest; copy the bundle again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = given.threads
    options.log_severity_level = 3
    made = onnxruntime.InferenceSession(content, options, providers=[given.provider])
    rng = np.random.default_rng(0)
    feed = {i.name: rng.normal(size=i.shape).astype(np.float32) for i in made.get_inputs()}
    return lambda: made.run(None, feed)


def sample(call) -> float:
    """Milliseconds of one run: the best of a few stretches, after two runs to warm up."""
    call()
    took = seconds(call, 1)
    turns = max(1, round(CALL_MS / (1e3 * took)))
    return 1e3 * min(seconds(call, turns) for _ in range(CALLS)) / turns


def seconds(call, turns: int) -> float:
    """Seconds a run takes, over some runs."""
    start = time.perf_counter()
    for _ in range(turns):
        call()
    return time.perf_counter() - start


def finished(results: Path) -> set[tuple[str, int]]:
    """(model, round) of what an earlier run has measured; a line that was cut off is dropped."""
    if not results.exists():
        return set()
    text = results.read_text()
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        results.write_text(text)
    return {(row["model"], int(row["round"])) for row in csv.DictReader(text.splitlines())}


def processor() -> str:
    """The processor's name, as well as Python knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine() or os.name


if __name__ == "__main__":
    main()
