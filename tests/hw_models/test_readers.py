"""Published tables of blocks: their sums against the files read straight, and what is refused."""

import itertools
import re

import numpy as np
import pytest
import yaml

from hw_models.block_table import BlockTable, entry_key, load_blocks
from hw_models.readers import FORMATS, import_blocks
from nas.builder import LayerBuilder
from nas.cost import Stamp
from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace

STAMP = Stamp("latency", "ms", "a phone", "", 1, "float32", {}, "made up")
# once-for-all's MobileNetV3 at width 1.2: channels, stride, squeeze-and-excitation and hard-swish of its five stages
STAGES = ((32, 2, 0, 0), (48, 2, 1, 0), (96, 2, 0, 1), (136, 1, 1, 1), (192, 2, 1, 1))


def once_for_all(ks, e, d):
    """The layers of one sub-network, in the block keys of our mobile spaces."""

    def network(net, macro):
        places = itertools.count()
        with net.block("stem"):
            x = net.activation(net.conv(net.input, 24, 3, stride=2), "hard_swish")
        x = block(net, places, x, 24, 3, 1, 1, 0, 0)
        for stage, (out, stride, se, hs) in enumerate(STAGES):
            for i in range(d[stage]):
                at = 4 * stage + i
                x = block(net, places, x, out, ks[at], e[at], stride if i == 0 else 1, se, hs)
        with net.block("final_conv"):
            x = net.activation(net.conv(x, 1152, 1), "hard_swish")
        with net.block("pool"):
            x = net.global_avg_pool(x)
        with net.block("feature_mix"):
            x = net.activation(net.linear(x, 1536), "hard_swish")
        with net.block("logits"):
            return net.linear(x, 1000)

    def block(net, places, x, out, kernel, expand, stride, se, hs):
        into = net.shape(x)[-1]
        skip, act = int(stride == 1 and into == out), "hard_swish" if hs else "relu"
        mid = expand * into
        kind = f"mbconv_k{kernel}_e{expand}-kernel:{kernel}-stride:{stride}-mid:{mid}-groups:1-se:{mid // 4 * se}"
        with net.block(f"{kind}-activation:{act}-skip:{skip}", f"block_{next(places)}"):
            y = net.conv(net.conv(x, mid, 1, name="expand"), mid, kernel, stride=stride, groups=mid, name="depthwise")
            y = net.conv(y, out, 1, name="project")
            return net.add([x, y]) if skip else y

    return network


def layers(r, ks, e, d):
    net = LayerBuilder((r, r, 3), (), [])
    return net.finish(once_for_all(ks, e, d)(net, None))


