"""Searching with shared weights: train them, then look for the best architectures in them."""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.cost import Cost
from nas.data import Data, batches, load, on_device
from nas.driver import Observer, quiet
from nas.errors import BadInput
from nas.evaluate import CandidateFailed, Evaluate, Job, Metrics, fit_macro, use_compilation_cache
from nas.files import to_json, write_atomic
from nas.journal import RunFolder
from nas.objective import Objective
from nas.one_shot import OneShot, Shared, batch_size, recalibrate, step_count, train_shared
from nas.plan import plan_search
from nas.recipe import Recipe, check_recipe, for_any_network
from nas.result import Result
from nas.search import run
from nas.space import Macro, SearchSpace
from nas.strategy import Strategy, given
from nas.train import CLASSIFICATION, Task, over_split

CALIBRATION_IMAGES = 2000  # Cai et al. 2020 use 2,000 images of the training split
SEARCHER_TRIALS = 100

Watch = Callable[[int, int, Mapping[str, float]], None]


def unwatched(seed: int, done: int, metrics: Mapping[str, float]) -> None:
    """A watch that shows nothing."""


@dataclass(frozen=True)
class Sharing:
    """One training of shared weights: the method, and what it is trained on.

    Attributes:
        space: of the rows.
        make: ``(macro=Macro, recipe=Recipe, steps=int) -> OneShot``, such as ``functools.partial(darts, space)``.
        data: what `nas.data.load` takes, or a `Data`; a worker loads it once.
        recipe: how the weights are trained.
        macro: the frame; its input and classes are replaced by those of the data. None: the space's.
        data_options: further arguments of `nas.data.load`, such as ``limit``.
        task: loss and metrics.
        devices: split each batch over so many devices of a worker.
    """

    space: SearchSpace
    make: Callable[..., OneShot]
    data: Any = "digits"
    recipe: Recipe = field(default_factory=Recipe)
    macro: Macro | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    task: Task = CLASSIFICATION
    devices: int = 1

    def __post_init__(self):
        for_any_network(self.recipe)

    @cached_property
    def loaded(self) -> Data:
        """The data set."""
        return self.data if isinstance(self.data, Data) else load(self.data, **self.data_options)

    @cached_property
    def splits(self):
        """Training and validation split on the device."""
        return tuple(
            on_device(getattr(self.loaded, s), self.loaded.mean, self.loaded.std) for s in ("train", "validation")
        )

    @cached_property
    def steps(self) -> int:
        """Of the whole training."""
        return step_count(self.recipe, len(self.loaded.train.labels), len(self.loaded.validation.labels))

    @cached_property
    def method(self) -> OneShot:
        """The method, made for this data."""
        return self.make(macro=self.frame(), recipe=self.recipe, steps=self.steps)

    def __getstate__(self):
        """What a worker needs; arrays and programs are made there."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def frame(self) -> Macro:
        """The macro that is trained at: with the data's input and classes."""
        check_recipe(self.recipe, self.loaded.input_shape)
        return fit_macro(self.macro or self.space.macro, self.loaded, self.task)

    def describe(self) -> dict[str, Any]:
        """What `search.json` records of it."""
        return {
            "kind": "shared weights",
            "data": self.data if isinstance(self.data, str) else self.loaded.fingerprint,
            "data_options": dict(self.data_options),
            "recipe": asdict(self.recipe),
            "macro": asdict(self.frame()),
            "split": "validation",
        }

    def train(
        self, seed: int, checkpoint: Path | None = None, seconds: float | None = None, watch: Watch = unwatched
    ) -> Shared:
        """Trains with one seed; see `nas.one_shot.train_shared`."""
        use_compilation_cache()
        return train_shared(
            self.method,
            self.splits,
            self.recipe,
            seed=seed,
            checkpoint=checkpoint,
            seconds=seconds,
            observer=lambda done, metrics: watch(seed, done, metrics),
            devices=self.devices,
        )


