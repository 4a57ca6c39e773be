"""Broken and hostile files: every reader accepts or refuses in one line, and does nothing else."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from experiments.fuzz import Fault, attempt, changed, fuzz
from experiments.fuzz_readers import Reader, readers
from nas.errors import BadInput


@pytest.fixture(scope="module")
def all_readers(tmp_path_factory):
    return readers(tmp_path_factory.mktemp("fuzz"))


def test_every_reader_accepts_its_honest_file(all_readers):
    for reader in all_readers:
        reader.read()


def test_mutants_are_accepted_or_refused_in_one_line(all_readers):
    refused = 0
    for reader in all_readers:
        counts, _ = fuzz(reader, 2 * reader.share)
        refused += counts["refused"]
    assert refused > 100


@pytest.mark.slow
def test_ten_thousand_mutants():
    done = subprocess.run([sys.executable, "-m", "experiments.fuzz"], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert int(done.stdout.splitlines()[-1].split()[1]) >= 9_000  # of small files few mutants are distinct


# ---- what the harness must see, or the tests above could not fail ----------------------------------------------------
def reading(path, read):
    path.write_bytes(b"x")
    return Reader("made up", path, lambda: read(path))


def fails(path):
    raise KeyError("a")


def refuses_in_two_lines(path):
    error = BadInput("one")
    error.args = ("one\ntwo",)
    raise error


def spins(path):
    while True:
        pass


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda path: path.with_suffix(".new").write_text("x"), "for writing"),
        (lambda path: path.with_suffix(".d").mkdir(), "os.mkdir"),
        (lambda path: os.system("true"), "os.system"),
        (lambda path: subprocess.run(["true"]), "subprocess.Popen"),
        (lambda path: pickle.loads(pickle.dumps(np.float32)), "pickle.find_class"),
        (spins, "processor time"),
        (refuses_in_two_lines, "other than one line"),
    ],
)
def test_the_harness_sees_what_no_reader_may_do(tmp_path, monkeypatch, read, says):
    monkeypatch.setattr("experiments.fuzz.SECONDS", 0.2)
    with pytest.raises(Fault, match=says):
        attempt(reading(tmp_path / "file", read), b"x")


def test_the_harness_hands_on_other_exceptions(tmp_path):
    with pytest.raises(KeyError):
        attempt(reading(tmp_path / "file", fails), b"x")


def test_what_falls_is_made_small(tmp_path):
    def read(path):
        if b"!" in path.read_bytes():
            raise KeyError("an exclamation mark")

    reader = reading(tmp_path / "file", read)
    reader.path.write_bytes(b"a=1, b=2" * 10)
    with pytest.raises(KeyError):
        fuzz(reader, 2000)
    assert reader.path.read_bytes().count(b"!") <= 2


def test_edits_of_json_change_one_value_and_keep_it_json():
    import json

    seen = {json.dumps(json.loads(changed(b'{"a": {"b": [1, 2]}}', ("value", place, 3)))) for place in range(5)}
    assert '{"a": {"b": [0, 2]}}' in seen and '{"a": 0}' in seen and "0" in seen
