"""`nas search` with weight-sharing strategies, as a person types it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from experiments.options import defaults_for
from nas.builder import LayerBuilder
from nas.network import apply_layers, init_layers
from nas.recipe import optimizer_of
from nas.train import CLASSIFICATION, descend

OWN = """
from nas.space import Decision, Macro, SearchSpace

def network(net, macro):
    def conv(kernel):
        return net.batch_norm(net.conv(net.input, macro.width, kernel, stride=2))
    branches = {"conv": lambda: conv(3), "none": lambda: net.zeros((4, 4, macro.width)), "pixel": lambda: conv(1)}
    x = net.activation(net.choice("edge", branches))
    return net.linear(net.global_avg_pool(x), macro.classes)

def tiny():
    return SearchSpace("tiny", (Decision("edge", ("conv", "none", "pixel")),), network, Macro(16, 1, (8, 8, 1), 10))
"""
TINY = ("--space", "tiny_space:tiny", "--executor", "local")


@pytest.fixture
def inside(tmp_path, monkeypatch):
    (tmp_path / "tiny_space.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def training(folder):
    return json.loads((folder / "training.json").read_text())


def test_darts_writes_a_run_folder_whose_best_can_be_trained(nas, inside):
    plain = ("--set", "perturbation=0", "--set", "eigenvalue=0", "--set", "epochs=40", "--set", "learning_rate=0.2")
    code, out, err = nas("search", *TINY, "--strategy", "darts", *plain, "--out", "a", "--json")
    assert not code, err
    found = json.loads(out)
    assert found["complete"] and found["trials"]["finished"] == 1
    # what sees single pixels tells how dark an image is, and no more
    assert found["best"]["choices"] == {"edge": "conv"}
    assert set(os.listdir("a")) >= {"search.json", "journal.jsonl", "best.json", "training.json", "checkpoints"}
    record = training(inside / "a")
    assert record["edges"] == ["edge"] and record["options"] == [["conv", "none", "pixel"]]
    gates = [entry["gates"][0] for entry in record["runs"][0]["epochs"]]
    assert len(gates) == 40 and gates[-1][0] > gates[0][0]
    row = next(csv.DictReader((inside / "a" / "trials.csv").read_text().splitlines()))
    assert 0 < float(row["accuracy"]) < 1 and "accuracy_uncalibrated" in row
    report = (inside / "a" / "report.html").read_text()
    assert "The shared weights" in report and "Gates over time" in report
    code, _, err = nas("train", "a/best.json", "--set", "epochs=1", "--out", "m", "--space", "tiny_space:tiny")
    assert not code, err
    code, _, err = nas("report", "a", "--space", "tiny_space:tiny")
    assert not code and "Gates over time" in (inside / "a" / "report.html").read_text()


def test_a_strategy_searches_the_weights_of_sampled_paths(nas, inside):
    words = ("--strategy", "single_path", "--set", "searcher=random_search", "--set", "epochs=2", "--trials", 4)
    code, out, err = nas("search", *TINY, *words, "--seeds", 2, "--out", "a", "--json")
    assert not code, err
    assert json.loads(out)["trials"]["finished"] == 4
    assert [run["seed"] for run in training(inside / "a")["runs"]] == [0, 1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--strategy", "darts", "--rungs", "1"), "--rungs: strategy 'darts' trains one set of weights"),
        (("--strategy", "darts", "--set", "order=3"), "order is 3; it must be 1 or 2"),
        (("--strategy", "darts", "--set", "searcher=tpe"), "derives its architecture itself"),
        (("--strategy", "single_path", "--set", "searcher=evolution"), "no strategy 'evolution'"),
        (("--strategy", "random_search", "--trials", "2", "--seeds", "2"), "--seeds: strategy 'random_search'"),
        (("--strategy", "dart"), "did you mean 'darts'"),
        (("--strategy", "darts", "--space", "nats_size"), "no choice between operations"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(nas, inside, words, says):
    code, _, err = nas("search", *TINY, *words, "--out", "a")
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1
    assert not (inside / "a" / "journal.jsonl").exists()


def test_killed_and_resumed_finds_what_an_undisturbed_search_finds(nas, inside):
    words = ["search", *TINY, "--strategy", "darts", "--seed", "3", "--set", "epochs=80", "--set", "eigenvalue=0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(inside), *sys.path])}
    child = subprocess.Popen(
        [sys.executable, "-m", "experiments.cli", *words, "--out", "a"], env=environment, stderr=subprocess.PIPE
    )
    checkpoint, until = inside / "a" / "checkpoints" / "seed_3.safetensors", time.monotonic() + 120
    while not checkpoint.exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, child.stderr.read()
    child.stderr.close()
    assert not (inside / "a" / "training.json").exists()
    for out, more in (("a", ["--resume"]), ("b", [])):
        code, _, err = nas(*words, "--out", out, *more)
        assert not code, err
    a, b = training(inside / "a"), training(inside / "b")
    assert len(a["runs"][0]["epochs"]) == 80
    assert [e["gates"] for e in a["runs"][0]["epochs"]] == [e["gates"] for e in b["runs"][0]["epochs"]]
    assert [e["metrics"] for e in a["runs"][0]["epochs"]] == [e["metrics"] for e in b["runs"][0]["epochs"]]
    best = [json.loads((inside / out / "best.json").read_text())["choices"] for out in "ab"]
    assert best[0] == best[1]


def test_our_rate_turns_our_kernels_as_far_as_the_papers_turns_pytorchs():
    """Behind batch norm a kernel's direction alone counts; DARTS's rate .025 is for PyTorch's kernels, U(-b, b)."""
    share, fan_in = defaults_for((32, 32, 3)).share, 9 * 4
    net = LayerBuilder((6, 6, 4), (), ())
    conv = net.conv(net.input, 512, 3)  # many, so that what is drawn has the size that is meant
    layers = net.finish(net.global_avg_pool(net.activation(net.batch_norm(conv))))
    weights, stats = init_layers(layers, jax.random.key(0))
    ours = weights["conv"]["kernel"]
    bound = fan_in**-0.5
    theirs = ours * (bound / 3**0.5 / ours.std())  # the same directions, of the size that PyTorch draws
    x, labels = jax.random.normal(jax.random.key(1), (64, 6, 6, 4)), jnp.arange(64)

    def directions(kernel, recipe):
        optimizer = optimizer_of(recipe)
        moments, trained = optimizer.init(kernel), kernel
        for _ in range(5):

            def loss(kernel):
                out, _ = apply_layers(layers, weights | {"conv": {"kernel": kernel}}, stats, x, train=True)
                return CLASSIFICATION.loss(out, labels, recipe).mean()

            step = jax.jit(lambda k, m: descend(optimizer, k, m, jax.grad(loss)(k), jnp.float32(recipe.learning_rate)))
            trained, moments = step(trained, moments)
        return trained / jnp.linalg.norm(trained), kernel / jnp.linalg.norm(kernel)

    recipe = share.replace(gradient_clip=0.0)
    found, start = directions(ours, recipe)
    wanted, _ = directions(theirs, recipe.replace(learning_rate=0.025, weight_decay=3e-4))
    assert jnp.linalg.norm(found - wanted) < 0.02 * jnp.linalg.norm(wanted - start)
