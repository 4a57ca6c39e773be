"""HAT's latency files as a person uses them: tables of its tasks and devices, and what is refused."""

import csv
import json

import jax
import numpy as np
import pytest

from experiments import hat as reader
from nas import config as configs
from nas.cost import load_cost
from nas.errors import BadInput
from search_spaces import SPACES
from search_spaces.hat import ATTENDED, DECODER, hat
from search_spaces.hat_format import to_text

FEATURES = [
    "encoder_embed_dim",
    "encoder_layer_num",
    "encoder_ffn_embed_dim_avg",
    "encoder_self_attention_heads_avg",
    "decoder_embed_dim",
    "decoder_layer_num",
    "decoder_ffn_embed_dim_avg",
    "decoder_self_attention_heads_avg",
    "decoder_ende_attention_heads_avg",
    "decoder_arbitrary_ende_attn_avg",
]
COLUMNS = [*FEATURES, *(f"latency_{what}_{part}" for what in ("mean", "std") for part in ("encoder", "decoder"))]

# HAT_wmt14ende_raspberrypi@6.9s_bleu@28.4 of its repository; tests/search_spaces/test_hat.py has it in words
PUBLISHED = np.asarray(
    [
        0,
        0,
        4,
        3,
        2,
        3,
        1,
        3,
        2,
        3,
        2,
        3,
        2,
        3,
        2,
        2,
        2,
        1,
        0,
        2,
        2,
        2,
        1,
        3,
        2,
        2,
        1,
        3,
        1,
        2,
        1,
        2,
        2,
        2,
        0,
        0,
        0,
        0,
        0,
    ],
    np.int32,
)


def features(space, row):
    """A network's ten features, as HAT's ``get_config_features`` says they are."""
    chosen = space.decode(row)
    depth = chosen["decoder_layer_num"]
    mean = lambda side, kind, n: np.mean([chosen[f"{side}_{i}_{kind}"] for i in range(n)])  # noqa: E731
    attended = np.mean([ATTENDED[chosen[f"decoder_{i}_arbitrary_ende_attn"]] for i in range(depth)])
    encoder = [mean("encoder", kind, 6) for kind in ("ffn_embed_dim", "self_attention_heads")]
    kinds = ("ffn_embed_dim", "self_attention_heads", "ende_attention_heads")
    decoder = [mean("decoder", kind, depth) for kind in kinds]
    return [chosen["encoder_embed_dim"], 6, *encoder, chosen["decoder_embed_dim"], depth, *decoder, attended]


def taken(space, row):
    """(encoder, decoder) ms, made up: a sum over layers whose parts differ between the widths."""
    chosen = space.decode(row)
    wide, narrow = chosen["encoder_embed_dim"], chosen["decoder_embed_dim"]
    encoder = 1 + sum(wide * chosen[f"encoder_{i}_ffn_embed_dim"] * 1e-6 for i in range(6))
    decoder = 5 + 2 * chosen["decoder_layer_num"]
    for i in range(chosen["decoder_layer_num"]):
        decoder += narrow * chosen[f"decoder_{i}_ffn_embed_dim"] * 2e-6
        decoder += (
            0.1 * chosen[f"decoder_{i}_self_attention_heads"] - 0.05 * chosen[f"decoder_{i}_ende_attention_heads"]
        )
        decoder += 0.3 * ATTENDED[chosen[f"decoder_{i}_arbitrary_ende_attn"]]
    return encoder, decoder


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """200 networks in HAT's columns, their rows, and latencies without noise."""
    space = hat()
    rows = np.asarray(jax.jit(space.sample, static_argnums=1)(jax.random.key(0), 200))
    latencies = np.asarray([taken(space, row) for row in rows])
    path = tmp_path_factory.mktemp("hat") / "wmt14ende_gpu_titanxp_all.csv"
    with path.open("w") as file:
        lines = [[*features(space, row), *two, 0.1, 0.1] for row, two in zip(rows, latencies, strict=True)]
        csv.writer(file).writerows([COLUMNS, *lines])
    return path, rows, latencies


@pytest.mark.parametrize("part", ["sum", "encoder", "decoder"])
def test_a_file_becomes_a_table_over_the_choices_of_layers(nas, made_up, tmp_path, part):
    path, rows, latencies = made_up
    column = () if part == "sum" else ("--column", part)
    code, said, err = nas("import", "table", "hat", path, *column, "--out", tmp_path / "a.json")
    assert not code and not err and "NVIDIA Titan Xp" in said and "fitted to 160 networks; on 40 other" in said
    cost = load_cost(tmp_path / "a.json", hat())
    wanted = {"sum": latencies.sum(1), "encoder": latencies[:, 0], "decoder": latencies[:, 1]}[part]
    # of other networks than those in the file as well: what is linear in the sums is known of every layer
    others = np.asarray(hat().sample(jax.random.key(5), 20))
    all_others = np.asarray([taken(hat(), row) for row in others])
    np.testing.assert_allclose(cost(rows), wanted, rtol=1e-6)
    other = {"sum": all_others.sum(1), "encoder": all_others[:, 0], "decoder": all_others[:, 1]}[part]
    np.testing.assert_allclose(cost(others), other, rtol=1e-6)
    assert cost.details["task"] == "wmt14ende" and cost.details["part"] == part
    assert cost.stamp.error < 1e-6 and cost.stamp.macro["input"] == [60] and cost.stamp.unit == "ms"


