"""The documentation does what it says: its Python runs, its commands parse, its files are up to date."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import click
import pytest
import typer
import yaml

import nas
from experiments import cli, make_docs
from strategies import ONE_SHOT, STRATEGIES

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
README, CONTRIBUTING = PAGES[:2]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    lines = [(page.name, line) for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    inline = [
        (page.name, line) for page in PAGES for line in re.findall(r"`(nas [a-z]+ [^`]*-[^`]*)`", page.read_text())
    ]
    return [(page, line.partition(" #")[0].strip()) for page, line in lines + inline if line.startswith("nas ")]


def shrunk(code: str) -> str:
    """The same code with two candidates of one epoch: the numbers that a reader changes first."""
    code, searches = re.subn(r"trials=\d+", "trials=2", code)
    code, recipes = re.subn(r"epochs=\d+", "epochs=1", code)
    code = re.sub(r"population=\d+", "population=2", code)  # no larger than the trials
    assert searches == recipes == 1
    return code


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A temporary folder to run in, as somebody who copies from the page would."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_cli(monkeypatch, line: str) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


def events(folder: Path) -> list[tuple]:
    lines = map(json.loads, (folder / "journal.jsonl").read_text().splitlines())
    return [(e["event"], e["id"], e.get("row"), e.get("scores")) for e in lines]


def test_the_search_of_the_readme_is_the_same_in_python_and_on_the_command_line(inside, monkeypatch, capsys):
    code = blocks(README, "python")[0]
    assert len(code.splitlines()) <= 20
    exec(compile(shrunk(code), "README.md", "exec"), {})
    best = json.loads(Path("runs/python/best.json").read_text())
    assert str(best["choices"]) in capsys.readouterr().out
    line = next(line for page, line in commands() if page == "README.md")
    sizes = "--set epochs=1 --set population=2 --set tournament=2"
    run_cli(monkeypatch, f"{line} {sizes}".replace("--trials 24", "--trials 2"))
    assert events(Path("runs/first")) == events(Path("runs/python"))


def test_the_space_of_the_readme_is_searched_saved_and_loaded(inside, monkeypatch, capsys):
    definition, use = blocks(README, "python")[1:]
    assert len(definition.splitlines()) <= 17
    Path("myspace.py").write_text(definition)
    exec(compile(definition + shrunk(use), "README.md", "exec"), {})
    chosen = json.loads(Path("kernels.json").read_text())["choices"]
    assert str(chosen) in capsys.readouterr().out
    line = next(line for _, line in commands() if "myspace:kernels" in line)
    small = "--set epochs=1 --executor local --out runs/own"
    run_cli(monkeypatch, line.replace("--trials 8", "--trials 1") + f" {small}")
    run_cli(monkeypatch, "nas describe runs/own/best.json --space myspace:kernels")
    assert "kernel_2" in capsys.readouterr().out
    sys.modules.pop("myspace")


def test_the_strategy_of_the_guide_searches(inside, monkeypatch):
    (inside / "hill_climbing.py").write_text(blocks(CONTRIBUTING, "python")[0])
    monkeypatch.syspath_prepend(str(inside))
    strategy = importlib.import_module("hill_climbing").hill_climbing
    sys.modules.pop("hill_climbing")
    decisions = [nas.Decision(f"d{i}", (0, 1, 2, 3)) for i in range(6)]
    network = lambda net, macro: net.linear(net.global_avg_pool(net.input), macro.classes)  # noqa: E731
    space = nas.SearchSpace("toy", decisions, network, nas.Macro(1, 1, (4, 4, 1), 2))
    score = nas.function(lambda choices: sum(choices.values()) / 18, space)
    # two scores, of which the second is the same for all, and a limit that all meet
    objective = nas.pareto("params", limits=[nas.Limit("macs", 1e6)])
    found = nas.search(space, strategy(space, objectives=2, constraints=1), score, objective=objective, trials=60)
    assert found.complete and found.best.scores[0] > 0.9


def understood(line: str) -> dict:
    """What the command line makes of a command; it is not run."""
    words = shlex.split(re.sub(r"\b(FILE|FOLDER)\b", "file", line).replace("--seed N", "--seed 1"))[1:]
    command = typer.main.get_command(cli.app)
    context = click.Context(command)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, line
        command = command.commands[words.pop(0)]
    return command.make_context("nas", words, parent=context).params


@pytest.mark.parametrize("page, line", commands(), ids=lambda text: text[:60])
def test_commands_of_the_docs_are_understood(page, line):
    """Parsed as the command line does: every verb, option and value is there."""
    parsed = understood(line)
    if parsed.get("strategy") and "hill_climbing" not in line:
        assert parsed["strategy"] in {**STRATEGIES, **ONE_SHOT}


def test_the_manifest_of_the_docs_searches_on_a_volume_that_every_pod_has():
    (manifest,) = blocks(ROOT / "docs" / "cluster.md", "yaml")
    spec = yaml.safe_load(manifest)["spec"]
    asked, cluster = understood(spec["entrypoint"]), spec["rayClusterSpec"]
    assert asked["resume"] and cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounted = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
        assert any(path in asked["out"].parents for path in mounted.values())
        assert set(mounted) == {volume["name"] for volume in pod["volumes"]}


def test_the_schema_is_up_to_date():
    assert make_docs.SCHEMA.read_text() == make_docs.schema(), "run: make docs"


def test_pictures_are_there_and_small():
    for page in (README,):
        found = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text())
        assert found
        for picture in (page.parent / name for name in found):
            assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 200_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            place = (page.parent / name) if name else page
            assert place.exists(), target
            titles = re.findall(r"^#+ (.+)$", place.read_text(), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}, target
    built = text.partition("## Where we differ")[0]  # what follows names files that are not there yet
    own = re.findall(r"`((?:nas|search_spaces|strategies|hw_models|experiments|tests)/[\w/]+\.py)`", built)
    examples = ("search_spaces/NAME.py", "strategies/hill_climbing.py")
    assert not [path for path in own if path not in examples and not (ROOT / path).exists()]


def test_every_option_and_unit_is_in_the_docs():
    from nas.objective import UNITS

    text = (ROOT / "docs" / "cli.md").read_text()
    groups = [typer.main.get_command(cli.app)]
    for group in groups:
        for command in group.commands.values():
            if hasattr(command, "commands"):
                groups.append(command)
                continue
            options = [o for p in command.params for o in p.opts if o.startswith("--") and o != "--help"]
            assert not [o for o in options if f"{o}`" not in text and f"{o} " not in text], command.name
    units = {unit for quantity, (_, known) in UNITS.items() if quantity != "energy" for unit in known}
    assert not [unit for unit in units if f"`{unit}`" not in text]
