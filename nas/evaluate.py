"""Evaluating candidates: rows in, metrics out, rung by rung."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nas.cell_training import cell_network
from nas.data import Data, load, on_device
from nas.errors import BadInput
from nas.recipe import Recipe, check_recipe, for_any_network
from nas.recurrent import loop_of
from nas.recurrent_training import recurrent_network
from nas.space import Macro, SearchSpace
from nas.supernet import network_supernet
from nas.train import CLASSIFICATION, Program, Task, data_mesh, make_program

Metrics = Mapping[str, float]


class Job(NamedTuple):
    """One candidate to evaluate.

    Attributes:
        id: of the trial.
        row: int32[L].
        epochs: to train; 0 means what the recipe says.
        seed: of the search; the candidate's own randomness comes from it and the id.
    """

    id: int
    row: np.ndarray
    epochs: int = 0
    seed: int = 0


class Rung(dict):
    """Metrics reported before the end, where a search may stop the candidate; they hold ``epochs``, the rung."""


# An evaluation is called once in each worker and gives the function that takes the jobs. That function yields a `Rung`
# at each rung and plain metrics at the end; a search that stops a candidate early closes the iterator.
Evaluate = Callable[[Job], Iterator[Metrics]]
Evaluation = Callable[[], Evaluate]


class CandidateFailed(Exception):
    """The candidate cannot be evaluated; the search goes on without it. The message is the reason."""


@dataclass(frozen=True)
class Scratch:
    """Evaluation by training each candidate from scratch, all of them in one compiled program.

    Attributes:
        space: of the rows.
        data: what `nas.data.load` takes, or a `Data`; a worker loads it once.
        recipe: how to train.
        macro: the frame; its input and classes are replaced by those of the data. None: the space's.
        rungs: epochs after which metrics are reported before the end.
        split: measured on; searches use ``validation``.
        data_options: further arguments of `nas.data.load`, such as ``limit``.
        task: loss and metrics.
        devices: split each batch over so many devices of a worker.
    """

    space: SearchSpace
    data: Any = "digits"
    recipe: Recipe = field(default_factory=Recipe)
    macro: Macro | None = None
    rungs: tuple[int, ...] = ()
    split: str = "validation"
    data_options: Mapping[str, Any] = field(default_factory=dict)
    task: Task = CLASSIFICATION
    devices: int = 1

    def __post_init__(self):
        for_any_network(self.recipe)
        rungs = tuple(self.rungs)
        if list(rungs) != sorted(set(rungs)) or (rungs and not 0 < rungs[0] <= rungs[-1] < self.recipe.epochs):
            raise BadInput(f"rungs {list(rungs)}: give rising epochs from 1 to below the recipe's {self.recipe.epochs}")
        object.__setattr__(self, "rungs", rungs)

    def describe(self) -> dict[str, Any]:
        """What `search.json` records of it."""
        return {
            "kind": "scratch",
            "data": self.data if isinstance(self.data, str) else getattr(self.data, "fingerprint", "arrays"),
            "data_options": dict(self.data_options),
            "recipe": asdict(self.recipe),
            "macro": asdict(self.frame()),
            "rungs": list(self.rungs),
            "split": self.split,
        }

    def load(self) -> Data:
        """The data set."""
        return self.data if isinstance(self.data, Data) else load(self.data, **self.data_options)

    def frame(self, data: Data | None = None) -> Macro:
        """The macro that candidates are trained at: with the data's input and classes."""
        data = data or self.load()
        check_recipe(self.recipe, data.input_shape)
        return fit_macro(self.macro or self.space.macro, data, self.task)

    def __call__(self) -> Evaluate:
        """Loads the data and prepares the program of this process."""
        use_compilation_cache()
        data = self.load()
        macro = self.frame(data)
        mesh = data_mesh(self.devices)
        train, measured = (on_device(getattr(data, s), data.mean, data.std) for s in ("train", self.split))
        count = len(data.train.labels)
        batch = min(self.recipe.batch, count)
        program = make_program(self.space.supernet(macro), self.recipe, task=self.task, mesh=mesh)

        def evaluate(job: Job) -> Iterator[Metrics]:
            epochs = job.epochs or self.recipe.epochs
            key = jax.random.fold_in(jax.random.key(job.seed), job.id)
            yield from train_network(
                program,
                job.row,
                (train, measured),
                count=count,
                batch=batch,
                epochs=epochs,
                key=key,
                order_seed=job.seed,
                report_at={*self.rungs, epochs},
            )

        return evaluate


