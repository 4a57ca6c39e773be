"""`nas search --strategy once_for_all` is killed for good in each of its phases, and goes on as if it had not been."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

OWN = """
from nas.space import Macro
from search_spaces.mobile import Frame, Stage, mobile_space

def tiny():
    options = {"kernel": (3, 5), "expand": (1.5, 2, 3), "layers": (1, 2)}
    return mobile_space("tiny", Frame(8, (Stage(8, 2, 2, {}, options),), head=16), macro=Macro(8, 1, (8, 8, 1), 10))
"""
SIZES = {"rule": "progressive", "epochs": 60, "batch": 32, "searcher": "random_search"}
SEARCH = (
    ["search", "--space", "tiny_space:tiny", "--strategy", "once_for_all", "--executor", "local", "--trials", "2"]
    + ["--data-limit", "320", "--seed", "3"]
    + [word for name, value in SIZES.items() for word in ("--set", f"{name}={value}")]
)


def phase(checkpoint):
    """(epochs done, name of the phase that a checkpoint is in); (0, none) where there is none yet."""
    if not checkpoint.exists():
        return 0, ""
    with safe_open(checkpoint, "numpy") as file:
        record = json.loads(file.metadata()["nas"])["record"]
    events = [event["phase"] for entry in record for event in entry["events"]]
    return len(record), events[-1] if events else "the largest network"


@pytest.mark.slow
def test_killed_in_every_phase_it_trains_the_supernet_of_an_undisturbed_run(nas, tmp_path, monkeypatch):
    (tmp_path / "tiny_space.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    random.seed(0)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
    }
    checkpoint = tmp_path / "a" / "checkpoints" / "seed_3.safetensors"
    for wanted in ("the largest network", "kernel", "depth", "expand"):
        resume = ["--resume"] if (tmp_path / "a").exists() else []
        command = [sys.executable, "-m", "experiments.cli", *SEARCH, "--out", "a", *resume]
        child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        until = time.monotonic() + 200
        while child.poll() is None and time.monotonic() < until and not phase(checkpoint)[1].startswith(wanted):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.1))  # anywhere in an epoch, or in the writing of a checkpoint
        child.send_signal(signal.SIGKILL)
        said = child.communicate()[1].decode()
        assert child.returncode == -signal.SIGKILL, said
        assert phase(checkpoint)[1].startswith(wanted)
    assert not (tmp_path / "a" / "training.json").exists()
    for out, more in (("a", ["--resume"]), ("b", [])):
        code, _, err = nas(*SEARCH, "--out", out, *more)
        assert not code, err
    found = [load_file(tmp_path / out / "checkpoints" / "seed_3.safetensors") for out in "ab"]
    assert found[0].keys() == found[1].keys()
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name], err_msg=name)
    records = [json.loads((tmp_path / out / "training.json").read_text())["runs"][0]["epochs"] for out in "ab"]
    assert [len(record) for record in records] == [SIZES["epochs"]] * 2
    assert len({event["phase"] for entry in records[0] for event in entry["events"]}) == 4
    for key in ("metrics", "events"):
        assert [entry[key] for entry in records[0]] == [entry[key] for entry in records[1]]
