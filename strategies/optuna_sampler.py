"""Optuna's samplers as strategies. The only file that imports Optuna, and only when a strategy is made.

Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019. TPE: Bergstra et al.,
"Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, in its multivariate form (Falkner et al., BOHB, ICML 2018).
NSGA-II: Deb et al., IEEE TEC 2002. NSGA-III: Deb and Jain, IEEE TEC 2014.
"""

import contextlib
import copy
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from nas.errors import BadInput
from nas.space import SearchSpace
from nas.strategy import Asked, Strategy, check_told, first_rows, never_done

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class State(NamedTuple):
    """The journal of asks and tells, numpy on the host. The study is made again from it, so this is all there is."""

    key: np.ndarray  # uint32[2]
    rows: np.ndarray  # int32[A, L], asked
    told: np.ndarray  # int32[T], ids in the order of telling
    after: np.ndarray  # int32[T], how many had been asked by then
    scores: np.ndarray  # float32[T, M], NaN: failed
    violation: np.ndarray  # float32[T, C]


def tpe(
    space: SearchSpace,
    *,
    n_startup_trials: int = 10,
    n_ei_candidates: int = 24,
    multivariate: bool = True,
    group: bool = False,
    first: Any = None,
    objectives: int = 1,
    constraints: int = 0,
) -> Strategy:
    """Tree-structured Parzen estimator; settings and defaults are Optuna's (MOTPE with several objectives).

    Args:
        space: what to search.
        n_startup_trials: random until so many have finished.
        n_ei_candidates: samples of which the one with the best expected improvement is asked.
        multivariate: one density over all decisions instead of one each.
        group: with `multivariate`, a density for each set of decisions that are active together.
        first: rows int[K, L] that are asked before any other, as enqueued trials.
        objectives: M, scores per candidate.
        constraints: C, violations per candidate.

    Raises:
        BadInput: a setting that Optuna refuses.

    Candidates under way count as bad ones (the constant liar), so that workers do not ask for the same.
    """
    arguments = dict(
        n_startup_trials=_at_least("tpe", "n_startup_trials", n_startup_trials, 1),
        n_ei_candidates=_at_least("tpe", "n_ei_candidates", n_ei_candidates, 1),
        multivariate=multivariate,
        group=group,
    )
    sampler = _make("tpe", "TPESampler", arguments)
    return _strategy(space, sampler, "tpe", arguments, objectives, constraints, n_startup_trials, first)


def nsga2(
    space: SearchSpace, *, population: int = 50, first: Any = None, objectives: int = 1, constraints: int = 0
) -> Strategy:
    """NSGA-II with uniform crossover, generation after generation; Optuna's default population.

    A generation ends when `population` of it have finished, so results may come in any order and no worker waits.
    `first` are rows int[K, L] that are asked before any other.
    """
    return _genetic(space, "nsga2", "NSGAIISampler", population, first, objectives, constraints)


def nsga3(
    space: SearchSpace, *, population: int = 50, first: Any = None, objectives: int = 1, constraints: int = 0
) -> Strategy:
    """NSGA-III: as `nsga2`, but reference directions keep the front spread; for three objectives and more."""
    return _genetic(space, "nsga3", "NSGAIIISampler", population, first, objectives, constraints)


def optuna_random(space: SearchSpace, *, first: Any = None, objectives: int = 1, constraints: int = 0) -> Strategy:
    """Optuna's random sampler: what its other samplers are to be held against. `first` as in `nsga2`."""
    name = "optuna_random"
    return _strategy(space, _make(name, "RandomSampler", {}), name, {}, objectives, constraints, first=first)


def optuna_sampler(
    space: SearchSpace, *, sampler: "BaseSampler", first: Any = None, objectives: int = 1, constraints: int = 0
) -> Strategy:
    """Any sampler object of Optuna, or of a person's own, as a strategy.

    Args:
        space: what to search.
        sampler: copied, and its random numbers are seeded by the search. A parameter is called as its decision and its
            value is the option's index; where only some options are allowed, its name ends with them, as ``op[0,2]``,
            because Optuna's distributions are fixed. A decision with a single allowed option is not suggested.
        first: rows int[K, L] that are asked before any other, as enqueued trials.
        objectives: M, all of them to be maximised.
        constraints: C; violations are set as the trial's constraints, so the sampler needs no ``constraints_func``.

    Raises:
        BadInput: the sampler cannot do so many objectives, or does not fit the decisions.

    The state is the journal of asks and tells alone. The study is built by replaying it on a fresh copy of the
    sampler and kept for the next call as a cache, so whatever a sampler remembers in itself or in the study (the
    generations of NSGA-II, the covariance of CMA-ES) is the same again after a resume.
    """
    import optuna

    name = type(sampler).__name__
    if not isinstance(sampler, optuna.samplers.BaseSampler):
        raise BadInput(f"optuna_sampler: sampler is {sampler!r}; give an object such as optuna.samplers.TPESampler()")
    return _strategy(space, sampler, "optuna_sampler", {"sampler": name}, objectives, constraints, 0, first)


def _genetic(space, name, kind, population, first, objectives, constraints):
    sampler = _make(name, kind, {"population_size": _at_least(name, "population", population, 2)})
    return _strategy(space, sampler, name, {"population": population}, objectives, constraints, population, first)


def _at_least(name, what, value, least):
    if value < least:
        raise BadInput(f"{name}: {what} is {value}; it must be at least {least}")
    return value


def _make(name, kind, arguments):
    import optuna

    try:
        with _quiet():
            return getattr(optuna.samplers, kind)(**arguments)
    except ValueError as error:
        raise BadInput(f"{name}: {_line(error)}") from None


