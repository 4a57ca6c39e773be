"""A bundle goes to another machine and its results come back; here ONNX Runtime on this CPU is the device."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from hw_models.bundle import read_results, write_bundle
from nas.errors import BadInput
from nas.space import Macro
from search_spaces import SPACES, nasbench201

pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
SPACE = nasbench201().at(Macro(4, 1, (8, 8, 3), 5))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    write_bundle(SPACE, folder, networks=4, batch=2, seed=3)
    return folder


@pytest.fixture
def bundle(written, tmp_path):
    return shutil.copytree(written, tmp_path / "bundle")


def fill(folder, lines, device="a phone"):
    (folder / "results.csv").write_text("\n".join(["model,round,latency_ms", *lines]) + "\n")
    (folder / "device.json").write_text(json.dumps({"device": device, "runtime": "tool 1.0", "threads": 4}))


def test_the_runner_measures_goes_on_and_is_read_back(bundle):
    run = [sys.executable, "run.py", "--device", "this CPU", "--rounds"]
    subprocess.run([*run, "2"], cwd=bundle, check=True, capture_output=True)
    before = (bundle / "results.csv").read_text()
    (bundle / "results.csv").write_text(before + "0001,2,0.0")  # stopped in the middle of a line
    done = subprocess.run([*run, "3"], cwd=bundle, check=True, capture_output=True, text=True)
    assert "round 3 of 3, about 0 s left" in done.stderr
    assert (bundle / "results.csv").read_text().startswith(before)
    space, found = read_results(bundle, SPACES)
    assert space.fingerprint == SPACE.fingerprint and found.ms.shape == (4, 3) and (found.ms > 0).all()
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert found.rows.tolist() == [model["row"] for model in manifest["models"]]
    assert found.stamp.device == "this CPU, 1 threads" and found.stamp.runtime.startswith("onnxruntime ")
    assert (found.stamp.batch, found.stamp.macro["width"]) == (2, 4)
    other = subprocess.run([*run[:3], "another"], cwd=bundle, capture_output=True, text=True)
    assert other.returncode and "other conditions" in other.stderr


def test_the_models_are_as_the_manifest_says_and_nothing_else_is_run(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert all((bundle / model["file"]).stat().st_size == model["bytes"] for model in manifest["models"])
    for change, says in (({"file": "../secret.onnx"}, "outside of the bundle"), ({"sha256": "0"}, "not the file of")):
        broken = json.loads(json.dumps(manifest))
        broken["models"][0] |= change
        (bundle / "manifest.json").write_text(json.dumps(broken))
        done = subprocess.run([sys.executable, "run.py"], cwd=bundle, capture_output=True, text=True)
        assert done.returncode and says in done.stderr and "Traceback" not in done.stderr


FAKE_ADB = """#!{python}
import subprocess, sys, pathlib
words = sys.argv[1:]
phone = pathlib.Path({phone!r})
if words[0] == "push":
    print("pushed", words[1:-1])
    for source in map(pathlib.Path, words[1:-1]):
        subprocess.run(["cp", "-r", source, phone], check=True)
elif "getprop" in words:
    print("Pixel 8\\r")
else:
    command = " ".join(words[1:]).replace("/data/local/tmp/nas_bundle", str(phone))
    sys.exit(subprocess.run(command, shell=True).returncode)
