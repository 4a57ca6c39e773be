"""The command line as a person types it: good calls give files, bad ones one line and exit code 2."""

import csv
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import cli
from nas.data import load
from nas.model import load_model

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)
ARCH = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
FAST = ["--executor", "local", "--set", "epochs=1", "--search-width", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small search from the command line, made once."""
    out = tmp_path_factory.mktemp("runs") / "a"
    words = ["search", "--trials", "5", "--objective", "pareto", "--out", str(out), *FAST]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["nas", *words])
        cli.main()
    assert not ended.value.code
    return out


def test_search_writes_the_run_folder(folder):
    names = {"search.json", "journal.jsonl", "trials.csv", "best.json", "pareto.json", "report.html"}
    assert {p.name for p in folder.iterdir()} == names
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [r["id"] for r in rows] == list("01234") and {r["status"] for r in rows} == {"finished"}
    best = json.loads((folder / "best.json").read_text())
    assert best["choices"] == {n: rows[best["provenance"]["trial"]][n] for n in best["choices"]}
    assert float(rows[best["provenance"]["trial"]]["accuracy"]) == max(float(r["accuracy"]) for r in rows)


def test_resume_of_a_finished_search_changes_nothing(nas, folder):
    before = {
        p.name: p.read_bytes() for p in folder.iterdir() if p.name in ("journal.jsonl", "trials.csv", "search.json")
    }
    code, _, _ = nas("search", "--trials", 5, "--objective", "pareto", "--out", folder, "--resume", *FAST)
    assert not code
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_json_of_a_search(nas, tmp_path):
    code, out, _ = nas("search", "--trials", 2, "--out", tmp_path / "j", "--json", *FAST)
    found = json.loads(out)
    assert not code and found["trials"]["finished"] == 2 and found["complete"]


def test_a_search_starts_from_an_architecture_and_the_best_by_proxies(nas, folder, tmp_path):
    start = ("--start-from", folder / "best.json", "--warm-start", "params:20", "--set", "population=2")
    code, *_ = nas("search", "--trials", 3, "--out", tmp_path / "s", *start, *FAST, "--json")
    best = json.loads((folder / "best.json").read_text())["choices"]
    rows = list(csv.DictReader((tmp_path / "s" / "trials.csv").open()))
    assert not code and {name: rows[0][name] for name in best} == best
    # of 20 random networks the two largest, the largest first
    assert 1e5 < float(rows[2]["params"]) <= float(rows[1]["params"])
    code, _, err = nas("search", "--trials", 3, "--out", tmp_path / "s", *start, *FAST, "--resume")
    assert not code, err


def test_a_search_keeps_to_edits_of_an_architecture(nas, folder, tmp_path):
    words = ("--start-from", folder / "best.json", "--edits", 1, "--strategy", "local_search", "--objective", "pareto")
    code, out, err = nas("search", "--trials", 3, "--out", tmp_path / "e", *words, *FAST, "--json")
    assert not code, err
    best = json.loads((folder / "best.json").read_text())["choices"]
    rows = list(csv.DictReader((tmp_path / "e" / "trials.csv").open()))
    assert [sum(row[name] != best[name] for name in best) for row in rows] == [0, 1, 1]
    assert json.loads((tmp_path / "e" / "search.json").read_text())["space"]["view"]["edits"] == 1
    assert json.loads(out)["hypervolume"]["reference"]["params"] == -max(float(row["params"]) for row in rows)
    assert "One change from the found network" in (tmp_path / "e" / "report.html").read_text()
    code, _, err = nas("search", "--trials", 3, "--out", tmp_path / "e", *words, *FAST, "--resume", "--edits", 2)
    assert code == 2 and "another search" in err


def test_report_again(nas, folder):
    (folder / "report.html").unlink()
    code, _, _ = nas("report", folder)
    assert not code and (folder / "report.html").stat().st_size > 10_000


def test_train_evaluate_describe(nas, folder, tmp_path):
    model = tmp_path / "m"
    code, out, err = nas(
        "train", folder / "best.json", "--out", model, "--width", 8, "--set", "epochs=8", "--data-limit", 300, "--json"
    )
    trained = json.loads(out)
    assert not code and trained["test_accuracy"] > 0.5 and "compiling first" in err
    code, out, _ = nas("evaluate", model, "--json")
    assert not code and json.loads(out)["accuracy"] == pytest.approx(trained["test_accuracy"], abs=1e-6)
    code, out, _ = nas("describe", folder / "best.json", "--json")
    found = json.loads(out)
    assert not code and found["params"] > 0 and found["macs"] > 0 and found["memory_bytes"] > 0

    runtime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    code, out, _ = nas("export", model, "--to", "onnx", "--out", tmp_path / "m.onnx")
    assert not code and "trained weights" in out
    images = np.float32(load("digits").test.images[:20])
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    logits = session.run(["output"], {"images": images})[0]
    np.testing.assert_allclose(logits, load_model(model).logits(images), rtol=1e-4, atol=1e-4)


def test_describe_computes_proxies(nas, folder, tmp_path):
    code, out, _ = nas("describe", folder / "best.json", "--proxies", "synflow,naswot", "--json")
    found = json.loads(out)["proxies"]
    assert not code and list(found) == ["synflow", "naswot"] and all(map(math.isfinite, found.values()))
    assert not nas("import", "arch", "nb201", ARCH, "--out", tmp_path / "a.json")[0]
    for words, says in ((("synflow",), "8x8x1"), (("synflo",), "did you mean 'synflow'")):
        code, _, err = nas("describe", tmp_path / "a.json", "--proxies", *words)
        assert code == 2 and says in err and err.count("\n") == 1


def test_import_describe_export_nasbench201(nas, tmp_path):
    code, _, _ = nas("import", "arch", "nb201", ARCH, "--classes", 10, "--out", tmp_path / "a.json")
    assert not code
    code, out, _ = nas("describe", tmp_path / "a.json", "--json")
    assert json.loads(out)["params"] == 1_288_506  # the paper's table
    code, out, _ = nas("describe", tmp_path / "a.json", "--roofline", "350,20", "--json")
    under = json.loads(out)
    assert not code and sum(layer["macs"] for layer in under["roofline"]["layers"]) == under["macs"]
    code, out, _ = nas("describe", tmp_path / "a.json", "--roofline", "350,20")
    assert not code and "roofline of 350 GFLOP/s and 20 GB/s" in out and "arithmetic" in out
    code, _, err = nas("describe", tmp_path / "a.json", "--roofline", "350")
    assert code == 2 and "--roofline 350,20" in err
    code, out, _ = nas("export", tmp_path / "a.json", "--to", "nb201")
    assert not code and out.strip() == ARCH
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    code, out, _ = nas("export", tmp_path / "a.json", "--to", "onnx", "--out", tmp_path / "a.onnx")
    assert not code and "random weights" in out and (tmp_path / "a.onnx").stat().st_size > 4 * 1_288_506
    code, _, err = nas("export", tmp_path / "a.json", "--to", "onnx")
    assert code == 2 and "--out model.onnx" in err


def test_import_describe_export_genotype(nas, tmp_path):
    from search_spaces import published
    from search_spaces.genotype import parse

    text = tmp_path / "v2.txt"
    text.write_text(f"DARTS_V2 = {published.DARTS_V2}")
    words = ("--width", 36, "--cells", 20, "--classes", 10, "--out", tmp_path / "b.json")
    code, _, _ = nas("import", "arch", "genotype", text, *words)
    assert not code
    code, out, _ = nas("describe", tmp_path / "b.json", "--json")
    assert json.loads(out)["params"] == 3_349_342
    code, out, _ = nas("export", tmp_path / "b.json", "--to", "genotype")
    assert not code and parse(out) == parse(text.read_text())


def test_import_a_mobile_network_by_name(nas, tmp_path):
    code, _, _ = nas("import", "arch", "named", "mobilenet_v3_small", "--out", tmp_path / "c.json")
    assert not code
    code, out, _ = nas("describe", tmp_path / "c.json", "--json")
    assert json.loads(out)["params"] == 2_542_856


BAD = {
    "no budget": (["search"], "--trials 24 and/or --time 2h"),
    "zero trials": (["search", "--trials", "0"], "at least 1"),
    "unknown space": (["search", "--trials", "1", "--space", "nasbench21"], "did you mean 'nasbench201'"),
    "no such own space": (["search", "--trials", "1", "--space", "nothing.here:space"], "nothing"),
    "unknown strategy": (["search", "--trials", "1", "--strategy", "random"], "random_search"),
    "unknown data": (["search", "--trials", "1", "--data", "digit"], "digits"),
    "unknown executor": (["search", "--trials", "1", "--executor", "slurm"], "ray"),
    "unknown objective": (["search", "--trials", "1", "--objective", "paretto"], "did you mean 'pareto'"),
    "unknown option": (["search", "--trails", "1"], "--trials"),
    "unknown verb": (["serach"], "search"),
    "unknown setting": (["search", "--trials", "1", "--set", "popluation=3"], "did you mean 'population'"),
    "setting without value": (["search", "--trials", "1", "--set", "population"], "key=value"),
    "setting of a wrong type": (["search", "--trials", "1", "--set", "population=many"], "number"),
    "setting out of range": (["search", "--trials", "1", "--set", "population=0"], "at least 1"),
    "population above the budget": (["search", "--trials", "4", "--set", "population=5"], "budget of 4 trials"),
    "a crop larger than the images": (
        ["search", "--trials", "1", "--set", 'augment=["crop:99"]'],
        "the images are 8x8; the number must be from 1 to 7",
    ),
    "a list that is none": (
        ["search", "--trials", "1", "--space", "nats_size", "--set", "widths=8"],
        "nats_size takes a list of numbers, such as [8, 16], not 8",
    ),
    "a list of something else": (
        ["search", "--trials", "1", "--space", "darts", "--set", "operations=[1]"],
        "darts takes a list of names, such as",
    ),
    "an option twice": (
        ["search", "--trials", "1", "--space", "nats_size", "--set", "widths=[8,8]"],
        "the option 8 is there twice",
    ),
    "a limit that nothing meets": (
        ["search", "--trials", "1", "--limit", "params=1k"],
        "no architecture of the space is within 1,000; the cheapest takes",
    ),
    "edits of what": (["search", "--trials", "1", "--edits", "2"], "--start-from"),
    "limit without a unit": (["search", "--trials", "1", "--cost", "cpu=measure", "--limit", "cpu=20"], "no unit"),
    "limit with another unit": (
        ["search", "--trials", "1", "--cost", "cpu=measure", "--limit", "cpu=20mb"],
        "no unit of",
    ),
    "limit of an unknown cost": (["search", "--trials", "1", "--limit", "gpu=20ms"], "no such cost"),
    "mnasnet without target": (["search", "--trials", "1", "--objective", "mnasnet"], "--limit"),
    "cost without file": (["search", "--trials", "1", "--cost", "phone=nothing.json"], "no such file"),
    "cost of a taken name": (["search", "--trials", "1", "--cost", "params=measure"], "taken"),
    "cost that would hide a file": (["search", "--trials", "1", "--cost", "best=measure"], "best.json of its own"),
    "budget that is no number": (
        ["search", "--trials", "4", "--strategy", "asha", "--set", "budget=NaN", "--executor", "local"],
        "budget is nan; it must be a whole number",
    ),
    "setting that is true or false": (["search", "--trials", "4", "--set", "aging=maybe"], "true or false"),
    "digits that are none": (["import", "arch", "nb201", ARCH, "--input", "²x²x²"], "32x32x3"),
    "escape codes": (["describe", "\x1b[31mred.json"], "?[31mred.json"),
    "time without unit": (["search", "--time", "90"], "2h"),
    "rungs": (["search", "--trials", "1", "--rungs", "3,1"], "rising"),
    "more workers than cores": (["search", "--trials", "1", "--workers", "9999"], "cores"),
    "warm start of how many": (["search", "--trials", "1", "--warm-start", "synflow"], "synflow+jacob_cov:200"),
    "warm start by what": (["search", "--trials", "1", "--warm-start", "synflo:9"], "did you mean 'synflow'"),
    "resume what": (["search", "--trials", "1", "--resume"], "--out"),
    "trials not a number": (["search", "--trials", "many"], "integer"),
    "no config": (["describe", "nothing.json"], "no such file"),
    "no model": (["evaluate", "nothing"], "nas train"),
    "unknown format": (["import", "arch", "onx", "x"], "nb201"),
    "no genotype file": (["import", "arch", "genotype", "nothing.txt"], "no such file"),
    "code as genotype": (["import", "arch", "genotype", "Genotype(__import__('os').system('true'))"], "genotype"),
    "no such network": (["import", "arch", "named", "mobilenetv2"], "did you mean 'mobilenet_v2'"),
    "half a string": (["import", "arch", "nb201", "|nor_conv_3x3~0|+|none~0"], "nodes"),
    "unknown operation": (
        ["import", "arch", "nb201", ARCH.replace("skip_connect", "skip")],
        "did you mean 'skip_connect'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(nas, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, says = BAD[name]
    code, out, err = nas(*words)
    assert code == 2, err
    assert says in err and err.count("\n") == 1 and "Traceback" not in err
    assert out == "" and list(tmp_path.iterdir()) == []


def test_a_folder_with_a_search_is_not_written_over(nas, folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for words, says in (
        (("--trials", 5), "holds a search"),
        (("--trials", 5, "--seed", 3, "--resume"), "another search"),
        (("--trials", 5, "--strategy", "random_search", "--resume"), "another search"),
    ):
        code, _, err = nas("search", "--objective", "pareto", "--out", folder, *FAST, *words)
        assert code == 2 and says in err and err.count("\n") == 1
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_out_is_never_written_over_another_kind_of_file(nas, folder, tmp_path):
    mine = tmp_path / "mine.csv"
    mine.write_text("arch,lat\n" + "".join(f"{a}-0-1-2-3-4,{1 + a}\n" for a in range(5)))
    config = tmp_path / "c.json"
    config.write_bytes((folder / "best.json").read_bytes())
    before = mine.read_bytes(), config.read_bytes()
    for words in (
        ("fit", "--csv", mine, "--value-column", "lat", "--unit", "ms", "--batch", 1, "--out", mine),
        ("export", config, "--to", "nb201", "--out", config),
        ("export", config, "--to", "onnx", "--out", mine),
        ("import", "arch", "nb201", ARCH, "--out", mine),
        ("import", "table", "ofa", tmp_path, "--out", config),
        ("import", "table", "grid", mine, "--space", "nasbench201", "--unit", "ms", "--device", "x", "--out", config),
    ):
        code, _, err = nas(*words)
        assert code == 2 and "there is another file already" in err, words
    assert (mine.read_bytes(), config.read_bytes()) == before
    assert not nas("import", "arch", "nb201", ARCH, "--out", config)[0]  # a config may take a config's place
    assert nas("import", "arch", "nb201", ARCH, "--out", tmp_path / "no" / "c.json")[0] == 2


def test_a_resume_with_other_options_says_which(nas, folder):
    words = ["search", "--trials", "5", "--objective", "pareto", "--out", folder, "--resume", *FAST]
    code, _, err = nas(*[("epochs=2" if word == "epochs=1" else word) for word in words])
    assert code == 2 and "evaluation recipe epochs is 1, not 2" in err


BROKEN = {
    "nothing": (lambda held: {}, "schema is None"),
    "newer": (lambda held: held | {"schema": "nas.search/9"}, "reads nas.search/1"),
    "no space": (lambda held: {k: v for k, v in held.items() if k != "space"}, "space: field required"),
    "costs": (lambda held: held | {"costs": 5}, "costs: input should be a valid dictionary"),
    "frame": (lambda held: held | {"macro": {"width": "x"}}, "search.json"),
    "strategy": (lambda held: held | {"strategy": {}}, "strategy.name: field required"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_report_of_a_broken_description(nas, folder, tmp_path, name):
    change, says = BROKEN[name]
    shutil.copytree(folder, tmp_path / "run")
    held = json.loads((folder / "search.json").read_text())
    (tmp_path / "run" / "search.json").write_text(json.dumps(change(held)))
    code, _, err = nas("report", tmp_path / "run")
    assert code == 2 and says in err and err.count("\n") == 1


@pytest.mark.parametrize("change", [{"row": [9] * 6}, {"row": "x"}, {"row": [0] * 5}, {"id": 999}, {"row": [True] * 6}])
def test_report_of_an_edited_journal(nas, folder, tmp_path, change):
    shutil.copytree(folder, tmp_path / "run")
    journal = tmp_path / "run" / "journal.jsonl"
    first, *rest = journal.read_text().splitlines()
    journal.write_text("\n".join([json.dumps(json.loads(first) | change), *rest]) + "\n")
    code, _, err = nas("report", tmp_path / "run")
    assert code == 2 and "edited or damaged" in err and err.count("\n") == 1


def test_an_address_that_is_none(nas, tmp_path):
    code, _, err = nas("search", "--trials", 1, "--address", "nonsense", "--out", tmp_path / "a")
    assert code == 2 and "host:port" in err.splitlines()[-1] and not (tmp_path / "a").exists()


def test_help_where_nothing_was_said_and_the_version(nas):
    code, _, err = nas()
    assert code == 2 and "Usage" in err and err.count("\n") > 10
    code, out, _ = nas("--version")
    assert not code and out.startswith("nas 0.")


def test_describe_refuses_a_cost_of_another_frame(nas, folder, tmp_path):
    from nas.cost import Cost, Stamp
    from search_spaces import nasbench201

    stamp = Stamp(
        "latency",
        "ms",
        "a phone",
        "x",
        1,
        "float32",
        {"width": 1, "depth": 1, "input": [1, 1, 1], "classes": 2},
        "test",
    )
    Cost(stamp, 1.0, (), None, nasbench201().fingerprint).save(tmp_path / "phone.json")
    code, _, err = nas("describe", folder / "best.json", "--cost", f"phone={tmp_path / 'phone.json'}")
    assert code == 2 and "it is for width 1" in err


def test_every_verb_is_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for verb in ("search", "train", "evaluate", "describe", "import arch", "export", "report"):
        assert f"nas {verb}" in text
