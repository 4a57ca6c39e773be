"""The mobile block space: what its frames, decisions and block keys promise."""

import csv
import gzip

import jax
import numpy as np
import pytest

from nas.errors import BadInput
from nas.layers import counts, parse_block
from nas.space import Macro
from search_spaces import fbnet, mnasnet, mobile, nas_bench_macro, proxylessnas
from search_spaces.mobile import Frame, Stage, mobile_space, strides_for
from search_spaces.mobile_blocks import divisible, named_block
from search_spaces.mobile_families import from_digits, to_digits
from search_spaces.mobile_named import FRAMES, named

KEY = jax.random.key(0)
SMALL = Macro(8, 1, (16, 16, 3), 10)


def blocks(layers):
    """Block keys in order, each once."""
    return list({layer.scope: parse_block(layer.block) for layer in layers if layer.block}.values())


def one_stage(per="layer", fixed=None, **options):
    return mobile_space(
        "toy", Frame(8, (Stage(16, 3, 1, fixed or {}, options),), 16), per=per, macro=Macro(8, 1, (8, 8, 3), 10)
    )


# ---- frames ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "size, strides",
    [
        (224, [2, 1, 2, 2, 2, 1, 2, 1]),
        (96, [2, 1, 2, 2, 2, 1, 2, 1]),
        (32, [1, 1, 1, 2, 2, 1, 2, 1]),  # HW-NAS-Bench's for CIFAR
        (8, [1, 1, 1, 1, 1, 1, 2, 1]),
        (2, [1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_small_images_lose_the_first_strides(size, strides):
    frame = Frame(16, tuple(Stage(8, 4, s) for s in (1, 2, 2, 2, 1, 2, 1)), 64)
    assert strides_for(frame, (size, size, 3)) == strides


def test_the_width_multiplies_all_channels_in_eights():
    space, row = named("mobilenet_v2")
    half = [key.output[-1] for key in blocks(space.layers(row, Macro(16, 1, (224, 224, 3), 10)))]
    assert half[:5] == [16, 8, 16, 16, 16] and half[-2:] == [640, 10]
    assert divisible(12) == 16 and divisible(11) == 16 and divisible(8.8) == 8 and divisible(1) == 8


def test_depth_is_not_the_macros():
    with pytest.raises(BadInput, match="depth is 2"):
        nas_bench_macro().layers([0] * 8, Macro(32, 2, (32, 32, 3), 10))


# ---- decisions ---------------------------------------------------------------------------------------------------
def test_any_property_may_be_a_decision():
    options = dict(
        block=("mbconv", "conv"),
        kernel=(3, 7),
        expand=(2, 4),
        se=(0, 0.5),
        activation=("relu", "swish"),
        skip=("identity", "none"),
        channels=(8, 24),
        layers=(1, 3),
    )
    space = one_stage("stage", **options)
    assert {d.name.removeprefix("stage_0_"): d.options for d in space.decisions} == options
    every = {f"stage_0_{name}": values[1] for name, values in options.items()}
    found = blocks(space.layers(space.encode({**every, "stage_0_block": "mbconv"})))[1:-2]
    assert [key.kind for key in found] == ["mbconv_k7_e4_se"] * 3
    assert [key.attributes["activation"] for key in found] == ["swish"] * 3
    assert [key.attributes["skip"] for key in found] == [0] * 3
    assert [key.output for key in found] == [(4, 4, 24)] * 3
    full = blocks(space.layers(space.encode(every)))[1:-2]
    assert [key.kind for key in full] == ["conv_k7_se"] * 3


def test_layers_that_are_not_there_choose_nothing():
    space = one_stage("layer", layers=(1, 3), kernel=(3, 5))
    assert [d.name for d in space.decisions] == ["stage_0_layers", *(f"layer_{i}_kernel" for i in range(3))]
    rows = np.asarray(space.sample(KEY, 200))
    short = rows[rows[:, 0] == 0]
    assert (short[:, 2:] == 0).all() and short[:, 1].any() and rows[rows[:, 0] == 1][:, 2:].any()
    assert len(blocks(space.layers([0, 1, 0, 0]))) == len(blocks(space.layers([1, 1, 0, 0]))) - 2
    with pytest.raises(BadInput, match="not allowed"):
        space.check([0, 0, 1, 0])


def test_squeeze_and_excitation_counts_as_in_the_papers():
    def more(style, **own):
        with_, without = (
            mobile_space(
                "toy",
                Frame(16, (Stage(24, 1, 1, {"expand": 4, "se": se}, {"kernel": (3, 5)}),), 16, **style),
                macro=Macro(16, 1, (8, 8, 3), 10),
            )
            for se in (0.25, 0)
        )
        return counts(with_.layers([0])).params - counts(without.layers([0])).params

    mid = 4 * 16
    for squeezed, style in ((16, {}), (4, {"style": FRAMES["efficientnet_b0"].style})):
        assert more(style) == mid * squeezed + squeezed + squeezed * mid + mid


@pytest.mark.parametrize(
    "name, properties",
    [
        ("k3_e1_g2", {"op": "mbconv", "kernel": 3, "expand": 1, "groups": 2}),
        ("mbconv_e6", {"op": "mbconv", "expand": 6}),
        ("conv_k5_se0.25", {"op": "conv", "kernel": 5, "se": 0.25}),
        ("sep_conv", {"op": "mbconv", "expand": 1}),
        ("skip", {"op": "identity"}),
    ],
)
def test_block_names_set_properties(name, properties):
    assert named_block(name) == properties


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda: mobile("mobilenet_v4"), "mobilenet_v3"),
        (lambda: mobile(kernel=[4]), "kernel 4"),
        (lambda: mobile(kernel="3"), "list"),
        (lambda: mobile(activation=["relu7"]), "relu7"),
        (lambda: mobile(se=[2]), "se 2"),
        (lambda: mobile(per="network"), "per"),
        (lambda: mobile(most_layers=0), "most_layers"),
        (lambda: mobile(channels=[True]), "channels"),
        (lambda: mobile(channels=[-1]), "channels"),
        (lambda: mobile(layers=[0.5]), "layers"),
        (lambda: mnasnet(stages=8), "stages"),
        (lambda: fbnet(blocks=["k3_e"]), "k3_e"),
        (lambda: fbnet(blocks=["k3_x2"]), "k3_x2"),
        (lambda: fbnet(blocks=["skip", "skip"]), "different"),
        (lambda: one_stage(layers=(0, 1)), "layers"),
        (lambda: from_digits("1-2", fbnet()), "22 whole numbers"),
        (lambda: from_digits("-".join(["9"] * 22), fbnet()), "0 to 8"),
        (lambda: from_digits("1-x", fbnet()), "whole numbers"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, word):
    with pytest.raises(BadInput, match=word) as refused:
        make()
    assert "\n" not in str(refused.value)


# ---- block keys --------------------------------------------------------------------------------------------------
def test_block_keys_hold_what_latency_tables_are_looked_up_by():
    space, row = named("mobilenet_v3_large")
    found = blocks(space.layers(row))
    assert [key.kind for key in found if not key.kind.startswith("mbconv")] == [
        *("stem", "final_conv", "pool", "feature_mix", "logits"),
    ]
    fifth = found[4]
    assert (fifth.kind, fifth.inputs, fifth.output) == ("mbconv_k5_e3_se", ((56, 56, 24),), (28, 28, 40))
    wanted = dict(kernel=5, stride=2, mid=72, groups=1, se=24, activation="relu", skip=0)
    assert fifth.attributes == wanted
    assert found[6].attributes | dict(skip=1) == found[6].attributes


def test_every_layer_but_the_input_is_in_a_block():
    for space in (fbnet(), proxylessnas(), mnasnet(), nas_bench_macro()):
        for row in np.random.default_rng(0).integers(0, space.cardinalities, (3, space.length)):
            assert all(layer.block for layer in space.layers(row, SMALL)[1:])


def test_keys_of_equal_blocks_are_equal_and_of_others_not():
    space = mnasnet()
    seen: dict = {}
    for row in np.random.default_rng(0).integers(0, space.cardinalities, (20, space.length)):
        layers = space.layers(row, SMALL)
        scopes: dict = {}
        for layer in layers[1:]:
            scopes.setdefault((layer.scope, layer.block), []).append(
                (layer.op, str(layer.attributes), layer.output_shape)
            )
        for (_, block), own in scopes.items():
            assert seen.setdefault(block, own) == own


# ---- tables of latencies -----------------------------------------------------------------------------------------
def by_once_for_all(key, expand):
    """The key under which once-for-all's and ProxylessNAS's tables have a block."""
    flat = ["x".join(map(str, (1, 1, *shape)[-3:])) for shape in (key.inputs[0], key.output)]
    if not key.kind.startswith("mbconv"):
        names = dict(stem="Conv", final_conv="Conv_1", pool="AvgPool2D", feature_mix="Conv_2", logits="Logits")
        out = str(key.output[-1]) if key.kind in ("logits", "head") else flat[1]
        return f"{(names | {'head': 'Logits'})[key.kind]}-input:{flat[0]}-output:{out}"
    a = key.attributes
    found = f"expanded_conv-input:{flat[0]}-output:{flat[1]}-expand:{expand(key)}-kernel:{a['kernel']}"
    return f"{found}-stride:{a['stride']}-idskip:{a['skip']}"


def keys_of(path):
    return {line.rstrip(":") for line in path.read_text().splitlines() if not line.startswith(" ")}


def test_every_block_of_proxylessnas_is_in_its_table(published):
    table, space = keys_of(published("proxylessnas/pixel1_mobile_trim.yaml")), proxylessnas()
    for row in np.random.default_rng(0).integers(0, space.cardinalities, (20, space.length)):
        for key in blocks(space.layers(row)):
            ratio = lambda key: key.attributes["mid"] // key.inputs[0][-1]  # noqa: E731
            assert by_once_for_all(key, ratio) in table


def test_every_block_of_once_for_all_is_in_its_table(published):
    table = keys_of(published("ofa/note10_lut/224_lookup_table.yaml"))
    hard, se = {"activation": "hard_swish"}, {"se": 0.25}
    options = {"kernel": (3, 5, 7), "expand": (3, 4, 6)}
    plan = ((32, 2, {}), (48, 2, se), (96, 2, hard), (136, 1, hard | se), (192, 2, hard | se))
    frame = Frame(
        24,
        (Stage(24, 1, 1, {"expand": 1}), *(Stage(c, 4, s, fixed, options) for c, s, fixed in plan)),
        head=1152,
        features=1536,
        activation="hard_swish",
    )
    space = mobile_space("toy", frame, macro=Macro(24, 1, (224, 224, 3), 1000))
    seen = set()
    for row in np.random.default_rng(0).integers(0, space.cardinalities, (60, space.length)):
        for key in blocks(space.layers(row)):
            name = by_once_for_all(key, lambda key: key.attributes["mid"])
            if key.kind.startswith("mbconv"):
                a = key.attributes
                name += f"-se:{int(a['se'] > 0)}-hs:{int(a['activation'] == 'hard_swish')}"
            assert name in table
            seen.add(name)
    assert seen == table, "and the table has no others"


# ---- rows of tables ----------------------------------------------------------------------------------------------
def test_fbnet_reads_helps_rows(published):
    space = fbnet()
    with gzip.open(published("help/fbnet_latency.csv.gz"), "rt") as file:
        texts = [line["op_idx"] for line in csv.DictReader(file)]
    rows = np.stack([from_digits(text, space) for text in texts[:100]])
    assert [to_digits(row) for row in rows] == texts[:100]
    assert space.decode(rows[0])["layer_2_block"] == "k3_e1_g2" and texts[0].startswith("7-8-1-8")


def test_a_skip_of_equal_shape_is_no_layer():
    space = fbnet()
    skips = [8] * 22
    kinds = [key.kind for key in blocks(space.layers(skips))]
    assert kinds == ["stem", *["conv_k1"] * 6, "final_conv", "head"], "one 1x1 convolution where the shape changes"
    assert counts(space.layers(skips)).params == sum(
        (
            *(3 * 9 * 16 + 2 * 16, 352 * 1504 + 2 * 1504, 1504 * 100 + 100),
            *(a * b + 2 * b for a, b in ((16, 24), (24, 32), (32, 64), (64, 112), (112, 184), (184, 352))),
        )
    )


def test_proxylessnas_leaves_layers_out_where_the_shape_stays():
    space = proxylessnas()
    assert space.length == 21
    assert [i for i, d in enumerate(space.decisions) if "skip" not in d.options] == [0, 4, 8, 12, 16, 20]


def test_a_stage_of_mnasnet_has_432_choices():
    sizes = {d.name: len(d.options) for d in mnasnet().decisions}
    assert np.prod([size for name, size in sizes.items() if name.startswith("stage_3_")]) == 432
