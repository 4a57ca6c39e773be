"""Choices that nobody reads, against a walk back from the output of the network itself."""

from dataclasses import replace

import numpy as np
import pytest

from nas.cost import Cost, Factor, Stamp, sample_rows
from nas.errors import BadInput
from nas.space import Decision, Macro, all_rows
from nas.unread import can_leave_out, leave_out, without_unread
from search_spaces import SPACES
from search_spaces.nasbench201 import EDGES, nasbench201

SPACE = nasbench201(width=4, depth=1)
STAMP = Stamp("latency", "ms", "", "", 1, "", {}, "")


def reached(row):
    """Names of the decisions of the first cell whose operation's layers lead to the network's output."""
    layers = SPACE.layers(row, Macro(4, 1, (8, 8, 3), 10))
    seen, todo = set(), [len(layers) - 1]
    while todo:
        at = todo.pop()
        if at not in seen:
            seen.add(at)
            todo += layers[at].inputs
    found = {tuple(layers[at].name.split(".")) for at in seen}
    return {i for i, (a, b) in enumerate(EDGES) if any(f"edge_{a}_{b}" in name for name in found)}


def test_what_is_left_is_what_leads_to_the_output():
    rows = sample_rows(SPACE, 300)
    left = without_unread(SPACE, rows)
    cut = (left != rows).any(1)
    assert 50 < cut.sum() < 250
    for row, kept in zip(rows, left, strict=True):
        # a skip connection has no layer, and none gives zeros that are nobody's work
        works = {i for i in range(6) if SPACE.decisions[i].options[row[i]] not in ("none", "skip_connect")}
        assert reached(row) & works == {i for i in works if kept[i] == row[i]}
    np.testing.assert_array_equal(without_unread(SPACE, left), left)


def test_tables_that_leave_out_price_a_row_as_what_is_left_of_it():
    random = np.random.default_rng(0)
    sizes = SPACE.cardinalities
    factors = [Factor((i,), random.random(sizes[i])) for i in range(6)]
    factors += [Factor((i, j), random.random((sizes[i], sizes[j]))) for i, j in ((0, 3), (1, 5), (2, 4), (3, 5))]
    wide = Cost(STAMP, 1.0, leave_out(SPACE, factors))
    rows = sample_rows(SPACE, 1000)
    np.testing.assert_allclose(wide(rows), Cost(STAMP, 1.0, tuple(factors))(without_unread(SPACE, rows)), rtol=1e-12)
    assert wide.least == pytest.approx(wide(all_rows(SPACE)).min(), rel=1e-12)
    sets = [set(f.decisions) for f in wide.factors]
    assert not any(a < b for a in sets for b in sets)


def test_only_small_spaces_have_tables_over_readers():
    assert can_leave_out(SPACE) and not can_leave_out(SPACES["darts"]())
    more = tuple(Decision(f"more_{i}", (0, 1)) for i in range(2))
    wide = replace(SPACE, decisions=SPACE.decisions + more, readers=(*SPACE.readers, (), ()))
    assert not can_leave_out(wide)


@pytest.mark.parametrize("readers", [((1,),), ((0,), *[()] * 5), (*[()] * 5, (6,)), ((-1,), *[()] * 5)])
def test_readers_come_after_what_they_read(readers):
    with pytest.raises(BadInput, match=r"readers of decision 'edge_.*' are "):
        replace(SPACE, readers=readers)
