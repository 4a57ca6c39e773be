"""Search strategies: one file a method, one row here."""

from strategies.random_search import random_search
from strategies.regularized_evolution import regularized_evolution

STRATEGIES = {
    "random_search": random_search,
    "regularized_evolution": regularized_evolution,
}