def test_a_table_is_differentiable_and_exact_at_single_choices(made_up):
    path, rows, _ = made_up
    cost, space = reader.cost(path), hat()
    gates = [np.eye(k, dtype=np.float32)[o] for k, o in zip(space.cardinalities, rows[0], strict=True)]
    assert float(cost.expected(gates)) == pytest.approx(cost(rows[:1])[0], rel=1e-5)
    half = [*gates[:2], np.full(6, 1 / 6, np.float32), *gates[3:]]
    slope = jax.grad(lambda depth: cost.expected([*half[:2], depth, *half[3:]]))(half[2])
    assert (np.diff(slope) >= 0).all() and slope[5] > slope[0]


def test_the_least_is_that_of_the_cheapest_network(made_up):
    path, rows, _ = made_up
    cost, space = reader.cost(path), hat()
    least = reader._least(cost.base, cost.factors)
    cheapest = np.zeros(space.length, np.int32)
    cheapest[DECODER + 2] = 2  # eight heads to the encoder cost less than two here
    assert space.valid(cheapest[None])[0] and least == pytest.approx(cost(cheapest[None])[0])
    assert least <= cost(rows).min()


def test_fewer_options_are_priced_alike(nas, made_up, tmp_path):
    small = hat(ffn=[1024, 3072], heads=[8])
    words = ("--set", "ffn=[1024,3072]", "--set", "heads=[8]", "--out", tmp_path / "a.json")
    code, _, err = nas("import", "table", "hat", made_up[0], *words)
    assert not code, err
    cost = load_cost(tmp_path / "a.json", small)
    rows = np.asarray(small.sample(jax.random.key(2), 10))
    whole = np.asarray([hat().encode(small.decode(row) | absent(small, row)) for row in rows])
    np.testing.assert_allclose(cost(rows), reader.cost(made_up[0])(whole), rtol=1e-9)


def absent(space, row):
    """The first options of the whole space for layers that are not there."""
    depth = space.decode(row)["decoder_layer_num"]
    names = [d.name for d in space.decisions]
    first = {d.name: d.options[0] for d in hat().decisions}
    return {n: first[n] for n in names if n.startswith("decoder_") and n[8].isdigit() and int(n[8]) >= depth}


def test_a_network_is_described_with_its_latency(nas, made_up, tmp_path):
    path, *_ = made_up
    space, table, config = hat(), tmp_path / "a.json", tmp_path / "arch.json"
    row = PUBLISHED
    reader.cost(path).save(table)
    configs.Architecture(space, row, space.macro, space.macro).save(config)
    assert np.array_equal(configs.load(config, SPACES).row, row)
    code, out, err = nas("describe", config, "--cost", f"titanxp={table}", "--json")
    found = json.loads(out)
    assert not code and found["cost"][0]["value"] == pytest.approx(sum(taken(space, row))), err
    assert found["params"] - 32768 * 512 == 48_331_264
    # a table of one task does not price another's networks, whose sentences and vocabularies differ
    other = hat("iwslt14deen")
    configs.Architecture(other, row, other.macro, other.macro).save(config)
    code, out, err = nas("describe", config, "--cost", f"titanxp={table}")
    assert code == 2 and not out and "made for another space" in err and err.count("\n") == 1


def test_hat_s_file_of_a_network_is_imported_priced_and_exported(nas, made_up, tmp_path):
    path, rows, latencies = made_up
    theirs, config, table = tmp_path / "HAT_wmt14ende_x@9ms.yml", tmp_path / "arch.json", tmp_path / "a.json"
    theirs.write_text(to_text(hat(), rows[0]))
    reader.cost(path).save(table)
    code, _, err = nas("import", "arch", "hat", theirs, "--out", config)
    assert not code, err
    code, out, _ = nas("describe", config, "--cost", f"titanxp={table}", "--json")
    assert not code and json.loads(out)["cost"][0]["value"] == pytest.approx(latencies[0].sum())
    code, out, _ = nas("export", config, "--to", "hat")
    assert not code and out.strip() == theirs.read_text()
    plain = tmp_path / "mine.yml"
    plain.write_text(theirs.read_text())
    for source, says in ((plain, "does not say which task"), (tmp_path / "nothing.yml", "no such file")):
        code, out, err = nas("import", "arch", "hat", source)
        assert code == 2 and not out and says in err and err.count("\n") == 1
    nas("import", "arch", "named", "mobilenet_v3_small", "--out", tmp_path / "v3.json")
    code, out, err = nas("export", tmp_path / "v3.json", "--to", "hat")
    assert code == 2 and "not hat" in err


