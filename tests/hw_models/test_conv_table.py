"""Profiles of single convolutions, against hand-made profiles, sums by hand and the published file itself."""

import numpy as np
import pytest

from experiments.tables import read_csv
from hw_models.conv_table import Kind, read_profile
from nas.errors import BadInput
from nas.space import Macro
from search_spaces import nasbench201

PLAIN = Kind(False, 3, 1)


def time_of(into, out, side):
    return 1e-6 * side**2 * (into * out) ** 0.5


def profile(**changes):
    """3x3 and 1x1 convolutions on a grid of sizes whose time is a power of each."""
    rows = [
        (kernel, into, out, side)
        for kernel in (1, 3)
        for into in (8, 16, 32, 64)
        for out in (8, 16, 32, 64)
        for side in (4, 8, 16, 32)
    ]
    kernel, into, out, side = zip(*rows, strict=True)
    columns = {"precision": ["fp32"] * len(rows), "conv_type": ["Regular"] * len(rows), "batch": ["1"] * len(rows)}
    columns |= {"in_ch": list(map(str, into)), "out_ch": list(map(str, out)), "in_h": list(map(str, side))}
    columns |= {"in_w": columns["in_h"], "kernel": list(map(str, kernel)), "stride": ["1"] * len(rows)}
    columns |= {"elmt_fused": ["0"] * len(rows), "latency_ms": [str(time_of(*row[1:])) for row in rows]}
    return {**columns, **changes}


def table(**changes):
    return read_profile(profile(**changes), "profile.csv", "fp32", 1, "a card")


def test_between_its_sizes_a_power_law_is_found_again():
    for sizes in ((8, 64, 16), (12, 20, 11), (48, 8, 27), (24, 24, 5)):
        assert table().conv(PLAIN, sizes) == pytest.approx(time_of(*sizes), rel=1e-6)
    assert np.max(table().held_out(50)) < 1e-6


def test_a_network_costs_the_sum_of_its_convolutions():
    space = nasbench201(width=8, depth=1)
    macro = Macro(8, 1, (32, 32, 16), 10)
    twos = profile()
    for name in twos:  # strided convolutions as well, at half the time
        twos[name] = twos[name] * 2
    half = len(twos["stride"]) // 2
    twos["stride"] = ["1"] * half + ["2"] * half
    twos["latency_ms"] = twos["latency_ms"][:half] + [str(float(t) / 2) for t in twos["latency_ms"][half:]]
    known = read_profile(twos, "profile.csv", "fp32", 1, "a card")
    cost = known.cost(space, macro)
    for row in np.asarray([[3] * 6, [2, 0, 1, 4, 3, 2], [1] * 6]):
        convs = [x for x in space.layers(row, macro) if x.op == "conv"]
        by_hand = sum(
            time_of(x.input_shapes[0][2], x.attributes["features"], x.input_shapes[0][0]) / x.attributes["stride"][0]
            for x in convs
        )
        assert cost(row[None])[0] == pytest.approx(by_hand, rel=1e-5)
    assert "convolutions alone" in cost.stamp.source


@pytest.mark.parametrize("precision, batch", [("fp16", 1), ("int8", 32)])
def test_the_published_profile_stands_as_it_is_and_predicts_itself(published, precision, batch):
    columns = read_csv(published("v100_conv/v100_trt_conv.csv.gz"))
    known = read_profile(columns, "v100.csv", precision, batch, "NVIDIA V100")
    names = ("precision", "batch", "elmt_fused", "conv_type", "in_ch", "out_ch", "in_h", "kernel", "stride")
    wanted = zip(*(columns[name] for name in (*names, "latency_ms")), strict=True)
    some = [row for row in wanted if row[:3] == (precision, str(batch), "0")][::997]
    for *_, kind, into, out, side, kernel, stride, ms in some:
        found = known.conv(Kind(kind == "Depthwise", int(kernel), int(stride)), (int(into), int(out), int(side)))
        assert found == pytest.approx(float(ms), rel=1e-9)
    assert len(some) > 10 and np.median(known.held_out()) < 0.08


BAD = {
    "far": (lambda: table().conv(PLAIN, (512, 8, 8)), "near 512 to 8 channels"),
    "kernel": (lambda: table().conv(Kind(False, 7, 1), (8, 8, 8)), "kernel 7"),
    "depthwise": (lambda: table().conv(Kind(True, 3, 1), (8, 8, 8)), "depthwise"),
    "precision": (lambda: read_profile(profile(), "p.csv", "fp23", 1, "x"), "did you mean 'fp32'"),
    "batch": (lambda: read_profile(profile(), "p.csv", "fp32", 2, "x"), "no batch 2"),
    "negative": (lambda: table(latency_ms=["-1"] * 128), "above zero"),
    "no side": (lambda: table(in_h=["0"] * 128, in_w=["0"] * 128), "above zero"),
    "nan": (lambda: table(batch=["nan"] * 128), "'batch' holds what is not finite"),
    "words": (lambda: table(kernel=["three"] * 128), "'kernel' holds what is no number"),
    "column": (lambda: read_profile({"precision": ["fp32"]}, "p.csv", "fp32", 1, "x"), "no column 'conv_type'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(name):
    call, says = BAD[name]
    with pytest.raises(BadInput, match=says):
        call()