def train_network(
    program: Program,
    row,
    splits,
    *,
    count,
    batch,
    epochs,
    key,
    order_seed,
    report_at: Sequence[int] | set[int],
    keep=None,
) -> Iterator[Metrics]:
    """Trains one network, yielding metrics after the epochs in `report_at`.

    Args:
        program: compiled functions.
        row: int32[L].
        splits: (to train on, to measure on), from `nas.data.on_device`.
        count: images of the training split.
        batch: images a step.
        epochs: of the whole training, which the learning-rate schedule spans.
        key: of the weights and augmentation.
        order_seed: of the batch order.
        report_at: epochs.
        keep: called with (state, epoch, metrics) at each report.

    Raises:
        CandidateFailed: the loss is no finite number.
    """
    init_key, step_key = jax.random.split(key)
    row = np.asarray(row, np.int32)
    started = time.monotonic()
    state = program.init(init_key, row)
    steps = (count // batch) * epochs
    for epoch in range(epochs):
        order = program.order(count, batch, seed=order_seed, epoch=epoch)
        state, loss = program.train(state, row, splits[0], order, step_key, np.int32(steps))
        if epoch + 1 in report_at:
            train_loss = float(loss)
            if not math.isfinite(train_loss):
                raise CandidateFailed(f"the loss is {train_loss} after epoch {epoch + 1}")
            measured = program.evaluate(state.weights, state.stats, row, splits[1])
            metrics = {name: float(value) for name, value in measured.items()}
            metrics |= {"train_loss": train_loss, "epochs": epoch + 1, "seconds": time.monotonic() - started}
            metrics |= {"train_compilations": program.compilations()}
            if not all(map(math.isfinite, metrics.values())):
                raise CandidateFailed(f"a metric is no finite number after epoch {epoch + 1}")
            if keep is not None:
                keep(state, epoch + 1, metrics)
            yield metrics if epoch + 1 == epochs else Rung(metrics)


def own_program(
    space: SearchSpace, row, macro: Macro, recipe: Recipe, task: Task = CLASSIFICATION, mesh=None
) -> Program:
    """A program of one architecture alone: what a found network is trained with.

    Raises:
        BadInput: the frame or the recipe does not suit the network, or it reads a text without carrying a state.
    """
    layers = space.layers(row, macro)
    if loop_of(layers) is not None:
        network = recurrent_network(layers, recipe)
    elif len(macro.input) == 1:
        raise BadInput(f"space '{space.name}': of networks that read a text, only recurrent ones are trained here")
    else:
        regular = recipe.drop_path or recipe.auxiliary
        network = cell_network(layers, recipe) if regular else network_supernet(layers)
    return make_program(network, recipe, task=task, mesh=mesh)


def function(score: Callable[[dict[str, Any]], Any], space: SearchSpace) -> Evaluation:
    """Evaluation by a person's own function of the decoded choices, giving a number (accuracy) or a dict of metrics."""

    def start() -> Evaluate:
        def evaluate(job: Job) -> Iterator[Metrics]:
            found = score(space.decode(job.row))
            yield dict(found) if isinstance(found, Mapping) else {"accuracy": float(found)}

        return evaluate

    return start


def fit_macro(macro: Macro, data: Data, task: Task = CLASSIFICATION) -> Macro:
    """The macro with the input shape and number of outputs that the data needs.

    Raises:
        BadInput: a text for a network of images, or the other way round.
    """
    if len(macro.input) != len(data.input_shape):
        kind, other = ("a text", "images") if data.is_text else ("images", "a text")
        takes = "darts_rnn reads a text" if data.is_text else "a text is such as tinyshakespeare, or a file of your own"
        raise BadInput(f"data: '{data.name}' is {kind}, and networks of this space read {other}; {takes}")
    return replace(macro, input=task.input_spec(data), classes=task.head(data))


def keep_going(rung_scores: Sequence[float], score: float, eta: int) -> bool:
    """Whether a candidate goes on past a rung: in the best 1/eta of the scores seen there so far, itself among them.

    The stopping form of asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter
    Tuning", MLSys 2020): nobody waits, so the first few at a rung go on more easily than they should.
    """
    scores = sorted(filter(math.isfinite, [*rung_scores, score]), reverse=True)
    return math.isfinite(score) and score >= scores[max(1, math.ceil(len(scores) / eta)) - 1]


def cache_root() -> Path:
    """Where this toolkit keeps what can be made again: NAS_CACHE, else ``nas`` under the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NAS_CACHE") or Path(base) / "nas")


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk from one run to the next, unless JAX was told where already."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
