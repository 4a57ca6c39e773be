"""Live progress of a search on stderr: how far, best so far, time left. Never in the way of the search."""

import atexit
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator

import rich.progress
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.driver import Driver, Observer
from nas.result import Trial
from nas.wording import column_of, cost_name, cost_text, duration, number, score_name

PLAIN_SECONDS = 10.0


def progress(console: Console | None = None) -> Observer:
    """An observer that shows progress: a live bar on a terminal, elsewhere a plain line about every ten seconds.

    Args:
        console: where to; default stderr.
    """
    console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
    show = _Progress(console)

    def observe(event: str, driver: Driver, trial: Trial | None) -> None:
        # a display that breaks (closed pipe, odd terminal) must not end a search of hours
        try:
            show(event, driver, trial)
        except Exception:
            show.broken = True

    return observe


@contextlib.contextmanager
def counting(what: str, total: int, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """Gives a function to call with how many of `total` are done and, if wanted, a few words on how it stands.

    It shows a bar with the time left, or plain lines.

    Args:
        what: is counted, in the plural.
        total: how many there will be.
        console: where to; default stderr.
    """
    console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
    if console.is_terminal and not console.is_dumb_terminal:
        with rich.progress.Progress(console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done, note="": bar.update(task, completed=done, description=f"{what} {note}".strip())
        return
    started = shown = time.monotonic()

    def line(done: int, note: str = "") -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= PLAIN_SECONDS and done:
            shown, left = now, (total - done) * (now - started) / done
            console.file.write(
                f"{done}/{total} {what}, {duration(now - started)}, {duration(left)} left{note and ', ' + note}\n"
            )
            console.file.flush()

    yield line


class _Progress:
    """Counters kept up to date event by event, so that a call costs the same after ten thousand trials."""

    def __init__(self, console: Console):
        self.console = console
        self.broken = False
        self.live: Live | None = None
        self.driver: Driver  # from "start" on, which comes first
        self.best: Trial | None = None
        self.flying: set[int] = set()
        self.done = self.failed = self.done_before = 0
        self.started = self.shown = 0.0

    def __call__(self, event: str, driver: Driver, trial: Trial | None) -> None:
        if self.broken:
            return
        if event == "start":
            self._start(driver)
        elif event == "asked" and trial is not None:
            self.flying.add(trial.id)
        elif event == "told" and trial is not None:
            self.flying.discard(trial.id)
            self._count(trial)
        if event == "end":
            self._end()
        elif self.live is None and time.monotonic() - self.shown >= PLAIN_SECONDS:
            self._line(self.text())

    def _start(self, driver):
        self.driver, self.started = driver, time.monotonic()
        for trial in driver.trials:
            if trial.status != "pending":
                self._count(trial)
        self.done_before = self.done
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, get_renderable=self.render)
            self.live.start()
            # a search that ends in an error sends no "end"; the cursor has to come back all the same
            atexit.register(self.live.stop)
        else:
            self._line(f"searching {driver.space.name}: {self._budget()}")

    def _end(self):
        if self.live is not None:
            self.live.stop()
            atexit.unregister(self.live.stop)
        else:
            self._line(self.text(ended=True))

    def _count(self, trial):
        self.done += 1
        self.failed += trial.status == "failed"
        rank = lambda t: (t.trained, t.scores[0])  # noqa: E731
        if trial.feasible and (self.best is None or rank(trial) > rank(self.best)):
            self.best = trial

    def _line(self, text):
        self.shown = time.monotonic()
        self.console.file.write(text + "\n")
        self.console.file.flush()

    # ---- what is shown ---------------------------------------------------------------------------------------------
    def _budget(self):
        limit, deadline = self.driver.limit, self.driver.deadline
        parts = [f"{limit} trials"] if limit else []
        parts += [f"at most {duration(deadline - self.started)}"] if deadline else []
        resumed = f", {self.done} of them done before" if self.done else ""
        return ", ".join(parts) + resumed

    def text(self, *, ended: bool = False) -> str:
        """All of it in one line without control characters."""
        limit, deadline = self.driver.limit, self.driver.deadline
        used = time.monotonic() - self.started
        parts = [f"{self.done}/{limit} trials" if limit else f"{self.done} trials"]
        parts.append(f"{duration(used)} of {duration(deadline - self.started)}" if deadline else duration(used))
        parts.append(self.best_text())
        parts += [f"{len(self.flying)} in flight"] if not ended else []
        parts += [f"{self.failed} failed"] if self.failed else []
        if self.rate > 0:
            parts.append(f"{60 * self.rate:.3g} candidates/min")
        if not ended and math.isfinite(self.left):
            parts.append(f"{duration(self.left)} left")
        return ", ".join(parts)

    def best_text(self) -> str:
        """Best so far with the costs that the objective reads, else its size."""
        if self.best is None:
            return "no result yet" if not self.done else "nothing within the limits yet"
        objective, metrics = self.driver.objective, self.best.metrics
        names = dict.fromkeys([*objective.costs, *(limit.cost for limit in objective.limits)]) or ("params", "macs")
        columns = [c for c in (column_of(name, metrics) for name in names) if c]
        costs = ", ".join(f"{cost_name(c)} {cost_text(c, metrics[c])}" for c in columns)
        return f"best {score_name(objective)} {number(float(self.best.scores[0]))}" + (f" ({costs})" if costs else "")

    @property
    def rate(self) -> float:
        """Candidates a second since the start of this call."""
        return (self.done - self.done_before) / max(time.monotonic() - self.started, 1e-9)

    @property
    def left(self) -> float:
        """Seconds until the first budget is used up; infinite while unknown."""
        limit, deadline = self.driver.limit, self.driver.deadline
        by_time = deadline - time.monotonic() if deadline else math.inf
        by_trials = (limit - self.done) / self.rate if limit and self.rate > 0 else math.inf
        return max(0.0, min(by_time, by_trials))

    def render(self) -> Table:
        """For a terminal: a bar, and what the plain line says."""
        limit, deadline = self.driver.limit, self.driver.deadline
        shares = [self.done / limit] if limit else []
        if deadline:
            shares.append((time.monotonic() - self.started) / max(deadline - self.started, 1e-9))
        grid = Table.grid(padding=(0, 1))
        grid.add_row(ProgressBar(total=1.0, completed=min(1.0, max(shares, default=0.0)), width=24), Text(self.text()))
        return grid
