"""A whole search in Python; run it with ``python -m experiments.quickstart``, on a laptop or as a Ray job."""

from nas import Recipe, Scratch, config, pareto, tune
from nas.progress import progress
from search_spaces import SPACES, nasbench201
from strategies import regularized_evolution


def main(out: str = "runs/quickstart", trials: int = 16, epochs: int = 3) -> None:
    """Searches NAS-Bench-201's cells on digits for accuracy against parameters, and saves the best as a config."""
    space = nasbench201(width=8, depth=1)
    result = tune.search(
        space,
        regularized_evolution(space, population=8, tournament=3, objectives=2),
        Scratch(space, data="digits", recipe=Recipe(epochs=epochs, batch=64)),
        objective=pareto("params"),
        trials=trials,
        out=out,
        observer=progress(),
    )
    config.from_result(result).save(f"{out}/best.json")
    best = config.load(f"{out}/best.json", spaces=SPACES)
    print(best.space.decode(best.row), dict(best.metrics))


if __name__ == "__main__":
    main()
