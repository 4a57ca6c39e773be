"""Once-for-all at a size that two cores train: one supernet on CIFAR-10, checked, and specialised for several devices.

Cai et al., "Once-for-All", ICLR 2020. Sub-networks are measured (a) in the shared weights, batch norm recalibrated,
nothing trained; (b) trained alone on as many images as the whole supernet run; (b') alone on that number divided by
the number of sub-networks compared; (c) with the weights of a single-stage supernet: as many images, and two networks
a step, the mean of (a). Then a predictor of accuracies is fitted to more of (a), and an architecture found for each
device and limit. A killed run goes on with the same command: ``python -m experiments.once_for_all --out runs/ofa``.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments.once_for_all_devices import devices, draw, specialised
from experiments.once_for_all_networks import Notebook, alone, compared, inherited, spread
from experiments.once_for_all_report import write_report
from nas import Recipe, load_data
from nas.files import write_json
from nas.sharing import Sharing
from nas.space import Macro
from search_spaces import ofa_mbv3_small
from strategies.once_for_all import once_for_all

AUGMENT = ("crop:4", "flip")


def options() -> argparse.Namespace:
    """Of the command line; ``--quick`` overrides sizes with ones that finish in minutes."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--images", type=int, default=5000, help="of CIFAR-10 to train on")
    made.add_argument("--epochs", type=int, default=20)
    made.add_argument("--width", type=int, default=16, help="of the stem in training; devices are priced at 32")
    made.add_argument("--networks", type=int, default=12, help="compared with training alone")
    made.add_argument("--measured", type=int, default=60, help="sub-networks that the predictor is fitted to")
    made.add_argument("--rounds", type=int, default=15, help="of timing on this machine")
    made.add_argument("--rule", default="single_stage", choices=("single_stage", "progressive"), help="for the devices")
    made.add_argument("--distillation", type=float, default=1.0, help="weight of the teacher's loss")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--data", default="cifar10")
    made.add_argument("--quick", action="store_true")
    found = made.parse_args()
    if found.quick:
        small = dict(images=640, epochs=5, width=8, networks=3, measured=10, rounds=3)
        found = argparse.Namespace(**{**vars(found), **small})
    return found


def main() -> None:
    """Everything, piece by piece; what is done already is read from ``figures.json``."""
    o = options()
    o.out.mkdir(parents=True, exist_ok=True)
    space = ofa_mbv3_small(kernels=(3, 5))
    data, notes = load_data(o.data, limit=o.images), Notebook(o.out / "figures.json")
    recipe = Recipe(epochs=o.epochs, batch=64, learning_rate=0.1, weight_decay=1e-4, warmup=0.05, augment=AUGMENT)
    macro = Macro(o.width, 1, data.input_shape, data.num_classes)

    def shared(rule, **settings):
        sharing = Sharing(space, partial(once_for_all, space, rule=rule, **settings), data, recipe, macro)
        return inherited(sharing, sharing.train(o.seed, o.out / f"{rule}.safetensors"), notes, rule)

    rules = {"progressive": {"distillation": o.distillation}, "single_stage": {"sampled": 2}}
    rows, of_shared = spread(space, macro, o.networks, o.seed), shared(o.rule, **rules[o.rule])
    more = np.asarray(space.sample(jax.random.key(o.seed + 1), o.measured))
    known = np.concatenate([rows, more]), [of_shared(row)["accuracy"] for row in (*rows, *more)]
    found = specialised(space, *known, devices(space, o.rounds, o.out), of_shared, o.seed)
    write_json(o.out / "specialised.json", found)
    draw(found, o.out / "devices.png")
    print(f"report: {write_report(o.out)}", flush=True)
    of_rule, train_alone = {o.rule: of_shared}, alone(space, data, recipe, macro, o.seed, notes)
    of_rule |= {rule: shared(rule, **settings) for rule, settings in rules.items() if rule != o.rule}
    accuracies = {
        "a": [of_rule["progressive"](row) for row in rows],
        "c": [of_rule["single_stage"](row) for row in rows],
        "b'": [train_alone(row, max(1, o.epochs // o.networks)) for row in rows],
        "b": [train_alone(row, o.epochs) for row in rows],
    }
    summary = compared(space, macro, rows, accuracies)
    write_json(o.out / "compared.json", summary)
    write_report(o.out)
    print(summary["text"], f"predictor on held-out sub-networks: {found['predictor']}", sep="\n")


if __name__ == "__main__":
    main()
