"""Matrices of layers by options, against sums by hand of the published ones."""

import numpy as np
import pytest

from hw_models.grid_table import grid_cost
from nas.cost import load_cost
from nas.errors import BadInput
from search_spaces import fbnet, nasbench201

FBNET = fbnet()
ABOUT = dict(quantity="latency", factor=1e3, device="a board")


@pytest.mark.parametrize("file, quantity", [("rpi_speed.txt", "latency"), ("new_rpi_energy.txt", "energy")])
def test_a_raspberry_pi_costs_what_its_rows_add_up_to(published, tmp_path, file, quantity):
    path = published(f"rpi3_fbnet/{file}")
    cost = grid_cost(path, FBNET, FBNET.macro, **ABOUT | {"quantity": quantity})
    cost.save(tmp_path / "pi.json")
    cost, figures = load_cost(tmp_path / "pi.json", FBNET), np.loadtxt(path)
    rows = np.random.default_rng(0).integers(0, 9, (20, 22))
    np.testing.assert_allclose(cost(rows), 1e3 * figures[np.arange(22), rows].sum(1), rtol=1e-12)
    assert cost.column == f"{quantity}_{'ms' if quantity == 'latency' else 'mj'}"


def test_commas_comments_and_blank_lines(tmp_path):
    space = nasbench201()
    (tmp_path / "a.csv").write_text("# ms\n\n" + "0,1,2,3,4\n" * 6)
    cost = grid_cost(tmp_path / "a.csv", space, space.macro, **ABOUT | {"factor": 1.0})
    assert cost(np.asarray([[0, 1, 2, 3, 4, 4]]))[0] == 14


BAD = {
    "rows": ("1 2 3 4 5\n" * 5, "has 5 rows; space 'nasbench201' has 6 decisions"),
    "columns": ("1 2 3 4 5\n" * 5 + "1 2 3 4\n", "row 6: has 4 figures"),
    "words": ("1 2 3 4 x\n" * 6, "row 1: holds what is no number"),
    "negative": ("1 2 3 4 -5\n" * 6, "zero or above"),
    "nan": ("1 2 3 4 nan\n" * 6, "zero or above"),
    "binary": (b"\xff\xfe\x00", "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(name, tmp_path):
    text, says = BAD[name]
    path = tmp_path / "a.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput, match=says):
        grid_cost(path, nasbench201(), nasbench201().macro, **ABOUT)