@dataclass(frozen=True)
class Inherited:
    """Evaluation with shared weights: batch norm recalibrated for the architecture, nothing trained.

    Attributes:
        sharing: what was trained.
        runs: trained weights, one for each seed.
        run_of: ``(trial id) -> int`` says in whose weights a candidate is measured; None takes the mean over all.
        split: measured on.
    """

    sharing: Sharing
    runs: Sequence[Shared]
    run_of: Callable[[int], int] | None = None
    split: str = "validation"

    def __call__(self) -> Evaluate:
        """Prepares the program of this process."""
        use_compilation_cache()
        sharing, data = self.sharing, self.sharing.loaded
        measured = on_device(getattr(data, self.split), data.mean, data.std)
        program = shared_accuracy(sharing.method, sharing.task, sharing.splits[0], measured, sharing.recipe)
        states = [sharing.method.shared(each.state) for each in self.runs]

        def evaluate(job: Job) -> Iterator[Metrics]:
            began = time.monotonic()
            chosen = states if self.run_of is None else [states[self.run_of(job.id)]]
            found = [program(*state, jnp.asarray(job.row)) for state in chosen]
            metrics = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
            yield metrics | {"epochs": sharing.recipe.epochs, "seconds": time.monotonic() - began}

        return evaluate


def shared_accuracy(method: OneShot, task: Task, train, measured, recipe: Recipe):
    """A compiled ``(weights, stats, row) -> metrics``: of a split, with batch norm recalibrated on training images.

    Every metric is there a second time, as ``NAME_uncalibrated``, with the statistics that all architectures share.
    """
    count = len(train.labels)
    batch = batch_size(recipe, count, len(measured.labels))
    size = max(1, min(CALIBRATION_IMAGES, count) // batch)
    order = batches(count, batch, seed=0, epoch=0)[:size]

    @jax.jit
    def measure(weights, stats, row):
        def with_statistics(stats):
            def metrics(x, labels):
                return task.metrics(method.network.apply(weights, stats, x, row, train=False)[0], labels)

            return over_split(measured, batch, metrics)

        own = with_statistics(recalibrate(method.network, weights, stats, row, train, order))
        return own | {f"{name}_uncalibrated": value for name, value in with_statistics(stats).items()}

    return measure


def search(
    sharing: Sharing,
    *,
    searcher: Strategy | None = None,
    seeds: int = 1,
    trials: int | None = None,
    seconds: float | None = None,
    objective: Objective | None = None,
    costs: Mapping[str, Cost] | None = None,
    seed: int = 0,
    macro: Macro | None = None,
    out: str | os.PathLike | None = None,
    resume: bool = False,
    observer: Observer = quiet,
    watch: Watch = unwatched,
    train: Callable[..., list[Shared]] | None = None,
) -> Result:
    """Trains shared weights, then takes what the method derives, or lets a strategy look for it.

    Args:
        sharing: method and data.
        searcher: a multi-trial strategy that looks for architectures in the shared weights; needed by the methods that
            derive none themselves, such as single-path.
        seeds: independent trainings, of seed, seed + 1, and so on.
        trials: architectures to evaluate in the shared weights; default one for each seed where the method derives
            them, else 100.
        seconds: wall time for the training; a resume goes on where it stopped.
        objective: see `nas.search.search`, as `costs`, `macro`, `out` and `resume`.
        costs: see there.
        seed: of everything random.
        macro: see there.
        out: see there; shared weights go to ``checkpoints``, and their record to ``training.json``.
        resume: see there.
        observer: of the trials, called as there.
        watch: of the training, called with (seed, steps done, metrics of the last step).
        train: ``(sharing, seeds, folder, seconds, watch) -> [Shared]``; default one after the other in this process.
            `nas.tune_shared.train_shared` is the one through Ray Tune.

    Raises:
        BadInput: a method that needs a searcher without one, and what `nas.search.search` refuses.

    A keyboard interrupt ends the training with what is there, to be resumed.
    """
    started = time.monotonic()
    use_compilation_cache()
    method = sharing.method
    if method.derive is None and searcher is None:
        raise BadInput(f"strategy {method.name} trains weights and derives no architecture: give it a searcher")
    strategy = given(sharing.space, []) if method.derive is not None or searcher is None else searcher
    arguments = dict(method.arguments) | {"seeds": seeds}
    if method.derive is None:
        arguments["searcher"] = {"name": strategy.name, "arguments": dict(strategy.arguments)}
    count = trials or (SEARCHER_TRIALS if method.derive is None else seeds)
    strategy = strategy._replace(name=method.name, arguments=arguments)
    plan = plan_search(
        sharing.space, strategy, sharing, objective, costs, count, None, seed, None, macro, executor="shared"
    )
    RunFolder(out, plan.described, resume=resume).close()
    folder = None if out is None else Path(out) / "checkpoints"
    runs = (train or train_here)(sharing, [seed + i for i in range(seeds)], folder, seconds, watch)
    finished = all(each.finished for each in runs)
    if out is not None:
        write_training(Path(out), sharing, runs)
    evaluation = Inherited(sharing, runs)
    if method.derive is not None:
        key, each = jax.random.fold_in(jax.random.key(seed), 3), math.ceil(count / seeds)
        found = [np.asarray(method.derive(r.state, sharing.splits[1], key))[:each] for r in runs]
        origin = [i for i, rows in enumerate(found) for _ in rows]
        strategy = given(sharing.space, np.concatenate(found))._replace(name=method.name, arguments=arguments)
        evaluation = Inherited(sharing, runs, origin.__getitem__)
    # what an unfinished training suggests is shown, and not written down: a resume will know better
    place = RunFolder(out if finished else None, plan.described, resume=finished)
    driver = plan.driver(strategy, place)
    driver.start()
    result = run(driver, evaluation, observer, started)
    spent = sum(r.record[-1]["seconds"] for r in runs if r.record and "seconds" in r.record[-1])
    return replace(
        result,
        complete=result.complete and finished,
        device_seconds=result.device_seconds + spent,
        training=training_record(sharing, runs),
        out=None if out is None else Path(out),
    )


def train_here(sharing: Sharing, seeds: Sequence[int], folder: Path | None, seconds: float | None, watch: Watch):
    """[Shared], trained one after the other in this process; a seed that diverges for good is left out.

    Raises:
        BadInput: all of them did.
    """
    began, runs, reasons = time.monotonic(), [], []
    for seed in seeds:
        left = None if seconds is None else max(0.0, seconds - (time.monotonic() - began))
        try:
            runs.append(sharing.train(seed, checkpoint_of(folder, seed), left, watch))
        except CandidateFailed as error:
            reasons.append((seed, error))
    if not runs:
        raise nothing_trained(sharing, *reasons[0])
    return runs


def nothing_trained(sharing: Sharing, seed: int, reason: Any) -> BadInput:
    """What is said where every seed diverged: the reason of one of them."""
    return BadInput(f"strategy {sharing.method.name}: seed {seed}: {str(reason).splitlines()[-1]}")


def checkpoint_of(folder: Path | None, seed: int) -> Path | None:
    """Where the shared weights of a seed lie."""
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"seed_{seed}.safetensors"


def training_record(sharing: Sharing, runs: Sequence[Shared]) -> dict[str, Any]:
    """JSON: what happened in the training of each seed, epoch by epoch."""
    relaxed = {}
    if sharing.method.gates is not None:
        relaxation = sharing.space.relaxation
        relaxed = {"edges": list(relaxation.edges), "options": [list(own) for own in relaxation.options]}
    return relaxed | {
        "schema": "nas.training/1",
        "method": sharing.method.name,
        "epochs": sharing.recipe.epochs,
        "runs": [{"seed": r.seed, "finished": r.finished, "epochs": r.record} for r in runs],
    }


def write_training(out: Path, sharing: Sharing, runs: Sequence[Shared]) -> None:
    """``training.json`` of a run folder."""
    write_atomic(out / "training.json", to_json(training_record(sharing, runs)) + "\n")
