"""What workers leave for the driver: results, and who is to blame for a worker that died."""

import pytest

from nas.handover import MAX_BEGUN, Results


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "results")


@pytest.mark.parametrize(
    ("begun_on", "standing", "blamed"),
    [
        ("", "ab", False),  # its worker died before it began
        ("a", "ab", False),
        ("aa", "ab", True),
        ("ab", "ab", True),
        ("aa", "b", False),  # one worker was killed, and then the node went with the other
        ("ab", "b", False),
        ("aabb", "b", True),
        ("a" * MAX_BEGUN, "b", True),  # nodes may go, but not for ever
    ],
)
def test_a_candidate_is_to_blame_for_two_workers_that_died_on_nodes_which_stand(results, begun_on, standing, blamed):
    for node in begun_on:
        results.begun(7, on=node)
    assert results.begun(7) == list(begun_on) and results.begun(8) == []
    assert results.to_blame(7, standing.__contains__) is blamed


def test_a_new_driver_counts_anew(results):
    for _ in range(2):
        results.begun(3, on="a")
    results.write(3, {"accuracy": 0.5})
    results.begin()
    assert results.begun(3) == [] and results.read() == {3: {"accuracy": 0.5}}


def test_what_is_no_result_is_left_out(results):
    results.write(1, {"accuracy": 0.5})
    for name, text in {
        "2": "{",
        "3": '{"accuracy": "high"}',
        "4": '{"accuracy": null}',
        "x": '{"accuracy": 1}',
    }.items():
        (results.folder / f"{name}.json").write_text(text)
    assert results.read() == {1: {"accuracy": 0.5}}
