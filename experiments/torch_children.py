"""The rival: a NAS-Bench-201 candidate trained alone in eager PyTorch.

Written by this project, as fast as a good engineer writes it, to have an opponent on the same
machine: each candidate is its own small network without its zeroized edges and the edges that
cannot reach the output, the whole data set sits in memory in the wanted layout, batches are one
gather, optimiser updates are the `foreach` kernels, and the loss is never read during training.
PyTorch is an optional dependency: `pip install torch==2.13.0` (CPU build).
"""

import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

NONE, SKIP, CONV1X1, CONV3X3, POOL = range(5)
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


class Cell(nn.Module):
    """A cell of one candidate: float32[B, C, H, W] to the same shape."""

    def __init__(self, row, channels):
        super().__init__()
        wired = [(source, target, op) for (source, target), op in zip(EDGES, row, strict=True) if op != NONE]
        self.edges = [edge for edge in wired if _leads_to(3, edge[1], wired)]
        self.operations = nn.ModuleList(_operation(op, channels) for _, _, op in self.edges)

    def forward(self, x):
        """Node 3, or zeros where nothing reaches it."""
        nodes = [x, None, None, None]
        for (source, target, _), operation in zip(self.edges, self.operations, strict=True):
            if nodes[source] is not None:
                y = operation(nodes[source])
                nodes[target] = y if nodes[target] is None else nodes[target] + y
        return torch.zeros_like(x) if nodes[3] is None else nodes[3]


def _leads_to(output, node, edges):
    return node == output or any(s == node and _leads_to(output, t, edges) for s, t, _ in edges)


def _operation(op, channels):
    if op == SKIP:
        return nn.Identity()
    if op == POOL:
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    # Not in place: other edges read the same node.
    return nn.Sequential(nn.ReLU(), *_conv_norm(channels, channels, 1 if op == CONV1X1 else 3))


def _conv_norm(inputs, outputs, size, stride=1):
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return conv, nn.BatchNorm2d(outputs)


class Reduction(nn.Module):
    """The residual block that halves the image and doubles the channels."""

    def __init__(self, channels):
        super().__init__()
        self.main = nn.Sequential(
            nn.ReLU(),
            *_conv_norm(channels, 2 * channels, 3, stride=2),
            nn.ReLU(inplace=True),
            *_conv_norm(2 * channels, 2 * channels, 3),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x):
        """float32[B, C, H, W] -> float32[B, 2C, H / 2, W / 2]."""
        return self.main(x) + self.shortcut(x)


def network(row, inputs, classes, width, cells):
    """The candidate `row` (six operations, as in `EDGES`) with `cells` cells in each stage."""
    layers = [*_conv_norm(inputs, width, 3)]
    for stage, channels in enumerate((width, 2 * width, 4 * width)):
        layers += [Reduction(channels // 2)] if stage else []
        layers += [Cell(row, channels) for _ in range(cells)]
    layers += [
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(channels, classes))


def train_candidate(
    row,
    images,
    labels,
    *,
    width,
    cells,
    epochs,
    batch,
    channels_last,
    threads,
    seed,
    validation=None,
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=5e-4,
):
    """Trains one candidate; returns `(seconds, accuracy)`.

    `images` is `float32[N, H, W, C]` and `labels` `int[N]`; `validation` is such a pair, without
    which the accuracy is NaN. Whole batches only, in a new order each epoch; SGD with Nesterov
    momentum and a cosine to zero over all steps. The seconds are the training loop's, without
    building the network and without the validation.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images, labels = _images(images, layout), torch.tensor(labels, dtype=torch.long)
    classes = int(labels.max()) + 1
    model = network(row, images.shape[1], classes, width, cells).to(memory_format=layout)
    optimizer = torch.optim.SGD(
        model.parameters(),
        learning_rate,
        momentum,
        nesterov=True,
        weight_decay=weight_decay,
        foreach=True,
    )
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    start = time.perf_counter()
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images))[: len(images) // batch * batch].split(batch):
            loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - start

    if validation is None:
        return seconds, float("nan")
    with torch.inference_mode():
        model.eval()
        pairs = zip(
            _images(validation[0], layout).split(512),
            np.array_split(validation[1], range(512, len(validation[1]), 512)),
            strict=True,
        )
        right = sum((model(x).argmax(1).numpy() == y).sum() for x, y in pairs)
    return seconds, float(right) / len(validation[1])


def _images(images, layout):
    return torch.tensor(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
