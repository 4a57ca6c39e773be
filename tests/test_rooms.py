"""Who may import whom; `docs/architecture.md` explains it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("nas", "search_spaces", "strategies", "hw_models", "experiments")
MAY = {
    "nas": {"nas"},
    "search_spaces": {"nas", "search_spaces"},
    "strategies": {"nas", "strategies"},
    "hw_models": {"nas", "hw_models"},
    "experiments": set(ROOMS),
}
RAY = [f"nas/{name}.py" for name in ("ray_cluster", "tune", "tune_worker", "tune_shared")]
RAY += ["experiments/bench_dispatch.py"]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room):
    for path in (ROOT / room).rglob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            assert top not in ROOMS or top in MAY[room], f"{path.relative_to(ROOT)} imports {name}"
            if top == "ray":
                assert path in [ROOT / name for name in RAY], path
            if top == "optuna":
                assert path == ROOT / "strategies" / "optuna_sampler.py", path
            if top in ("torch", "torchvision"):
                assert path.parent == ROOT / "experiments", path


def test_importing_nas_imports_neither_ray_nor_torch():
    code = (
        "import sys, nas, search_spaces, strategies; print([m for m in ('ray', 'torch', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_of_a_machine_or_registry_is_in_the_repository():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in tracked.stdout.split()]
    assert not [f for f in files if f.name in ("uv.lock", "poetry.lock", "pdm.lock")]
    assert not [f for f in files if f.exists() and f.stat().st_size > 1_000_000]
