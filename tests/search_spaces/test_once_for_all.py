import csv
import json

import jax
import numpy as np
import pytest

from nas.errors import BadInput
from nas.layers import counts
from search_spaces import ofa_resnet
from search_spaces.once_for_all import STAGES, from_encoding, ofa_mbv3, to_encoding


def test_published_networks_have_their_published_multiply_accumulates(published):
    """The networks that were specialised for FLOPs; their names say 389, 482 and 595 million."""
    with open(published("ofa/specialized_networks.csv")) as file:
        networks = [r for r in csv.DictReader(file) if r["device"] == "flops"]
    assert len(networks) == 3
    for network in networks:
        side = int(network["image_size"])
        space = ofa_mbv3(1.2, (side,))
        ks, e, d = [3] * 20, [3] * 20, [0] * 5
        stage, before = -1, None
        for source, mid, channels, kernel, *_ in json.loads(network["blocks"])[1:]:  # the first block is fixed
            stage, before = stage + (channels != before), channels
            ks[4 * stage + d[stage]], e[4 * stage + d[stage]] = kernel, round(mid / source)
            d[stage] += 1
        row = from_encoding({"ks": ks, "e": e, "d": d, "r": side}, space)
        assert round(counts(space.layers(row)).macs / 1e6) == float(network["mflops"])


def test_an_encoding_says_the_same_network():
    space = ofa_mbv3(1.0, (128, 160))
    for row in np.asarray(space.sample(jax.random.key(0), 20)):
        encoding = to_encoding(row, space)
        assert (from_encoding(encoding, space) == row).all()
        # once-for-all keeps some kernel and ratio for layers that are not there; they mean nothing
        for s in range(len(STAGES)):
            for i in range(4 * s + encoding["d"][s], 4 * s + 4):
                encoding["ks"][i], encoding["e"][i] = 7, 6
        assert (from_encoding(encoding, space) == row).all()


def test_a_smaller_resolution_costs_less_and_keeps_its_weights():
    space = ofa_mbv3(1.0, (128, 224))
    small, large = (counts(space.layers(np.asarray([r] + [0] * (space.length - 1)))) for r in (0, 1))
    assert small.params == large.params and small.macs < 0.4 * large.macs


@pytest.mark.parametrize(
    "change, word",
    [({"ks": [3]}, "'ks' must hold 20"), ({"r": 144}, "resolution"), ({"d": [2, 2, 2, 2, 5]}, "layers")],
)
def test_bad_encodings_are_refused_in_one_line(change, word):
    space = ofa_mbv3(1.0, (128,))
    good = to_encoding(np.zeros(space.length, np.int32), space)
    with pytest.raises(BadInput, match=word):
        from_encoding({**good, **change}, space)


@pytest.mark.parametrize("arguments", [{"width": 0}, {"width": "wide"}, {"resolutions": []}, {"resolutions": [4]}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(BadInput):
        ofa_mbv3(**arguments)


def test_the_elastic_resnet_holds_resnet50():
    """Torchvision's has 25,557,032 parameters; its stem is a 7x7 convolution where ours is 3x3."""
    space = ofa_resnet()
    choices = {d.name: d.options[-1] for d in space.decisions}
    choices |= {d.name: 0.25 for d in space.decisions if d.name.endswith("expand")}
    choices |= {"stage_0_layers": 3, "stage_3_layers": 3} | {"layer_3_expand": 0.2, "layer_17_expand": 0.2}
    assert counts(space.layers(space.encode(choices))).params == 25_557_032 - 3 * 64 * (49 - 9)


@pytest.mark.parametrize(
    "arguments", [{"channels": [64]}, {"fewer": [4]}, {"multipliers": [0]}, {"ratios": []}, {"layers": [2, 2, 2]}]
)
def test_bad_resnets_are_refused_in_one_line(arguments):
    with pytest.raises(BadInput) as caught:
        ofa_resnet(**arguments)
    assert "\n" not in str(caught.value)
