import io
import math
import re
import time

import numpy as np
import pytest
from rich.console import Console

from nas import progress as module
from nas.evaluate import CandidateFailed, function
from nas.objective import Limit, accuracy
from nas.progress import progress
from nas.search import search
from nas.space import Decision, Macro, SearchSpace
from strategies.random_search import random_search


def network(net, macro):
    x = net.conv(net.input, macro.width, 3)
    x = net.choice("op", {"skip": lambda: x, "conv": lambda: net.conv(x, macro.width, 3)})
    return net.linear(net.global_avg_pool(x), macro.classes)


SPACE = SearchSpace("tiny", (Decision("op", ("skip", "conv")),), network, Macro(4, 1, (8, 8, 3), 10))

STRATEGY = random_search(SPACE)  # one for all, so that it compiles once


def score(choices):
    if choices["op"] == "skip":
        raise CandidateFailed("the loss is nan")
    return 0.75


def run(observer, trials=6, evaluate=score, **options):
    return search(SPACE, STRATEGY, function(evaluate, SPACE), trials=trials, observer=observer, **options)


def plain():
    return Console(file=io.StringIO(), width=80)


def test_no_terminal_no_control_characters():
    console = plain()
    result = run(progress(console), seconds=60.0, objective=accuracy(limits=[Limit("params", 1e6)]))
    text = console.file.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    first, last = text.splitlines()
    failed = sum(t.status == "failed" for t in result.trials)
    assert "6 trials" in first and "1 min" in first
    assert "6/6 trials" in last and f"{failed} failed" in last and "candidates/min" in last
    assert "best accuracy 0.75 (parameters" in last


def test_a_line_at_most_every_few_seconds(monkeypatch):
    console = plain()
    run(progress(console), trials=10)
    assert len(console.file.getvalue().splitlines()) == 2
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    console = plain()
    run(progress(console), trials=3)
    lines = console.file.getvalue().splitlines()
    assert any("1 in flight" in line and "left" in line for line in lines)


def test_resumed_search_counts_what_was_done(tmp_path):
    run(progress(plain()), trials=3, out=tmp_path)
    console = plain()
    run(progress(console), trials=5, out=tmp_path, resume=True)
    first, last = console.file.getvalue().splitlines()
    assert "3 of them done before" in first and "5/5 trials" in last


def test_default_is_stderr(capsys):
    run(progress())
    out, err = capsys.readouterr()
    assert not out and "6/6 trials" in err


def test_terminal_shows_a_bar_and_gives_the_cursor_back():
    console = Console(file=io.StringIO(), force_terminal=True, width=160, _environ={"TERM": "xterm"})
    run(progress(console))
    text = console.file.getvalue()
    assert "6/6 trials" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0


class Broken(io.StringIO):
    def write(self, text):
        raise OSError("gone")


def test_a_broken_display_does_not_end_the_search():
    result = run(progress(Console(file=Broken())))
    assert len(result.trials) == 6 and result.complete


def test_nothing_finished():
    console = plain()
    run(progress(console), trials=2, evaluate=lambda choices: math.nan)
    assert "2/2 trials" in console.file.getvalue() and "2 failed" in console.file.getvalue()


@pytest.mark.parametrize("done", [10_000])
def test_a_call_is_cheap_after_many_trials(done):
    seen = {}
    run(lambda event, driver, trial: seen.update(driver=driver, trial=trial or seen.get("trial")))
    driver, trial = seen["driver"], seen["trial"]
    driver.trials = [trial] * done
    observer = progress(plain())
    observer("start", driver, None)
    times = []
    for _ in range(200):
        started = time.perf_counter()
        observer("asked", driver, trial)
        observer("told", driver, trial)
        times.append((time.perf_counter() - started) / 2)
    assert np.median(times) < 1e-3
