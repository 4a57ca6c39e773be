"""Real processes, real kills: no finished trial is lost, and none is counted twice."""

import subprocess
import sys

import pytest


def chaos(*words):
    command = [sys.executable, "-m", "experiments.chaos", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    rows = [line for line in done.stdout.splitlines() if line.split()]
    return done.returncode, rows[0].split(), [row[24:].split() for row in rows[1:]], done.stderr


@pytest.mark.slow
def test_a_generation_survives_the_death_of_a_worker_and_of_the_raylet():
    code, head, rows, err = chaos("--kills", 2, "--strategies", "evolution, generational")
    assert not code, err
    found = dict(zip(head[1:], map(int, rows[0]), strict=True))
    assert found["lost"] == found["twice"] == found["failed"] == found["differ"] == 0
    assert found["worker"] == found["raylet"] == 1


@pytest.mark.slow
def test_a_hundred_kills_over_four_strategies_lose_nothing():
    code, _, rows, err = chaos("--kills", 100)
    assert not code and len(rows) == 4, err
