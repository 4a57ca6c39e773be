"""Layered layout of small directed graphs (Sugiyama, Tagawa and Toda, 1981)."""

import itertools

import numpy as np

GAP_ACROSS, GAP_DOWN, GAP_EDGE = 40.0, 16.0, 15.0  # points: between columns, between boxes, between passing edges


def layout(sizes, edges):
    """Centres of boxes, and for each edge the points it passes, left to right, and the width (Sugiyama's steps, small).

    Args:
        sizes: (width, height) of each box, in an order in which every edge goes forward.
        edges: (from, to).
    """
    count = len(sizes)
    rank = [0] * count
    for a, b in sorted(edges, key=lambda e: e[1]):
        rank[b] = max(rank[b], rank[a] + 1)
    for i in reversed(range(count)):  # a box that reads nothing stands right before its reader
        following = [rank[b] for a, b in edges if a == i]
        if following and not any(b == i for _, b in edges):
            rank[i] = min(following) - 1 if i else 0
    rank[-1] = max([*rank[:-1], 0]) + 1  # the output stands last, also beside what nothing reads
    heights = [h for _, h in sizes]
    links: list[tuple[int, int]] = []
    routes: dict[tuple[int, int], list[int]] = {}
    for edge in dict.fromkeys(edges):
        at = [edge[0]]
        for r in range(rank[edge[0]] + 1, rank[edge[1]]):
            rank.append(r)
            heights.append(0.0)
            at.append(len(rank) - 1)
        at.append(edge[1])
        links += itertools.pairwise(at)
        routes[edge] = at
    near: list[list[list[int]]] = [[[], []] for _ in rank]
    for a, b in links:
        near[b][0].append(a)
        near[a][1].append(b)
    columns = _order([[i for i in range(len(rank)) if rank[i] == r] for r in range(max(rank) + 1)], near)
    y = _heights(columns, near, routes.values(), heights, count)
    widths = [max([sizes[i][0] for i in column if i < count], default=0.0) for column in columns]
    starts = np.cumsum([0.0, *(w + GAP_ACROSS for w in widths)])
    x = [starts[r] + widths[r] / 2 for r in rank]
    paths = {}
    for edge, at in routes.items():
        points = []
        for i in at[1:-1]:
            half = widths[rank[i]] / 2
            points += [(x[i] - half, y[i]), (x[i] + half, y[i])]
        (a, b) = edge
        start, end = (x[a] + sizes[a][0] / 2, y[a]), (x[b] - sizes[b][0] / 2, y[b])
        paths[edge] = [start, *points, end]
    return [(x[i], y[i]) for i in range(count)], paths, starts[-1] - GAP_ACROSS


def _order(columns, near):
    """Barycentre sweeps from a few starts; the order with the fewest crossings seen."""
    best, fewest = columns, _crossings(columns, near)
    shuffle = np.random.default_rng(0)
    for start in range(12):
        columns = [list(shuffle.permutation(c)) if start else list(c) for c in columns]
        for sweep in range(8):
            side = sweep % 2
            columns = [list(c) for c in columns]
            for column in columns if side == 0 else columns[::-1]:
                at = {i: k for c in columns for k, i in enumerate(c)}
                mean = {i: sum(at[j] for j in near[i][side]) / max(len(near[i][side]), 1) for i in column}
                column.sort(key=lambda i, mean=mean, at=at: mean[i] if near[i][side] else at[i])
            crossings = _crossings(columns, near)
            if crossings < fewest:
                best, fewest = columns, crossings
        if not fewest:
            break
    return best


def _crossings(columns, near):
    at = {i: k for c in columns for k, i in enumerate(c)}
    total = 0
    for column in columns:
        ends = [(at[i], at[j]) for i in column for j in near[i][1]]
        total += sum((a - c) * (b - d) < 0 for k, (a, b) in enumerate(ends) for c, d in ends[:k])
    return total


def _heights(columns, near, routes, heights, count):
    """Vertical positions: each near the mean of its neighbours, none nearer to the next in its column than allowed."""
    y = np.zeros(len(heights))
    apart = [
        [
            (heights[a] + heights[b]) / 2 + (GAP_EDGE if min(a, b) >= count else GAP_DOWN)
            for a, b in itertools.pairwise(c)
        ]
        for c in columns
    ]
    offsets = [np.cumsum([0.0, *gaps]) for gaps in apart]
    for column, offset in zip(columns, offsets, strict=True):
        y[column] = offset - offset[-1] / 2
    # the bends of one edge hold together, so that it runs straight and the boxes give way
    around = [(both[0] + both[1], [1.0] * len(both[0] + both[1])) for both in near]
    for first, *bends, last in routes:
        for i in bends:
            around[i] = ([first, last, *bends], [1.0, 1.0] + [4.0] * len(bends))
    mass = [sum(weights) or 1.0 for _, weights in around]
    for sweep in range(60):
        for column, offset in list(zip(columns, offsets, strict=True))[:: 1 if sweep % 2 else -1]:
            wanted = [np.average(y[around[i][0]], weights=around[i][1]) if around[i][0] else y[i] for i in column]
            y[column] = _isotonic(np.asarray(wanted) - offset, [mass[i] for i in column]) + offset
    return y - y.min()


def _isotonic(values, weights):
    """Nearest non-decreasing sequence in weighted least squares (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        pools.append((float(value), weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, v, m), (a, w, n) = pools.pop(), pools.pop()
            pools.append(((a * w + b * v) / (w + v), w + v, n + m))
    return np.concatenate([np.full(n, mean) for mean, _, n in pools])