def summed(folder, r, ks, e, d):
    """Once-for-all's own rule, straight from its file: every block's mean, by its key."""
    with (folder / f"{r}_lookup_table.yaml").open() as file:
        means = {key: value["mean"] for key, value in yaml.safe_load(file).items()}
    size = -(-r // 2)
    total = means[f"Conv-input:{r}x{r}x3-output:{size}x{size}x24"]
    form = (
        "expanded_conv-input:{0}x{0}x{1}-output:{2}x{2}x{3}-expand:{4}-kernel:{5}-stride:{6}-idskip:{7}-se:{8}-hs:{9}"
    )
    total += means[form.format(size, 24, size, 24, 24, 3, 1, 1, 0, 0)]
    into = 24
    for stage, (out, stride, se, hs) in enumerate(STAGES):
        for i in range(d[stage]):
            at, s = 4 * stage + i, stride if i == 0 else 1
            after = -(-size // s)
            same = int(s == 1 and into == out)
            total += means[form.format(size, into, after, out, e[at] * into, ks[at], s, same, se, hs)]
            size, into = after, out
    total += means[f"Conv_1-input:{size}x{size}x192-output:{size}x{size}x1152"]
    total += means[f"AvgPool2D-input:{size}x{size}x1152-output:1x1x1152"]
    return total + means["Conv_2-input:1x1x1152-output:1x1x1536"] + means["Logits-input:1x1x1536-output:1000"]


def test_the_note10_sums_are_once_for_alls_own(published, tmp_path):
    folder = published("ofa/note10_lut")
    table, dropped = import_blocks("ofa", folder)
    table.save(tmp_path / "note10.json")
    table = load_blocks(tmp_path / "note10.json")
    assert dropped == 0 and len(table.entries) == 17
    rng = np.random.default_rng(0)
    for r in (160, 164, 192, 224):
        for _ in range(3):
            ks, e = rng.choice([3, 5, 7], 20).tolist(), rng.choice([3, 4, 6], 20).tolist()
            d = rng.choice([2, 3, 4], 5).tolist()
            assert table.price(layers(r, ks, e, d)) == pytest.approx(summed(folder, r, ks, e, d), rel=1e-9)


def test_an_image_size_that_the_table_lacks_is_refused(published):
    table, _ = import_blocks("ofa", published("ofa/note10_lut"))
    with pytest.raises(BadInput, match="no images of side 128; it has 160"):
        table.price(layers(128, [3] * 20, [3] * 20, [2] * 5))


SOURCES = {
    "proxylessnas": ("proxylessnas/pixel1_mobile_trim.yaml", None, 72, 0),
    "big_little": ("pipe_proxyless/cifar_tiny_blocks.csv", "cpu_s_ms", 1457, 0),
    "tfnas": ("tfnas/latency_cpu.csv.gz", None, 36_396, 84),
    "nnmeter_phones": ("nnmeter/phone_block_lut.csv.gz", "pixel4_ms", 1800, 0),
    "nnmeter_onnx": ("nnmeter/onnx_block_lut.csv.gz", "latency_ms", 23_604, 0),
}


@pytest.mark.parametrize("form", SOURCES)
def test_published_tables_are_read_whole(published, form):
    name, column, entries, dropped = SOURCES[form]
    table, found = import_blocks(form, published(name), column=column)
    assert (sum(map(len, table.entries.values())), found) == (entries, dropped)
    assert min(v for some in table.entries.values() for v in some.values()) > 0
    assert set(table.facts) <= {part.partition(":")[0] for key in table.entries["any"] for part in key.split("-")}


def test_every_format_has_a_source_here():
    assert {*SOURCES, "ofa"} == set(FORMATS)


# ---- one block ---------------------------------------------------------------------------------------------------
FACTS = {"kernel": 3, "stride": 1, "mid": 48, "skip": 1}


def one_block(mid, kernel=3):
    net = LayerBuilder((8, 8, 16), (), [])
    with net.block(f"mbconv_k3-kernel:{kernel}-stride:1-mid:{mid}-groups:1-se:0-activation:relu-skip:1", "b"):
        x = net.add([net.input, net.conv(net.input, 16, 1)])
    return net.finish(x)


def little(*mids):
    entries = {entry_key("mbconv", (8, 8, 16), (8, 8, 16), {**FACTS, "mid": mid}): mid / 100 + 1 for mid in mids}
    return BlockTable(STAMP, ("kernel", "stride", "mid", "skip"), {"any": entries})


def test_a_missing_width_is_interpolated_between_its_neighbours():
    table = little(16, 48, 96, 160)
    assert table.price(one_block(48)) == pytest.approx(1.48)
    assert table.price(one_block(64)) == pytest.approx(1.64)


@pytest.mark.parametrize(("mid", "kernel"), [(8, 3), (200, 3), (64, 5)])
def test_what_cannot_be_interpolated_is_refused_and_never_zero(mid, kernel):
    with pytest.raises(BadInput, match=f"'mbconv-kernel:{kernel}-stride:1-mid:{mid}-skip:1-input:8x8x16.*nothing"):
        little(16, 48, 96, 160).price(one_block(mid, kernel))


def test_a_space_is_priced_by_the_table():
    def network(net, macro):
        x = net.input
        for name in ("a", "b"):
            with net.scope(name):
                x = net.choice(name, {k: lambda x=x, k=k: block(net, x, k) for k in (16, 32)})
        return x

    def block(net, x, mid):
        with net.block(f"mbconv-kernel:3-stride:1-mid:{mid}-skip:1", "b"):
            return net.add([x, net.conv(x, 16, 1)])

    macro = Macro(16, 1, (8, 8, 16), 2)
    space = SearchSpace("blocks", tuple(Decision(n, (16, 32)) for n in "ab"), network, macro)
    cost = little(16, 32).cost(space, macro)
    np.testing.assert_allclose(cost(np.asarray([[0, 0], [0, 1], [1, 1]])), [2.32, 2.48, 2.64])
    assert cost.stamp.macro["input"] == [8, 8, 16] and cost.stamp.device == "a phone"


# ---- refused -----------------------------------------------------------------------------------------------------
GOOD = "Conv-input:8x8x3-output:4x4x8:\n  {count: 1, mean: 0.5, std: 0.1}\n"
BAD = {
    "code": ("Conv: !!python/object/apply:os.system [touch hacked]\n", "line 1: not the plain YAML of a latency table"),
    "a tag": ("Conv: !thing 1\n", "not the plain YAML"),
    "half a file": (GOOD + "Conv_1: {count: 1, me", "not the plain YAML"),
    "a list": ("- 1\n- 2\n", "it maps a block's key"),
    "no mean": ("Conv-input:8x8x3-output:4x4x8: {count: 1}\n", "it maps a block's key"),
    "words": ("Conv-input:8x8x3-output:4x4x8: {mean: fast}\n", "it maps a block's key"),
    "another key": ("Convolution 3x3: {mean: 1.0}\n", "is no key of a block"),
    "seconds": (GOOD.replace("0.5", "0.00005"), "say with --unit"),
    "nothing above zero": (GOOD.replace("0.5", "-0.5"), "holds no entry of format proxylessnas"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_table_is_refused_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.yaml").write_text(BAD[name][0])
    with pytest.raises(BadInput, match=re.escape(BAD[name][1])) as raised:
        import_blocks("proxylessnas", tmp_path / "t.yaml")
    assert "\n" not in str(raised.value) and not (tmp_path / "hacked").exists()


def test_seconds_are_read_as_seconds_where_a_person_says_so(tmp_path):
    (tmp_path / "t.yaml").write_text(GOOD.replace("0.5", "0.0005"))
    table, _ = import_blocks("proxylessnas", tmp_path / "t.yaml", unit="s", device="mine")
    assert list(table.entries["any"].values()) == [pytest.approx(0.5)] and table.stamp.device == "mine"


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ("onnx", {}, "no format 'onnx'"),
        ("big_little", {}, "say which device with --column"),
        ("big_little", {"column": "gpu"}, "did you mean 'gpu_ms'"),
        ("proxylessnas", {"unit": "mj"}, "no unit of latency"),
        ("ofa", {}, "no folder of once-for-all tables"),
        ("proxylessnas", {}, "cannot be read"),
    ],
)
def test_wrong_calls_are_refused(tmp_path, form, options, message):
    with pytest.raises(BadInput, match=message):
        import_blocks(form, tmp_path / "nothing", **options)
