import jax
import numpy as np
import pytest
import yaml

from hw_models.readers import import_blocks
from nas.errors import BadInput
from search_spaces.once_for_all import ofa_mbv3, to_encoding


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
    table = import_blocks("ofa", folder)[0]
    texts = {r: yaml.safe_load((folder / f"{r}_lookup_table.yaml").read_text()) for r in (160, 208)}
    for row in np.asarray(space.sample(jax.random.key(0), 20)):
        own = to_encoding(row, space)
        wanted = summed(texts[own["r"]], own["ks"], own["e"], own["d"], own["r"], 1.2)
        assert table.price(space.layers(row)) == pytest.approx(wanted, rel=1e-9)


def test_the_cost_of_a_space_is_the_price_of_its_networks(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    space = ofa_mbv3(1.2, (160, 224), kernels=(3, 7), expands=(3, 6), depths=(2, 4))
    table = import_blocks("ofa", folder)[0]
    cost = table.cost(space, space.macro)
    rows = np.asarray(space.sample(jax.random.key(1), 10))
    np.testing.assert_allclose(cost(rows), [table.price(space.layers(r)) for r in rows], rtol=1e-9)
    again = table.cost(space, space.macro)  # from the cache
    assert (again(rows) == cost(rows)).all() and again.stamp == cost.stamp


def test_other_resolutions_and_widths_are_refused(folder):
    table = import_blocks("ofa", folder)[0]
    for space, word in ((ofa_mbv3(1.2, (128,)), "no images of side 128"), (ofa_mbv3(1.0, (160,)), "not in the table")):
        with pytest.raises(BadInput, match=word):
            table.price(space.layers(np.zeros(space.length, np.int32)))
