"""What only Optuna's samplers promise."""

import jax
import numpy as np
import optuna
import pytest

from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace
from strategies import STRATEGIES, optuna_sampler

OPTIONS = 4


def space(allowed_of=None):
    decisions = tuple(Decision(f"d{i}", tuple("abcd")) for i in range(5))
    return SearchSpace("s", decisions, lambda net, macro: net.input, Macro(1, 1, (1, 1, 1), 1), allowed_of=allowed_of)


WEIGHTS = np.random.RandomState(0).uniform(size=(5, OPTIONS)).astype(np.float32)


def score(row):
    return WEIGHTS[np.arange(5), row].sum()


def rows_of(strategy, trials, key=0, scores=lambda row: [score(row)]):
    state, rows = strategy.init(jax.random.key(key)), []
    for _ in range(trials):
        asked, state = strategy.ask(state, 1)
        rows.append(np.asarray(asked.row[0]))
        told = np.asarray([scores(rows[-1])], np.float32)
        state = strategy.tell(state, asked.id, told, np.zeros((1, 0), np.float32))
    return np.asarray(rows), state


class Climber(optuna.samplers.BaseSampler):
    """A person's own sampler, with memory in itself and a generator that nobody seeded."""

    def __init__(self):
        self.generator = optuna.samplers.RandomSampler()
        self.calls = 0

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, name, distribution):
        self.calls += 1
        best = study.best_trial.params if self.calls > 30 else {}
        drawn = self.generator.sample_independent(study, trial, name, distribution)
        return drawn if self.calls % 4 == 0 else best.get(name, drawn)


@pytest.mark.parametrize(
    "sampler",
    [
        Climber(),
        optuna.samplers.RandomSampler(),
        optuna.samplers.NSGAIISampler(population_size=5),
        optuna.samplers.TPESampler(n_startup_trials=4),
    ],
    ids=lambda s: type(s).__name__,
)
def test_any_sampler_is_seeded_by_the_search_and_resumes_from_any_state(sampler):
    strategy = optuna_sampler(space(), sampler=sampler)
    whole, end = rows_of(strategy, 20)
    assert (rows_of(optuna_sampler(space(), sampler=sampler), 20)[0] == whole).all()
    assert (rows_of(strategy, 20, key=1)[0] != whole).any()
    # a state that an earlier call gave is as good as the last one
    for stop in (3, 12):
        early = end._replace(
            rows=end.rows[:stop], **{n: getattr(end, n)[:stop] for n in ("told", "after", "scores", "violation")}
        )
        assert (strategy.ask(early, 1)[0].row[0] == whole[stop]).all()


def test_tpe_is_optuna_s_own(monkeypatch):
    """The same trials as a study in Optuna's ask-and-tell, with the same seed."""
    strategy = STRATEGIES["tpe"](space(), n_startup_trials=5)
    ours, state = rows_of(strategy, 25)
    sampler = optuna.samplers.TPESampler(n_startup_trials=5, multivariate=True)
    for generator in (sampler._rng.rng, sampler._random_sampler._rng.rng):
        generator.seed(state.key.tolist())
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    optuna.logging.set_verbosity(verbosity)
    for row in ours:
        trial = study.ask()
        theirs = [trial.suggest_categorical(f"d{i}", list(range(OPTIONS))) for i in range(5)]
        assert theirs == row.tolist()
        study.tell(trial, float(score(row)))


