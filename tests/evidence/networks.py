"""Small networks of one shape, many trained at once, each on rows of its own.

A network is d-128-128-10 with ReLU, trained by SGD with Nesterov momentum, weight decay and a cosine schedule. All
networks take the same number of iterations, whatever the size of their coreset (Zheng et al. 2023, section 4.1). A
weight is an array of all networks' (M, in, out), so that a step is one 3-d matrix product.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

HIDDEN = 128
BATCH = 125
RATE, MOMENTUM, DECAY = 0.02, 0.9, 5e-4

Log = Callable[[int, Ints, Floats], None]
"""Called with the iteration, the rows of the first network's batch, and its log-probabilities before the step."""


class Networks(NamedTuple):
    """Weights and biases of M networks, layer by layer."""

    weights: list[Floats]  # (M, in, out)
    biases: list[Floats]  # (M, 1, out)


def initial(inputs: int, classes: int, count: int, random: np.random.Generator) -> Networks:
    """Draw He-normal weights, the same for every network, so that only rows tell them apart; biases are 0."""
    sizes = [inputs, HIDDEN, HIDDEN, classes]
    weights = [
        np.repeat(random.normal(0, np.sqrt(2 / before), (1, before, after)), count, axis=0).astype(np.float32)
        for before, after in itertools.pairwise(sizes)
    ]
    return Networks(weights, [np.zeros((count, 1, after), np.float32) for after in sizes[1:]])


def forward(networks: Networks, x: Floats) -> list[Floats]:
    """Return the inputs of every layer and the logits: x (M, B, d) or (B, d)."""
    layers = [x]
    for depth, (weight, bias) in enumerate(zip(*networks, strict=True)):
        out = np.matmul(layers[-1], weight)
        out += bias
        if depth < len(networks.weights) - 1:
            np.maximum(out, 0, out=out)
        layers.append(out)
    return layers


def log_softmax(logits: Floats) -> Floats:
    """Return log-probabilities over the last axis."""
    below = logits - logits.max(axis=-1, keepdims=True)
    out: Floats = below - np.log(np.exp(below).sum(axis=-1, keepdims=True))
    return out


def batches(rows: Sequence[Ints], iterations: int, random: np.random.Generator) -> Ints:
    """Return every network's rows of every batch, (M, iterations, BATCH): its coreset shuffled again and again."""
    needed = iterations * BATCH
    streams = []
    for own in rows:
        passes = -(-needed // len(own))
        streams.append(np.concatenate([random.permutation(own) for _ in range(passes)])[:needed])
    return np.stack(streams).reshape(len(rows), iterations, BATCH)


def step(tensor: Floats, slope: Floats, moving: Floats, rate: np.float32, decay: np.float32) -> None:
    """Take one step with Nesterov momentum, in place."""
    if decay:
        slope += decay * tensor
    moving *= np.float32(MOMENTUM)
    moving += slope
    slope += np.float32(MOMENTUM) * moving
    slope *= rate
    tensor -= slope


def train(x: Floats, y: Ints, rows: Sequence[Ints], iterations: int, seed: int, log: Log | None = None) -> Networks:
    """Train a network on each list of rows of x (n, d) and y (n,)."""
    random = np.random.default_rng(seed)
    count, classes = len(rows), int(y.max()) + 1
    networks = initial(x.shape[1], classes, count, random)
    order = batches(rows, iterations, random)
    tensors = [*networks.weights, *networks.biases]
    decayed = [DECAY] * len(networks.weights) + [0.0] * len(networks.biases)
    velocity = [np.zeros_like(tensor) for tensor in tensors]
    places = np.arange(count)[:, None], np.arange(BATCH)[None]
    for iteration in range(iterations):
        batch = order[:, iteration]
        layers = forward(networks, x[batch])
        log_p = log_softmax(layers[-1])
        if log is not None:
            log(iteration, batch[0], log_p[0])
        gradient = np.exp(log_p)
        gradient[(*places, y[batch])] -= 1
        gradient /= BATCH
        of_weights: list[Floats] = []
        of_biases: list[Floats] = []
        for depth in range(len(networks.weights) - 1, -1, -1):
            of_weights.append(np.matmul(layers[depth].transpose(0, 2, 1), gradient))
            of_biases.append(gradient.sum(axis=1, keepdims=True))
            if depth:
                gradient = np.matmul(gradient, networks.weights[depth].transpose(0, 2, 1))
                gradient *= layers[depth] > 0
        rate = np.float32(RATE * 0.5 * (1 + np.cos(np.pi * iteration / iterations)))
        slopes = [*of_weights[::-1], *of_biases[::-1]]
        for tensor, slope, moving, decay in zip(tensors, slopes, velocity, decayed, strict=True):
            step(tensor, slope, moving, rate, np.float32(decay))
    return networks


def accuracies(networks: Networks, x: Floats, y: Ints) -> list[float]:
    """Return every network's accuracy on x (n, d), y (n,)."""
    predicted = forward(networks, x)[-1].argmax(axis=-1)
    return [float(share) for share in (predicted == y).mean(axis=1)]


def embedded(networks: Networks, x: Floats) -> Floats:
    """Return the first network's last hidden layer, (n, HIDDEN)."""
    layer: Floats = forward(networks, x)[-2][0]
    return layer
