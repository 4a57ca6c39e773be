"""HW-GPT-Bench's tables as a person uses them: costs of a device, and networks within limits by perplexity."""

import csv
import json

import numpy as np
import pytest

from nas import config as configs
from nas.cost import load_cost
from nas.layers import counts
from search_spaces import SPACES
from search_spaces.gpt import FIRST, MLP_RATIOS, SCALES, gpt


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """120 networks of the small scale in the benchmark's columns; costs and perplexities are sums over layers."""
    space, size, rng = gpt(), SCALES["s"], np.random.default_rng(0)
    lines, rows = [], []
    for i in range(120):
        depth = int(rng.choice(size.depths))
        width, bias = int(rng.choice(size.embed_dims)), int(rng.integers(2))
        heads, ratios = rng.choice(size.heads, 12), rng.choice(MLP_RATIOS, 12)
        row = np.zeros(space.length, np.int32)
        row[:FIRST] = size.embed_dims.index(width), size.depths.index(depth), bias
        row[FIRST : FIRST + 2 * depth : 2] = heads[:depth] // 4 - 1
        row[FIRST + 1 : FIRST + 2 * depth : 2] = ratios[:depth] - 2
        layers = space.layers(row)
        values = {op: sum(np.prod(x.output_shape) for x in layers if x.op == op) for op in ("layer_norm", "activation")}
        found, work = counts(layers), int((heads[:depth] + 4 * ratios[:depth]).sum()) * width / 768
        flops = 8 * (2 * found.macs + 5 * int(values["layer_norm"]) + int(values["activation"]))
        texts = "-".join(map(str, heads)), "-".join(map(str, ratios))
        perplexity = 60 - 20 * (width > 192) - 0.05 * int(heads[:depth].sum()) - 0.1 * int(ratios[:depth].sum())
        figures = found.params, flops, perplexity, 5 + 0.05 * work, 0.0005 + 0.00001 * work
        lines.append([i, width, depth, *texts, bias, *figures])
        rows.append(row)
    path = tmp_path_factory.mktemp("gpt") / "gpt_x.csv"
    names = ["index", "embed_dim", "n_layer", "n_head", "mlp_ratio", "bias", "params", "flops", "perplexity"]
    with path.open("w") as file:
        csv.writer(file).writerows([[*names, "toy_ms", "toy_energy_wh"], *lines])
    return path, np.stack(rows), lines


@pytest.fixture(scope="module")
def toy(made_up, tmp_path_factory):
    from experiments import hwgpt

    path = tmp_path_factory.mktemp("toy") / "toy.json"
    hwgpt.cost(made_up[0], "toy", "latency").save(path)
    return path


def test_a_device_becomes_a_table_with_its_batch_and_error(nas, made_up, tmp_path):
    path, rows, lines = made_up
    for quantity, place, factor in (("latency", 9, 1.0), ("energy", 10, 3.6e6)):
        out = tmp_path / f"{quantity}.json"
        words = ("import", "table", "hwgpt", path, "--column", "toy", "--quantity", quantity, "--out", out)
        code, said, err = nas(*words)
        assert not code and "mean error" in said and ("rank networks" in err) == (quantity == "energy")
        cost = load_cost(out, gpt())
        assert cost.stamp.batch == 8 and cost.stamp.error < 0.05 and cost.stamp.quantity == quantity
        np.testing.assert_allclose(cost(rows), factor * np.asarray([line[place] for line in lines]), rtol=0.06)


def test_networks_within_limits_by_perplexity(nas, made_up, toy, tmp_path):
    quick = ("--set", "generations=30", "--set", "population=40", "--limit", "toy=10ms", "--limit", "toy=12ms")
    words = ("specialize", "--space", "gpt", "--accuracy-csv", made_up[0], "--cost", f"toy={toy}", *quick)
    code, out, err = nas(*words, "--out", tmp_path / "a")
    assert not code and "toy within 10.00 ms: predicted perplexity" in out, err
    found = json.loads((tmp_path / "a" / "specialized.json").read_text())
    tight, loose = found["targets"]
    assert found["accuracy"]["metric"] == "perplexity" and found["accuracy"]["held_out"]["spearman"] > 0.95
    assert loose["perplexity"] < tight["perplexity"] < 40 and tight["latency_ms"] <= 10 < loose["latency_ms"] <= 12
    saved = configs.load(tmp_path / "a" / "toy-10ms.json", SPACES)
    assert saved.metrics["perplexity"] == pytest.approx(tight["perplexity"]) and saved.space.name == "gpt"
    code, out, _ = nas("describe", tmp_path / "a" / "toy-10ms.json", "--cost", f"toy={toy}", "--json")
    assert not code and json.loads(out)["cost"][0]["value"] == pytest.approx(tight["latency_ms"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--column", "tiy"), "did you mean 'toy'"),
        (("--column", "toy", "--quantity", "power"), "has no 'power'"),
        (("--column", "toy", "--quantity", "memory"), "for which device memory is wanted"),
        (("--column", "toy", "--space", "gpt"), "leave --unit, --space and --set out"),
    ],
)
def test_what_a_file_has_not_is_one_line(nas, made_up, tmp_path, words, says):
    code, out, err = nas("import", "table", "hwgpt", made_up[0], *words, "--out", tmp_path / "x.json")
    assert code == 2 and not out and says in err and err.count("\n") == 1


def test_counts_of_another_benchmark_are_refused(nas, made_up, tmp_path):
    text = made_up[0].read_text().splitlines()
    cells = text[1].split(",")
    for place, wrong, says in ((6, "5", "params is 5"), (1, "100", "embed_dim '100'"), (2, "9", "no option of scale")):
        changed = [*cells[:place], wrong, *cells[place + 1 :]]
        (tmp_path / "a.csv").write_text("\n".join([text[0], ",".join(changed), *text[2:]]))
        words = ("--column", "toy", "--out", tmp_path / "x.json")
        code, _, err = nas("import", "table", "hwgpt", tmp_path / "a.csv", *words)
        assert code == 2 and says in err and err.count("\n") == 1
    code, _, err = nas("specialize", "--space", "gpt", "--cost", "a=b", "--limit", "a=1ms", "--accuracy-run", tmp_path)
    assert code == 2