"""
FAKE_TOOL = """#!/bin/sh
for last; do :; done
test -f "$last" || exit 1
echo "Average inference time cost: 9.9 ms"
echo "P50 Latency: 0.00$(basename "$last" .onnx | tail -c 2)5 s"
"""


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_script_for_phones_reads_what_the_tool_prints(bundle, tmp_path):
    for name, text in (
        ("adb", FAKE_ADB.format(python=sys.executable, phone=str(tmp_path / "phone"))),
        ("onnxruntime_perf_test", FAKE_TOOL),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    run = ["sh", "run_adb.sh", str(tmp_path / "onnxruntime_perf_test"), "4", "2"]
    subprocess.run(run, cwd=bundle, env=path, check=True, capture_output=True)
    _, found = read_results(bundle, SPACES)
    np.testing.assert_allclose(found.ms, [[0.5] * 2, [1.5] * 2, [2.5] * 2, [3.5] * 2])  # seconds to milliseconds
    assert found.stamp.device == "Pixel 8, 4 threads"
    assert not (tmp_path / "phone").exists(), "the phone is left as it was"


def test_results_of_another_tool_are_read(bundle):
    template = list(csv.reader((bundle / "results.template.csv").read_text().splitlines()))
    assert template[0] == ["model", "round", "latency_ms"] and len(template) == 5
    fill(bundle, [f"{name},{turn},{1 + int(name)}" for name, turn, _ in template[1:]])
    _, found = read_results(bundle, SPACES)
    assert found.latency_ms.tolist() == [1, 2, 3, 4]


def test_models_without_a_time_are_left_out_and_said(bundle):
    fill(bundle, ["0000,0,1.0", "0002,0,3.0", "0002,1,9.0"])
    _, found = read_results(bundle, SPACES)
    assert found.ms.tolist() == [[1.0], [3.0]] and found.rows.shape == (2, 6)
    assert "2 of 4 models were not measured" in found.notes


BAD_LINES = {
    "unknown model": ("0009,0,1.0", "line 2: no model '0009' in the manifest"),
    "a path for a model": ("../../x,0,1.0", "no model '../../x'"),
    "missing value": ("0000,0,", "line 2: '0' and '' are no round and time"),
    "negative": ("0000,0,-1.0", "line 2: -1.0 ms; a time is above zero"),
    "zero": ("0000,0,0", "a time is above zero"),
    "nan": ("0000,0,nan", "a time is above zero"),
    "text": ("0000,0,fast", "are no round and time"),
    "too many values": ("0000,0,1,0", "line 2: 4 values; there must be 3"),
    "twice": ("0000,0,1.0\n0000,0,1.1", "line 3: model '0000' has round 0 twice"),
    "nothing": ("", "holds no times"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_results_are_one_line(bundle, name):
    line, says = BAD_LINES[name]
    fill(bundle, [line])
    with pytest.raises(BadInput) as raised:
        read_results(bundle, SPACES)
    assert says in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "file, change, says",
    [
        ("device.json", lambda d: d.update(device=" "), "'device' is empty"),
        ("device.json", lambda d: d.pop("runtime"), "'runtime' is empty"),
        ("manifest.json", lambda d: d.update(schema="nas.bundle/9"), "this version reads nas.bundle/1"),
        ("manifest.json", lambda d: d["space"].update(name="os.system"), "no space 'os.system'"),
        ("manifest.json", lambda d: d["space"].update(fingerprint="0" * 16), "has changed since"),
        ("manifest.json", lambda d: d["models"][0].update(row=[9] * 6), "is option 9"),
        ("manifest.json", lambda d: d["models"].append(d["models"][0]), "two of one name"),
        ("manifest.json", lambda d: d.update(batch=0), "batch or dtype"),
        ("manifest.json", lambda d: d.pop("macro"), "not the manifest of a bundle"),
        ("manifest.json", lambda d: d.update(models=[1]), "not the manifest of a bundle"),
    ],
)
def test_files_that_are_not_of_a_bundle_are_refused(bundle, file, change, says):
    fill(bundle, ["0000,0,1.0"])
    data = json.loads((bundle / file).read_text())
    change(data)
    (bundle / file).write_text(json.dumps(data))
    with pytest.raises(BadInput) as raised:
        read_results(bundle, SPACES)
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_without_results_the_line_says_what_to_run(bundle):
    with pytest.raises(BadInput, match=r"run\.py and"):
        read_results(bundle, SPACES)
    fill(bundle, ["0000,0,1.0"])
    (bundle / "results.csv").write_text("model,round,latency_s\n0000,0,0.001\n")
    with pytest.raises(BadInput, match="the first line must be model,round,latency_ms"):
        read_results(bundle, SPACES)


def test_nothing_is_written_over_and_sizes_are_bounded(bundle, tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="not empty; choose a new folder"):
        write_bundle(SPACE, bundle, networks=2)
    monkeypatch.setattr("hw_models.bundle.MAX_BYTES", 10_000)
    with pytest.raises(BadInput, match="with --networks"):
        write_bundle(SPACE, tmp_path / "large", networks=4)
    assert not (tmp_path / "large").exists()