def test_names_that_say_nothing_are_asked_for(nas, made_up, tmp_path):
    plain = tmp_path / "mine.csv"
    plain.write_text(made_up[0].read_text())
    words = ("import", "table", "hat", plain, "--out", tmp_path / "x.json")
    code, out, err = nas(*words, "--device", "my phone")
    assert code == 2 and not out and "--set task=NAME" in err and err.count("\n") == 1
    code, out, err = nas(*words, "--set", "task=iwslt14deen")
    assert code == 2 and not out and "--device NAME" in err and err.count("\n") == 1
    code, out, _ = nas(*words, "--set", "task=iwslt14deen", "--device", "my phone")
    stamp = load_cost(tmp_path / "x.json", hat("iwslt14deen")).stamp
    assert not code and stamp.device == "my phone" and stamp.macro["input"] == [46] and "23 tokens" in stamp.source


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--column", "encodr"), "did you mean 'encoder'"),
        (("--quantity", "energy"), "leave --unit, --space and --quantity out"),
        (("--unit", "s"), "leave --unit, --space and --quantity out"),
        (("--set", "task=wmt14enfr"), "it is of task wmt14ende, not wmt14enfr"),
        (("--set", "task=9"), "task"),
        (("--set", "ffn=[4096]"), "give a list of some of"),
        (("--set", "scale=s"), "no such setting"),
    ],
)
def test_what_a_file_has_not_is_one_line(nas, made_up, tmp_path, words, says):
    code, out, err = nas("import", "table", "hat", made_up[0], *words, "--out", tmp_path / "x.json")
    assert code == 2 and not out and says in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("encoder_embed_dim", "600", "encoder_embed_dim is 600 in row 3; it must be one of 512, 640"),
        ("encoder_layer_num", "5", "one of 6"),
        ("decoder_layer_num", "7", "one of 1, 2"),
        ("decoder_layer_num", "nan", "is nan in row 3"),
        ("encoder_ffn_embed_dim_avg", "700", "the mean of as many layers of 512, 1024"),
        ("encoder_ffn_embed_dim_avg", "inf", "is inf in row 3"),
        ("decoder_self_attention_heads_avg", "1", "the mean of as many layers of 2, 4, 8"),
        ("decoder_arbitrary_ende_attn_avg", "-1", "layers of 1, 2, 3"),
        ("decoder_arbitrary_ende_attn_avg", "", "is nan in row 3"),
        ("latency_mean_encoder", "0", "latency_mean_encoder is 0 in row 3; it must be a latency in ms, above 0"),
        ("latency_mean_decoder", "-3", "above 0"),
        ("latency_mean_decoder", "nan", "above 0"),
        ("latency_mean_decoder", "soon", "it must be a number"),
    ],
)
def test_features_and_latencies_of_no_network_are_refused(made_up, tmp_path, name, wrong, says):
    lines = [line.split(",") for line in made_up[0].read_text().splitlines()]
    lines[3][COLUMNS.index(name)] = wrong
    path = tmp_path / made_up[0].name
    path.write_text("\n".join(map(",".join, lines)))
    with pytest.raises(BadInput, match=says) as refused:
        reader.cost(path)
    assert "\n" not in str(refused.value)


def test_a_table_of_something_else_is_refused(made_up, tmp_path):
    path = tmp_path / made_up[0].name
    lines = made_up[0].read_text().splitlines()
    for text, says in (
        ("\n".join([lines[0].replace("decoder_layer_num", "depth"), *lines[1:]]), "no column 'decoder_layer_num'"),
        ("\n".join(lines[:50]), "49 networks; a table is fitted to 100 or more"),
        ("\n".join([lines[0]] + [lines[1]] * 120), "too alike"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=says):
            reader.cost(path)


# held-out mean relative errors of the published files, as docs/cli.md states them
ERRORS = {
    "wmt14ende_cpu_raspberrypi": 0.032,
    "wmt14ende_cpu_xeon": 0.049,
    "wmt14ende_gpu_titanxp": 0.052,
    "wmt14enfr_cpu_xeon": 0.040,
    "wmt14enfr_gpu_titanxp": 0.018,
    "wmt19ende_gpu_titanxp": 0.047,
    "iwslt14deen_gpu_titanxp": 0.064,
}


@pytest.mark.parametrize("name", ERRORS)
def test_published_files_have_the_errors_that_the_docs_state(published, name):
    cost = reader.cost(published(f"hat/{name}_all.csv"))
    fit = cost.details["fit"]
    assert cost.stamp.error == fit["mape"] == pytest.approx(ERRORS[name], abs=0.001)
    assert fit["spearman"] > 0.95 and fit["networks"] == 1000
    assert cost.space == hat(name.partition("_")[0]).fingerprint


def test_the_published_network_takes_what_its_name_says(published):
    """HAT_wmt14ende_raspberrypi@6.9s_bleu@28.4: measured by its authors apart from the file."""
    cost = reader.cost(published("hat/wmt14ende_cpu_raspberrypi_all.csv"))
    assert cost(PUBLISHED[None])[0] == pytest.approx(6900, rel=0.05)
