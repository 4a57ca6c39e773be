"""`nas measure`, and `nas fit --results`, as a person types them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from nas.cost import load_cost
from search_spaces import nasbench201

pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
SMALL = ["--width", "8", "--depth", "1", "--input", "12x12x3", "--classes", "5"]


def test_networks_are_measured_and_a_table_fitted(nas, tmp_path):
    out = tmp_path / "cpu.json"
    words = ["measure", "--runtime", "onnx", "--networks", 12, "--rounds", 3, *SMALL, "--out", out]
    code, printed, _ = nas(*words)
    assert not code and "held-out error" in printed and "12 networks" not in printed and "threads" in printed
    cost = load_cost(out, nasbench201())
    nothing, most = cost(np.asarray([[0] * 6, [3] * 6]))
    assert 0 < nothing < most
    assert len(cost.details["networks"]) == 12 and cost.stamp.macro["input"] == [12, 12, 3]
    samples = (tmp_path / "cpu.samples.json").read_bytes()
    code, printed, _ = nas(*words, "--json")  # goes on, and has nothing left to measure
    assert not code and json.loads(printed)["networks"] == 12
    assert (tmp_path / "cpu.samples.json").read_bytes() == samples


def test_a_bundle_goes_out_and_comes_back_as_a_table(nas, tmp_path):
    bundle, out = tmp_path / "bundle", tmp_path / "phone.json"
    code, printed, _ = nas("measure", "--bundle", bundle, "--networks", 10, *SMALL)
    assert not code and "10 models" in printed and "run_adb.sh" in printed
    subprocess.run([sys.executable, "run.py", "--device", "Pixel 8", "--rounds", "2"], cwd=bundle, check=True)
    code, printed, _ = nas("fit", "--results", bundle, "--out", out)
    assert not code and "Pixel 8, 1 threads" in printed
    cost = load_cost(out, nasbench201())
    assert cost.stamp.device == "Pixel 8, 1 threads" and cost.stamp.error is not None
    assert cost.stamp.macro["input"] == [12, 12, 3]


BAD = {
    "nowhere to write": (["measure"], "--out cpu.json"),
    "two places": (["measure", "--out", "a.json", "--bundle", "b"], "--bundle FOLDER"),
    "no folder": (["measure", "--out", "no/where.json"], "there is no folder no"),
    "unknown space": (["measure", "--space", "nasbench21", "--out", "a.json"], "did you mean 'nasbench201'"),
    "unknown runtime": (["measure", "--runtime", "onx", "--out", "a.json"], "did you mean 'onnx'"),
    "unknown dtype": (["measure", "--dtype", "int8", "--out", "a.json"], "no dtype 'int8'"),
    "too few networks": (["measure", "--networks", "3", "--out", "a.json"], "at least 8"),
    "input": (["measure", "--input", "32", "--out", "a.json"], "32x32x3"),
    "setting": (["measure", "--set", "nodes=3", "--out", "a.json"], "no such setting"),
    "threads": (["measure", "--threads", "9999", "--out", "a.json"], "threads on"),
    "no results": (["fit", "--results", "nothing", "--out", "a.json"], "no such file"),
    "results and a file": (["fit", "--results", "a", "--csv", "b.csv", "--out", "a.json"], "leave --csv"),
    "results without a table": (["fit", "--results", "a"], "--out phone.json"),
    "nothing to fit": (["fit"], "--results BUNDLE"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(nas, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, says = BAD[name]
    code, out, err = nas(*words)
    assert code == 2, err
    assert says in err and err.count("\n") == 1 and "Traceback" not in err
    assert out == "" and list(tmp_path.iterdir()) == []


def test_only_a_table_is_written_over(nas, tmp_path):
    (tmp_path / "best.json").write_text('{"schema": "nas.architecture/1"}')
    code, _, err = nas("measure", "--out", tmp_path / "best.json")
    assert code == 2 and "schema is 'nas.architecture/1'" in err
    assert (tmp_path / "best.json").read_text() == '{"schema": "nas.architecture/1"}'
