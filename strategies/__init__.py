"""Search strategies: one file a method, one row here."""

from collections.abc import Callable

from nas.one_shot import OneShot
from strategies.asha import asha
from strategies.darts import darts
from strategies.drnas import drnas
from strategies.enas import enas
from strategies.fbnet import fbnet
from strategies.gdas import gdas
from strategies.local_search import local_search
from strategies.mixed_fidelity import mixed_fidelity
from strategies.once_for_all import once_for_all
from strategies.optuna_sampler import nsga2, nsga3, optuna_random, tpe
from strategies.optuna_sampler import optuna_sampler as optuna_sampler
from strategies.pc_darts import pc_darts
from strategies.ppo import ppo
from strategies.predictor import predictor
from strategies.proxylessnas import proxylessnas
from strategies.random_search import random_search
from strategies.regularized_evolution import regularized_evolution
from strategies.reinforce import reinforce
from strategies.single_path import single_path
from strategies.snas import snas
from strategies.successive_halving import hyperband, successive_halving

# multi-trial: they ask for candidates and are told their scores
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

# weight-sharing: they train the weights of all candidates together
ONE_SHOT: dict[str, Callable[..., OneShot]] = {
    "darts": darts,
    "gdas": gdas,
    "snas": snas,
    "drnas": drnas,
    "pc_darts": pc_darts,
    "fbnet": fbnet,
    "proxylessnas": proxylessnas,
    "enas": enas,
    "single_path": single_path,
    "once_for_all": once_for_all,
}
