import json

import jax
import numpy as np
import pytest

from hw_models.block_table import cost_of, load, read_ofa
from nas.errors import BadInput
from search_spaces import proxylessnas
from search_spaces.once_for_all import ofa_mbv3, to_encoding

yaml = pytest.importorskip("yaml")


@pytest.fixture(scope="session")
def folder(published):
    return published("ofa/note10_lut")


def eights(channels):
    """Once-for-all's rounding of channels, as its paper's code states it."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found


def summed(entries, ks, e, d, r, width):
    """Once-for-all's own sum for one network: every key written out from the published frame."""
    stem, first, *stages, last, mix = (eights(c * width) for c in (16, 16, 24, 40, 80, 112, 160, 960, 1280))
    mean = lambda key: entries[key]["mean"]  # noqa: E731
    side = -(-r // 2)
    total = mean(f"Conv-input:{r}x{r}x3-output:{side}x{side}x{stem}")
    total += mean(
        f"expanded_conv-input:{side}x{side}x{stem}-output:{side}x{side}x{first}"
        f"-expand:{stem}-kernel:3-stride:1-idskip:1-se:0-hs:0"
    )
    before = first
    for s, (channels, stride, se, hs) in enumerate(
        zip(stages, (2, 2, 2, 1, 2), (0, 1, 0, 1, 1), (0, 0, 1, 1, 1), strict=True)
    ):
        for k in range(d[s]):
            step = stride if k == 0 else 1
            after, i = -(-side // step), 4 * s + k
            skip = int(step == 1 and before == channels)
            total += mean(
                f"expanded_conv-input:{side}x{side}x{before}-output:{after}x{after}x{channels}"
                f"-expand:{eights(round(before * e[i]))}-kernel:{ks[i]}-stride:{step}-idskip:{skip}-se:{se}-hs:{hs}"
            )
            side, before = after, channels
    total += mean(f"Conv_1-input:{side}x{side}x{before}-output:{side}x{side}x{last}")
    total += mean(f"AvgPool2D-input:{side}x{side}x{last}-output:1x1x{last}")
    return total + mean(f"Conv_2-input:1x1x{last}-output:1x1x{mix}") + mean(f"Logits-input:1x1x{mix}-output:1000")


def test_note10_costs_are_once_for_alls_own_sums(folder):
    space = ofa_mbv3(1.2, (160, 208))
    table = read_ofa(folder, "Note10")
    texts = {r: yaml.safe_load((folder / f"{r}_lookup_table.yaml").read_text()) for r in (160, 208)}
    for row in np.asarray(space.sample(jax.random.key(0), 20)):
        own = to_encoding(row, space)
        wanted = summed(texts[own["r"]], own["ks"], own["e"], own["d"], own["r"], 1.2)
        assert table.price(space.layers(row)) == pytest.approx(wanted, rel=1e-9)


def test_the_cost_of_a_space_is_the_price_of_its_networks(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    space = ofa_mbv3(1.2, (160, 224), kernels=(3, 7), expands=(3, 6), depths=(2, 4))
    table = read_ofa(folder, "Note10")
    cost = cost_of(table, space)
    rows = np.asarray(space.sample(jax.random.key(1), 10))
    np.testing.assert_allclose(cost(rows), [table.price(space.layers(r)) for r in rows], rtol=1e-9)
    again = cost_of(table, space)  # from the cache
    assert (again(rows) == cost(rows)).all() and again.stamp == cost.stamp


def test_proxylessnas_prices_its_own_space(published):
    file = published("proxylessnas/pixel1_mobile_trim.yaml")
    space, found = proxylessnas(), read_ofa(file, "Pixel 1", activation="relu6")
    names = {d.name: d.options.index("skip") if "skip" in d.options else 0 for d in space.decisions}
    shallow = np.asarray(list(names.values()), np.int32)
    means = {k: v["mean"] for k, v in yaml.safe_load(file.read_text()).items()}
    # skips cost nothing; what is left are the stem, one separable block, six blocks, the end
    chain = ((112, 16, 24, 2), (56, 24, 40, 2), (28, 40, 80, 2), (14, 80, 96, 1), (14, 96, 192, 2), (7, 192, 320, 1))
    wanted = means["Conv-input:224x224x3-output:112x112x32"] + means["Conv_1-input:7x7x320-output:7x7x1280"]
    wanted += means["expanded_conv-input:112x112x32-output:112x112x16-expand:1-kernel:3-stride:1-idskip:0"]
    wanted += means["Logits-input:7x7x1280-output:1000"]
    for side, a, b, stride in chain:
        after = side // stride
        wanted += means[
            f"expanded_conv-input:{side}x{side}x{a}-output:{after}x{after}x{b}-expand:3-kernel:3-stride:{stride}-idskip:0"
        ]
    assert found.price(space.layers(shallow)) == pytest.approx(wanted, rel=1e-9)


def test_a_table_is_read_back(folder, tmp_path):
    table = read_ofa(folder, "Note10")
    table.save(tmp_path / "t.json")
    again = load(tmp_path / "t.json")
    assert again.tables == table.tables and again.stamp == table.stamp


def test_other_resolutions_and_widths_are_refused(folder):
    table = read_ofa(folder, "Note10")
    for space, word in ((ofa_mbv3(1.2, (128,)), "not 128"), (ofa_mbv3(1.0, (160,)), "not in the table")):
        with pytest.raises(BadInput, match=word):
            table.price(space.layers(np.zeros(space.length, np.int32)))


GOOD = "Conv-input:32x32x3-output:16x16x8:\n  count: 1\n  mean: 0.5\n  std: 0.1\n"


@pytest.mark.parametrize(
    "text, word",
    [
        ("a: !!python/object/apply:os.system ['true']\n", "no plain YAML"),
        ("a: &x {mean: 1}\nb: *x\n", "anchors"),
        (GOOD.replace("0.5", "-0.5"), "above zero"),
        (GOOD.replace("0.5", "0"), "above zero"),
        (GOOD.replace("0.5", "fast"), "no number"),
        (GOOD.replace("Conv-", "Convolution-"), "no block that is known"),
        (GOOD.replace("32x32x3", "32"), "not understood"),
        (GOOD.replace("Conv-", "Conv_1-"), "no 'Conv' entry"),
        ("- 1\n- 2\n", "no lookup table"),
        ("a: [", "no plain YAML"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, word):
    (tmp_path / "32.yaml").write_text(text)
    with pytest.raises(BadInput, match=word) as refused:
        read_ofa(tmp_path, "x")
    assert "\n" not in str(refused.value)


def test_a_broken_table_of_ours_is_refused(tmp_path):
    for data in ({"schema": "nas.blocks/9"}, {"schema": "nas.blocks/1"}, {"schema": "nas.blocks/1", "stamp": {}}):
        (tmp_path / "t.json").write_text(json.dumps(data))
        with pytest.raises(BadInput):
            load(tmp_path / "t.json")
