"""A disk that fills up or is read-only, on a small file system of its own: one line, and nothing finished is lost."""

import json
import shutil
import subprocess
import sys

import pytest

CHILD = """
import json, pathlib, subprocess, sys
from nas.errors import BadInput
from nas.evaluate import function
from nas.search import search as local
from search_spaces import nasbench201
from strategies import random_search

space, disk = nasbench201(), pathlib.Path(sys.argv[1])
score = lambda choices: sum(v == "nor_conv_3x3" for v in choices.values()) / 6

def search(out, resume=False):
    try:
        return [t.row.tolist() for t in local(
            space, random_search(space), function(score, space), trials=60, out=out, resume=resume).trials]
    except BadInput as error:
        return str(error)

def remount(how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)

(disk / "filler").write_bytes(b"x" * 2**15)
found = {"whole": search(None), "full": search(disk / "run"), "still full": search(disk / "run", resume=True)}
journal = (disk / "run" / "journal.jsonl").read_text()
found["written"] = [json.loads(line) for line in journal.splitlines(keepends=True) if line.endswith("\\n")]
(disk / "filler").unlink()
found["resumed"] = search(disk / "run", resume=True)
found["after"] = [json.loads(line) for line in (disk / "run" / "journal.jsonl").read_text().splitlines()]
remount("ro")
found["read-only"] = search(disk / "other")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    # in a name space of its own the mount ends with the process, whatever becomes of it
    space = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=48k disk "$0" && exec "$@"']
    if shutil.which("unshare") is None or subprocess.run([*space, disk, "true"], capture_output=True).returncode:
        pytest.skip("a file system of our own cannot be mounted here")
    command = [*space, disk, sys.executable, "-c", CHILD, disk]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_full_disk_is_one_line_and_what_finished_before_is_not_lost(found):
    for when in ("full", "still full"):
        assert "cannot be written (No space left on device)" in found[when], found[when]
    assert found["resumed"] == found["whole"]
    assert found["after"][: len(found["written"])] == found["written"]
    finished = [e["id"] for e in found["after"] if e["event"] == "finished"]
    assert sorted(finished) == list(range(60)) and 5 < len(found["written"]) < len(found["after"])


def test_a_read_only_folder_is_one_line(found):
    assert "cannot be written (Read-only file system); choose another folder" in found["read-only"]