def _strategy(space, sampler, name, arguments, objectives, constraints, startup=None, first=None):
    """`startup`: candidates asked while fewer have finished are random draws; None: all are."""
    masks, first = jax.jit(space.masks), first_rows(space, first)
    held: list[tuple[State, _Study]] = []  # the study of the latest state; a cache, correct without it

    def study_of(state):
        # out of the cache: a call that fails halfway must not leave a changed study behind
        if held and held[0][0] is state:
            return held.pop()[1]
        held.clear()
        study = _Study(space, masks, sampler, state.key, objectives, first)
        for asked in range(len(state.rows) + 1):
            for i in np.flatnonzero(state.after == asked):
                study.tell(state.told[i], state.scores[i], state.violation[i])
            if asked < len(state.rows) and (study.ask() != state.rows[asked]).any():
                raise BadInput(f"{name}: {type(sampler).__name__} does not repeat itself; its randomness has no seed")
        return study

    def init(key):
        return State(
            key=np.asarray(jax.random.key_data(key)),
            rows=np.zeros((0, space.length), np.int32),
            told=np.zeros(0, np.int32),
            after=np.zeros(0, np.int32),
            scores=np.zeros((0, objectives), np.float32),
            violation=np.zeros((0, constraints), np.float32),
        )

    def ask(state, n):
        study = study_of(state)
        rows = np.stack([study.ask() for _ in range(n)])
        random = startup is None or int(np.isfinite(state.scores).all(-1).sum()) < startup
        state = state._replace(rows=np.concatenate([state.rows, rows]))
        held[:] = [(state, study)]
        ids = np.arange(len(state.rows) - n, len(state.rows), dtype=np.int32)
        return Asked(ids, rows, np.zeros(n, np.int32), random & (ids >= len(first))), state

    def tell(state, ids, scores, violation):
        told = check_told(name, ids, scores, violation, objectives, constraints)
        ids, scores, violation = map(np.asarray, told)
        once = np.unique(ids, return_index=True)[1]  # an id told twice counts once
        new = [i for i in sorted(once) if 0 <= ids[i] < len(state.rows) and ids[i] not in state.told]
        if not new:
            return state
        study = study_of(state)
        for i in new:
            study.tell(ids[i], scores[i], violation[i])
        state = state._replace(
            told=np.append(state.told, ids[new]).astype(np.int32),
            after=np.append(state.after, np.full(len(new), len(state.rows))).astype(np.int32),
            scores=np.concatenate([state.scores, scores[new]]),
            violation=np.concatenate([state.violation, violation[new]]),
        )
        held[:] = [(state, study)]
        return state

    try:
        _Study(space, masks, sampler, np.zeros(2, np.uint32), objectives, first[:0]).ask()
    except Exception as error:  # a sampler may be a person's own code
        what = f"{type(sampler).__name__} with {objectives} objective{'s' * (objectives != 1)}"
        raise BadInput(f"{name}: {what}: {_line(error)}") from None
    arguments = arguments | ({"first": first.tolist()} if len(first) else {})
    return Strategy(init, ask, tell, never_done, name, arguments, pure=False)


class _Study:
    """A study of Optuna over rows, and its open trials."""

    def __init__(self, space, masks, sampler, key, objectives, first):
        import optuna

        self.space, self.masks, self.trials = space, masks, {}
        sampler = copy.deepcopy(sampler)
        _seed(sampler, key.tolist())
        with _quiet():
            self.study = optuna.create_study(directions=["maximize"] * objectives, sampler=sampler)
            for row in first:
                named = [self.parameter(row, i) for i in range(len(row))]
                fixed = {name: int(o) for (name, options), o in zip(named, row, strict=True) if len(options) > 1}
                self.study.enqueue_trial(fixed)

    def parameter(self, row, i):
        """Name and options of decision `i` given the earlier ones of `row`."""
        decision = self.space.decisions[i]
        options = list(range(len(decision.options)))
        if self.space.allowed_of is None:
            return decision.name, options
        allowed = np.flatnonzero(np.asarray(self.masks(row))[i]).tolist()
        return decision.name + ("" if allowed == options else f"[{','.join(map(str, allowed))}]"), allowed

    def ask(self):
        """int32[L]; the trial runs until it is told."""
        row = np.zeros(self.space.length, np.int32)
        with _quiet():
            trial = self.study.ask()
            for i in range(self.space.length):
                name, options = self.parameter(row, i)
                row[i] = options[0] if len(options) == 1 else trial.suggest_categorical(name, tuple(options))
        self.trials[len(self.trials)] = trial
        return row

    def tell(self, id, scores, violation):
        """NaN among them: the trial failed."""
        from optuna.trial import TrialState

        trial, failed = self.trials[int(id)], not (np.isfinite(scores).all() and np.isfinite(violation).all())
        with _quiet():
            if failed:
                return self.study.tell(trial, state=TrialState.FAIL)
            for i, over in enumerate(violation):
                trial.set_constraint(str(i), float(over))
            return self.study.tell(trial, scores.astype(float).tolist())


def _seed(sampler, words):
    """Optuna's own `reseed_rng` draws from the operating system, so the generators are looked for by their kind."""
    from optuna.samplers import BaseSampler

    for value in vars(sampler).values():
        if isinstance(value, BaseSampler):
            _seed(value, words)
        elif isinstance(getattr(value, "rng", value), np.random.RandomState):
            getattr(value, "rng", value).seed(words)


@contextlib.contextmanager
def _quiet():
    """Optuna says that a study was made, and that some of its features are experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(level, optuna.logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:200]
