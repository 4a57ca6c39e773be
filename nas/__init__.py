"""Neural architecture search on JAX: an architecture is data, not code.

``nas.search(...)`` searches in this process, ``nas.tune.search(...)`` through Ray Tune; ``import nas`` alone does not
import Ray.
"""

from nas import config
from nas.config import Architecture
from nas.cost import Cost, load_cost
from nas.data import Data
from nas.data import load as load_data
from nas.errors import BadInput
from nas.evaluate import CandidateFailed, Job, Rung, Scratch, function
from nas.layers import Layer, counts
from nas.model import Model, evaluate_model, save_model, train_model
from nas.model import load_model as load
from nas.network import Network
from nas.objective import Limit, Objective, accuracy, mnasnet, pareto
from nas.recipe import Recipe
from nas.result import Result, Trial
from nas.search import search
from nas.space import Decision, Macro, SearchSpace
from nas.strategy import Asked, Strategy
from nas.supernet import Supernet

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Asked",
    "BadInput",
    "CandidateFailed",
    "Cost",
    "Data",
    "Decision",
    "Job",
    "Layer",
    "Limit",
    "Macro",
    "Model",
    "Network",
    "Objective",
    "Recipe",
    "Result",
    "Rung",
    "Scratch",
    "SearchSpace",
    "Strategy",
    "Supernet",
    "Trial",
    "accuracy",
    "config",
    "counts",
    "evaluate_model",
    "function",
    "load",
    "load_cost",
    "load_data",
    "mnasnet",
    "pareto",
    "save_model",
    "search",
    "train_model",
]
