"""Recurrent cells for a text, from the search to a trained model, as a person types it."""

import json
import sys

import numpy as np
import pytest

import nas as toolkit
from experiments import cli
from nas.data import load
from nas.objective import accuracy
from nas.text import encode

SIZES = ("--search-width", 6, "--width", 8, "--set", "nodes=2", "--set", "sequence=8")
SEARCH = ("--space", "darts_rnn", "--executor", "local", "--set", "batch=16", *SIZES)
FABLE = "a cat and a dog saw a cow.\nthe cow saw a cat, and the dog saw nothing.\n"


@pytest.fixture(scope="module")
def fable(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "fable.txt"
    path.write_text(FABLE * 60)
    return path


@pytest.fixture(scope="module")
def found(fable, tmp_path_factory):
    """The folder of a search with DARTS, short, made once."""
    out = tmp_path_factory.mktemp("runs") / "a"
    words = ("--strategy", "darts", "--set", "epochs=2", "--data", fable, "--out", out, "--json")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["nas", "search", *map(str, (*SEARCH, *words))])
        cli.main()
    assert not ended.value.code
    return out


def test_a_cell_is_found_trained_tested_and_used(nas, found, fable, tmp_path):
    best = json.loads((found / "best.json").read_text())
    assert best["metrics"]["perplexity"] == pytest.approx(np.exp(best["metrics"]["loss"]), rel=1e-3)
    assert set(best["choices"]) == {"node_1_input", "node_1_op", "node_2_input", "node_2_op"}
    report = (found / "report.html").read_text()
    assert "perplexity" in report and "Gates over time" in report
    words = ("--data", fable, "--set", "epochs=4", "--set", "sequence=8", "--json", "--out", tmp_path / "m")
    code, out, err = nas("train", found / "best.json", *words)
    assert not code, err
    trained = json.loads(out)
    # 20 different characters are told apart by far in so regular a text
    assert 1 < trained["test_perplexity"] < 15 and trained["parts"].startswith("fable.txt")
    code, out, err = nas("evaluate", tmp_path / "m", "--data", fable, "--json")
    assert not code, err
    assert json.loads(out)["perplexity"] == pytest.approx(trained["test_perplexity"], rel=1e-5)
    model = toolkit.load(tmp_path / "m")
    assert model("a cat and a do").shape == (len(model.classes),)
    assert model("a cat and a do").sum() == pytest.approx(1, rel=1e-4)
    text = model.write("the c", 30, seed=1)
    assert text.startswith("the c") and len(text) == 35 and set(text) <= set(FABLE)
    assert text == model.write("the c", 30, seed=1)
    code, _, err = nas("train", found / "best.json", "--data", "digits", "--out", tmp_path / "n")
    assert code == 2 and "'digits' is images, and networks of this space read a text" in err
    code, out, _ = nas("export", found / "best.json", "--to", "genotype")
    assert not code and out.startswith("Genotype(recurrent=[(")


def test_the_reported_perplexity_is_that_of_the_text_read_in_streams(nas, found, fable, tmp_path):
    """The network itself, sequence after sequence, against what training says."""
    code, out, err = nas(
        "train", found / "best.json", "--data", fable, "--set", "epochs=1", "--out", tmp_path / "m", "--json"
    )
    assert not code, err
    model = toolkit.load(tmp_path / "m")
    data = load(fable, sequence=8)
    assert model.config["macro"]["input"] == [8], "as it was searched"
    part, losses = data.test, []
    steps = -(-len(part.images) // 10)
    for stream in range(10):
        state = None
        for place in range(stream * steps, min((stream + 1) * steps, len(part.images))):
            out_, state = model.network.go_on(part.images[place : place + 1], state)
            shares = np.log(np.exp(np.asarray(out_[0], np.float64)).sum(-1))
            losses += list(shares - np.asarray(out_[0], np.float64)[np.arange(8), part.labels[place]])
    assert json.loads(out)["test_perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    tokens = encode(FABLE, data.classes, data.level)
    assert model.logits(FABLE).shape == (len(tokens), len(data.classes))


def test_candidates_are_trained_from_scratch_and_by_sampled_paths(nas, fable, tmp_path):
    for i, words in enumerate((("random_search",), ("single_path", "--set", "searcher=random_search"))):
        more = ("--data", fable, "--trials", 2, "--data-limit", 40, "--set", "epochs=1", "--out", tmp_path / str(i))
        code, out, err = nas("search", *SEARCH, "--strategy", *words, *more, "--json")
        assert not code, err
        assert json.loads(out)["trials"]["finished"] == 2


def test_less_perplexity_is_better():
    objective = accuracy(metric="perplexity")
    low, high = (objective({"perplexity": value})[0][0] for value in (3.0, 4.0))
    assert low > high and np.isnan(objective({"accuracy": 0.5})[0][0])
    with pytest.raises(toolkit.BadInput, match="perplexity is minimised"):
        toolkit.mnasnet("latency", 1.0, metric="perplexity")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--data", "digits"), "'digits' is images, and networks of this space read a text"),
        (
            ("--space", "nasbench201"),
            "'fable' is a text, and networks of this space read images; darts_rnn reads a text",
        ),
        (("--set", 'augment=["flip"]'), "augment is for images"),
        (("--set", "dropout_hidden=0.2"), "dropout_hidden is for training one network"),
        (("--depth", 2), "has one cell"),
        (("--set", "sequence=5000"), "fewer than a sequence of 5000"),
        (("--strategy", "pc_darts"), "set part=1"),
        (("--warm-start", "synflow:4"), "look at images"),
        (("--data", "no/such.txt"), "no file or folder no/such.txt"),
        (("--objective", "mnasnet-soft"), "no objective"),
    ],
)
def test_what_makes_no_sense_for_a_text_is_one_line(nas, fable, tmp_path, words, says):
    given = dict(zip(words[::2], words[1::2], strict=True))
    base = {"--space": "darts_rnn", "--data": fable, "--executor": "local", "--trials": 2}
    base |= {"--out": tmp_path / "a"}
    if given.get("--strategy") == "pc_darts":
        base.pop("--trials")
    code, out, err = nas("search", *(w for pair in (base | given).items() for w in pair))
    assert code == 2 and not out and not (tmp_path / "a" / "journal.jsonl").exists()
    line = err.strip().splitlines()[-1]
    assert says in line
    assert sum("to train on" not in text for text in err.strip().splitlines()) == 1
