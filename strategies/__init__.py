"""Search strategies: one file a method, one row here."""

from strategies.asha import asha
from strategies.local_search import local_search
from strategies.mixed_fidelity import mixed_fidelity
from strategies.optuna_sampler import nsga2, nsga3, optuna_random, tpe
from strategies.optuna_sampler import optuna_sampler as optuna_sampler
from strategies.ppo import ppo
from strategies.predictor import predictor
from strategies.random_search import random_search
from strategies.regularized_evolution import regularized_evolution
from strategies.reinforce import reinforce
from strategies.successive_halving import hyperband, successive_halving

STRATEGIES = {
    "random_search": random_search,
    "regularized_evolution": regularized_evolution,
    "reinforce": reinforce,
    "ppo": ppo,
    "local_search": local_search,
    "tpe": tpe,
    "nsga2": nsga2,
    "nsga3": nsga3,
    "optuna_random": optuna_random,
    "predictor": predictor,
    "successive_halving": successive_halving,
    "hyperband": hyperband,
    "asha": asha,
    "mixed_fidelity": mixed_fidelity,
}
