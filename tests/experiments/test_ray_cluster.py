"""Two raylets on this machine are one cluster: a job searches on it while a node is lost and another one joins."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="the extra 'cluster' (ray[default]) is not installed")
ROOT = Path(__file__).resolve().parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
TRIALS = 30
# a candidate must take longer than a worker takes to start: Tune gives it to whoever is free first
JOB = "from experiments.quickstart import main; main({out!r}, trials={trials}, epochs=30)"


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def members(mark):
    """Processes that inherited this environment variable: ours alone, however they detached themselves."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{mark}\0".encode() in (entry / "environ").read_bytes() + b"\0":
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def kill(mark):
    until = time.monotonic() + 20
    while (left := members(mark)) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def wait_for(what, seconds=180, look=lambda: ""):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"waited {seconds} s in vain; {look()}"
        time.sleep(0.2)


def answers(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


class Nodes:
    """Raylets with a token, each with files, ports and a mark of its own."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="nas", dir="/tmp"))  # paths of sockets must be short
        self.name = f"NAS_CLUSTER={self.folder.name}"
        kept = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        own = {"PATH": path, "NAS_CLUSTER": self.folder.name, "PYTHONPATH": ""}
        self.env = kept | own | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.port, self.jobs, self.client = free_ports(3)
        self.started = []

    def start_head(self):
        """The node that the others join, when it answers."""
        ports = f"--port={self.port}", f"--dashboard-port={self.jobs}", f"--ray-client-server-port={self.client}"
        self.start("--head", *ports)
        wait_for(lambda: answers(self.port) and answers(self.jobs), look=self.logs)

    def logs(self):
        """What the nodes have said."""
        return "\n".join(log.read_text() for log in sorted(self.folder.glob("*.log")))

    def start(self, *words):
        """A node of one CPU; its mark."""
        number = len(self.started) + 1
        mark = f"{self.folder.name}-{number}"
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
        ports = [f"--{name}={port}" for name, port in zip(names, free_ports(3), strict=True)]
        more = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats"]
        more += ["--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={self.folder / str(number)}"]
        command = [*RAY, "start", "--block", *words, *ports, *more]
        with (self.folder / f"{number}.log").open("w") as log:
            env = self.env | {"NAS_NODE": mark}
            self.started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True))
        return f"NAS_NODE={mark}"


@pytest.fixture
def nodes():
    made = Nodes()
    try:
        yield made
    finally:
        kill(made.name)
        for process in made.started:
            process.wait(20)
        shutil.rmtree(made.folder, ignore_errors=True)
        assert not members(made.name), "processes of the cluster are left"


@pytest.mark.slow
def test_a_job_searches_on_two_raylets_and_outlives_the_loss_of_one(nodes, tmp_path):
    nodes.start_head()
    second = nodes.start(f"--address=127.0.0.1:{nodes.port}")
    wait_for(lambda: len(members(second)) > 2)

    out = tmp_path / "run"
    submit = [*RAY, "job", "submit", f"--address=http://127.0.0.1:{nodes.jobs}", "--working-dir", "."]
    entry = ["--", "python", "-c", JOB.format(out=str(out), trials=TRIALS)]
    said = tmp_path / "job.log"
    with said.open("w") as log:
        job = subprocess.Popen([*submit, *entry], cwd=ROOT, env=nodes.env, stdout=log, stderr=log)
    journal, results = out / "journal.jsonl", out / ".results"

    def told(kind):
        lines = journal.read_text().splitlines() if journal.exists() else []
        return [e for e in map(json.loads, lines) if e["event"] == kind]

    def begun_on():
        return {node for file in results.glob("*.begun") for node in file.read_text().split()}

    wait_for(lambda: len(begun_on()) == 2 and len(told("finished")) >= 4, 240, said.read_text)
    kill(second)
    nodes.start(f"--address=127.0.0.1:{nodes.port}")
    wait_for(lambda: len(begun_on()) == 3 or job.poll() is not None, 400, nodes.logs)
    assert job.poll() is None, "the search was over before the new node was used"

    assert job.wait(600) == 0, said.read_text()
    assert Counter(e["id"] for e in told("finished")) == Counter(range(TRIALS)) and not told("failed")
    assert len(told("retried")) <= 2 and json.loads((out / "best.json").read_text())["schema"] == "nas.architecture/1"


@pytest.mark.slow
def test_without_the_token_nobody_joins(nodes):
    nodes.start_head()
    command = [*RAY, "job", "submit", f"--address=http://127.0.0.1:{nodes.jobs}", "--", "true"]
    for token in ("", "0" * 64):
        env = nodes.env | {"RAY_AUTH_TOKEN": token, "HOME": str(nodes.folder)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode != 0
    assert subprocess.run(command, env=nodes.env, capture_output=True, timeout=120).returncode == 0