def test_a_decision_without_a_choice_is_not_a_parameter():
    """d1 is inactive below d0 = 2; d2 must differ from d0."""
    seen = []

    class Spy(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            seen.append((name, distribution.choices))
            return super().sample_independent(study, trial, name, distribution)

    def allowed(row, i):
        import jax.numpy as jnp

        options = jnp.arange(OPTIONS)
        return {1: (row[0] > 1) | (options == 0), 2: options != row[0]}.get(i, options >= 0)

    made = space(allowed)
    rows, _ = rows_of(optuna_sampler(made, sampler=Spy()), 40)
    assert bool(made.valid(rows).all())
    assert sum(name == "d1" for name, _ in seen) - 1 <= (rows[:, 0] > 1).sum() <= sum(name == "d1" for name, _ in seen)
    assert ("d2[0,1,3]", (0, 1, 3)) in seen
    assert all(name != "d2" for name, _ in seen)


def test_a_limit_is_kept_by_a_sampler_that_was_given_no_constraints_function():
    sampler = optuna.samplers.TPESampler(n_startup_trials=10, multivariate=True)
    strategy = optuna_sampler(space(), sampler=sampler, constraints=1)
    state, rows = strategy.init(jax.random.key(0)), []
    for _ in range(60):
        asked, state = strategy.ask(state, 1)
        row = np.asarray(asked.row[0])
        rows.append(row)
        over = np.asarray([[max(0.0, row.sum() / 5 - 1)]], np.float32)  # a random row's sum is 7.5
        state = strategy.tell(state, asked.id, np.asarray([[row.sum()]], np.float32), over)
    assert np.mean([row.sum() <= 5 for row in rows[30:]]) > 2 * np.mean([row.sum() <= 5 for row in rows[:10]])


def test_candidates_are_random_until_enough_have_finished():
    strategy = STRATEGIES["tpe"](space(), n_startup_trials=3)
    state, random = strategy.init(jax.random.key(0)), []
    for value in (1.0, np.nan, 2.0, 3.0, 4.0):  # the failed one does not count
        asked, state = strategy.ask(state, 1)
        random.append(bool(asked.random[0]))
        state = strategy.tell(state, asked.id, np.asarray([[value]], np.float32), np.zeros((1, 0), np.float32))
    assert random == [True, True, True, True, False]


@pytest.mark.parametrize("name", ["tpe", "nsga2", "nsga3"])
def test_rows_that_are_given_come_first_and_are_learnt_from(name):
    """In a space where d2 must differ from d0."""
    made = space(lambda row, i: np.arange(OPTIONS) != row[0] if i == 2 else np.ones(OPTIONS, bool))
    given = [[3, 1, 0, 2, 2], [0, 0, 1, 0, 0]]
    strategy = STRATEGIES[name](made, first=given)
    state = strategy.init(jax.random.key(0))
    asked, state = strategy.ask(state, 3)
    assert asked.row[:2].tolist() == given and asked.random.tolist() == [False, False, True]
    state = strategy.tell(state, asked.id, np.ones((3, 1), np.float32), np.zeros((3, 0), np.float32))
    assert bool(made.valid(strategy.ask(state, 1)[0].row).all())
    assert strategy.arguments["first"] == given


def test_a_sampler_for_one_objective_is_refused_for_two():
    cma = optuna.samplers.CmaEsSampler()
    assert optuna_sampler(space(), sampler=cma).name == "optuna_sampler"
    with pytest.raises(BadInput, match=r"^optuna_sampler: CmaEsSampler with 2 objectives: "):
        optuna_sampler(space(), sampler=cma, objectives=2)


@pytest.mark.parametrize(
    "name, bad, said",
    [
        ("tpe", {"n_startup_trials": 0}, "n_startup_trials"),
        ("tpe", {"n_ei_candidates": 0}, "n_ei_candidates"),
        ("tpe", {"multivariate": False, "group": True}, "group"),
        ("nsga2", {"population": 1}, "population"),
        ("nsga3", {"population": 1}, "population"),
    ],
)
def test_bad_settings(name, bad, said):
    with pytest.raises(BadInput, match=f"^{name}: .*{said}"):
        STRATEGIES[name](space(), **bad)


def test_optuna_keeps_its_own_settings(capsys):
    before = optuna.logging.get_verbosity()
    rows_of(STRATEGIES["nsga3"](space(), population=4), 6)
    assert optuna.logging.get_verbosity() == before
    assert capsys.readouterr() == ("", "")
