"""The rival: a search step of first-order DARTS in eager PyTorch.

Written by this project as a good engineer writes it: what edges share is computed once (the ReLU and both pools of a
value, with their normalisation), optimisers are the `foreach` kernels, nothing is read back during a step. PyTorch is
an optional dependency: `pip install torch==2.13.0` (CPU build).
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

NODES, INPUTS, OPERATIONS = 4, 2, 8  # none, two pools, skip, two separable and two dilated convolutions
EDGES = sum(INPUTS + node for node in range(NODES))


def norm(channels, affine=False):
    """Batch normalisation as DARTS searches with it, without scale and offset."""
    return nn.BatchNorm2d(channels, affine=affine)


def depthwise(channels, kernel, stride, dilation):
    """Depthwise and pointwise convolution and normalisation, of what the ReLU gives."""
    pad = dilation * (kernel - 1) // 2
    return [
        nn.Conv2d(channels, channels, kernel, stride, pad, dilation, channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        norm(channels),
    ]


class FactorizedReduce(nn.Module):
    """Half the height and width from two shifted 1x1 convolutions; its ReLU is done by who calls it."""

    def __init__(self, inputs, outputs, affine=False):
        super().__init__()
        self.halves = nn.ModuleList(nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False) for _ in range(2))
        self.norm = norm(outputs, affine)

    def forward(self, x):
        """[B, C, H, W] -> [B, C', H / 2, W / 2]."""
        return self.norm(torch.cat([self.halves[0](x), self.halves[1](x[:, :, 1:, 1:])], 1))


class Edge(nn.Module):
    """What the operations with weights make of one value, weighted."""

    def __init__(self, channels, stride):
        super().__init__()
        self.skip = nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
        self.convolutions = nn.ModuleList(
            nn.Sequential(*depthwise(channels, k, stride, 1), nn.ReLU(inplace=True), *depthwise(channels, k, 1, 1))
            for k in (3, 5)
        )
        self.convolutions.extend(nn.Sequential(*depthwise(channels, k, stride, 2)) for k in (3, 5))

    def forward(self, x, positive, pools, gates):
        """The sum of gate times operation; gates [8]."""
        skip = self.skip(x) if isinstance(self.skip, nn.Identity) else self.skip(positive)
        total = gates[1] * pools[0] + gates[2] * pools[1] + gates[3] * skip
        for gate, operation in zip(gates[4:], self.convolutions, strict=True):
            total = total + gate * operation(positive)
        return total


class Cell(nn.Module):
    """Every earlier value feeds every node."""

    def __init__(self, before, last, channels, reduces, halve):
        super().__init__()
        self.stride = 2 if reduces else 1
        self.before = FactorizedReduce(before, channels, True) if halve else self._preprocess(before, channels)
        self.last = self._preprocess(last, channels)
        self.edges: Any = nn.ModuleList(
            nn.ModuleList(Edge(channels, self.stride if i < INPUTS else 1) for i in range(INPUTS + node))
            for node in range(NODES)
        )
        self.norms: Any = nn.ModuleList(
            nn.ModuleList(norm(channels) for _ in range(2)) for _ in range(INPUTS + NODES - 1)
        )

    @staticmethod
    def _preprocess(inputs, channels):
        return nn.Sequential(nn.Conv2d(inputs, channels, 1, bias=False), norm(channels, True))

    def _shared(self, i, x):
        stride = self.stride if i < INPUTS else 1
        maxima = functional.max_pool2d(x, 3, stride, 1)
        means = functional.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
        return x, functional.relu(x), (self.norms[i][0](maxima), self.norms[i][1](means))

    def forward(self, before, last, gates):
        """Gates [14, 8]; the nodes, concatenated."""
        inputs = self.before(functional.relu(before)), self.last(functional.relu(last))
        values = [self._shared(i, x) for i, x in enumerate(inputs)]
        rows, nodes = iter(gates), list[torch.Tensor]()
        for edges in self.edges:
            nodes.append(sum(edge(*value, next(rows)) for edge, value in zip(edges, values, strict=True)))
            if len(values) < len(self.norms):
                values.append(self._shared(len(values), nodes[-1]))
        return torch.cat(nodes, 1)


class Search(nn.Module):
    """The supernet: float32[B, C, H, W] and logits [2, 14, 8] to float32[B, classes]."""

    def __init__(self, width, depth, classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * width, 3, 1, 1, bias=False), norm(3 * width, True))
        self.cells, channels, before, last, halve = nn.ModuleList(), width, 3 * width, 3 * width, False
        self.reduces = [i in (depth // 3, 2 * depth // 3) for i in range(depth)]
        for reduces in self.reduces:
            channels *= 2 if reduces else 1
            self.cells.append(Cell(before, last, channels, reduces, halve))
            before, last, halve = last, NODES * channels, reduces
        self.head = nn.Linear(last, classes)

    def forward(self, x, logits):
        """Logits of classes."""
        gates = logits.softmax(-1)
        before = last = self.stem(x)
        for cell, reduces in zip(self.cells, self.reduces, strict=True):
            before, last = last, cell(before, last, gates[int(reduces)])
        return self.head(last.mean((2, 3)))


def searcher(width, depth, classes, *, channels_last, threads, seed=0):
    """``step(train, valid)`` on pairs (images float32[B, C, H, W], labels int64[B]): logits first, then weights."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model: Any = Search(width, depth, classes)
    model = model.to(memory_format=layout)
    logits = (1e-3 * torch.randn(2, EDGES, OPERATIONS)).requires_grad_()
    weights = list(model.parameters())
    optimizers = [
        torch.optim.Adam([logits], 3e-4, (0.5, 0.999), weight_decay=1e-3, foreach=True),
        torch.optim.SGD(weights, 0.025, 0.9, weight_decay=3e-4, foreach=True),
    ]

    def step(train, valid):
        for optimizer, (images, labels), of in zip(optimizers, (valid, train), ([logits], weights), strict=True):
            loss = functional.cross_entropy(model(images, logits), labels)
            # of what this half trains alone, as autograd need not go further
            for tensor, gradient in zip(of, torch.autograd.grad(loss, of), strict=True):
                tensor.grad = gradient
            if of is weights:
                nn.utils.clip_grad_norm_(weights, 5.0)
            optimizer.step()

    return step, layout
