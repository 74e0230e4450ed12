"""Backward pass of the graph attention network of `tamis.native.learning.gat`, and Adam: training on fixed batches."""

# mypy: disable-error-code="no-untyped-def"

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.learning.gat import (
    HEADS,
    HIDDEN,
    SLOPE,
    WIDTH,
    Activations,
    Floats,
    Weights,
    class_probabilities,
    empty_activations,
    forward,
    n_parameters,
    split,
)
from tamis.native.math import rng
from tamis.native.math.dense import add_scaled, dot
from tamis.native.math.elementary import natural_log
from tamis.native.neighbours.graph import SELF, Graph
from tamis.native.simd.fma import multiply_add

BETA1 = 0.9
BETA2 = 0.999
EPSILON = 1e-8
"""Adam's constants as published (Kingma, Ba: Adam, ICLR 2015, algorithm 1)."""

_ONE = np.float32(1.0)
_WORDS = 2.0**64


class Batch(NamedTuple):
    """A training batch."""

    x: Floats  # [n, d]
    graph: Graph
    labels: NDArray[np.int32]  # [n]


class Schedule(NamedTuple):
    """How to train."""

    steps: int
    rate: float = 0.01
    decay: float = 5e-4  # of the L2 penalty
    masked: float = 0.1  # share of undirected edges left out of a step


@kernel
def _loss(u, labels, class_weights, weights, gradient, du):
    """Weighted mean cross entropy, with its gradient by u, W2 (the direct part) and b2."""
    probabilities = np.empty(len(weights.b2), u.dtype)
    total = u.dtype.type(0)
    for i in range(len(u)):
        total += class_weights[labels[i]]
    loss = 0.0
    for i in range(len(u)):
        class_probabilities(u[i], weights.w2, weights.b2, probabilities)
        label = labels[i]
        share = class_weights[label] / total
        loss -= share * natural_log(max(np.float64(probabilities[label]), 1e-300))
        probabilities[label] -= 1
        for j in range(len(probabilities)):
            probabilities[j] *= share
        add_scaled(gradient.b2, u.dtype.type(1), probabilities)
        for c in range(HIDDEN):
            du[i, c] = dot(probabilities, weights.w2[c])
            add_scaled(gradient.w2[c], u[i, c], probabilities)
    return loss


@piece
def _slope(x):
    return _ONE if x > 0 else SLOPE


@kernel
def _second_layer(graph, activations, weights, gradient, du, dz):
    """Add what du gives to dz, and to the gradient by the second layer's attention vectors and W2."""
    n, slots = graph.neighbours.shape
    z, terms, alpha = activations.z, activations.terms2, activations.alpha2
    dterms = np.zeros((n, 2), z.dtype)
    dalpha = np.empty(slots, z.dtype)
    for i in range(n):
        mean = z.dtype.type(0)
        for s in range(slots):
            j = graph.neighbours[i, s]
            dalpha[s] = dot(du[i], z[j])
            mean = multiply_add(alpha[i, s], dalpha[s], mean)
            add_scaled(dz[j], alpha[i, s], du[i])
        for s in range(slots):
            j = graph.neighbours[i, s]
            d = alpha[i, s] * (dalpha[s] - mean) * _slope(terms[j, 0] + terms[i, 1])
            dterms[j, 0] += d
            dterms[i, 1] += d
    dpair = np.zeros((2, HIDDEN), z.dtype)
    pair = np.empty((2, HIDDEN), z.dtype)
    for c in range(HIDDEN):
        pair[0, c] = dot(weights.w2[c], weights.source2)
        pair[1, c] = dot(weights.w2[c], weights.target2)
    for i in range(n):
        for side in range(2):
            add_scaled(dz[i], dterms[i, side], pair[side])
            add_scaled(dpair[side], dterms[i, side], z[i])
    for c in range(HIDDEN):
        add_scaled(gradient.w2[c], dpair[0, c], weights.source2)
        add_scaled(gradient.w2[c], dpair[1, c], weights.target2)
        add_scaled(gradient.source2, dpair[0, c], weights.w2[c])
        add_scaled(gradient.target2, dpair[1, c], weights.w2[c])


@kernel
def _first_layer(x, graph, activations, weights, gradient, dz):
    """From dz, which becomes the gradient by the sum before the ELU, to the first layer's parameters."""
    n, slots = graph.neighbours.shape
    h, z, terms, alpha = activations.h, activations.z, activations.terms1, activations.alpha1
    for i in range(n):
        for c in range(HIDDEN):
            if not z[i, c] > 0:
                dz[i, c] *= z[i, c] + 1
        add_scaled(gradient.b1, z.dtype.type(1), dz[i])
    dh = np.zeros((n, HIDDEN), h.dtype)
    dterms = np.zeros((n, 2 * HEADS), h.dtype)
    dalpha = np.empty((slots, HEADS), h.dtype)
    h_of, dz_of, dh_of = (h.reshape(n, HEADS, WIDTH), dz.reshape(n, HEADS, WIDTH), dh.reshape(n, HEADS, WIDTH))
    sources, targets = weights.source1.reshape(HEADS, WIDTH), weights.target1.reshape(HEADS, WIDTH)
    for i in range(n):
        for head in range(HEADS):
            mean = h.dtype.type(0)
            for s in range(slots):
                j = graph.neighbours[i, s]
                dalpha[s, head] = dot(dz_of[i, head], h_of[j, head])
                mean = multiply_add(alpha[i, s, head], dalpha[s, head], mean)
                add_scaled(dh_of[j, head], alpha[i, s, head], dz_of[i, head])
            for s in range(slots):
                j = graph.neighbours[i, s]
                d = alpha[i, s, head] * (dalpha[s, head] - mean) * _slope(terms[j, head] + terms[i, HEADS + head])
                dterms[j, head] += d
                dterms[i, HEADS + head] += d
    dsources, dtargets = gradient.source1.reshape(HEADS, WIDTH), gradient.target1.reshape(HEADS, WIDTH)
    for i in range(n):
        for head in range(HEADS):
            source, target = dterms[i, head], dterms[i, HEADS + head]
            add_scaled(dh_of[i, head], source, sources[head])
            add_scaled(dh_of[i, head], target, targets[head])
            add_scaled(dsources[head], source, h_of[i, head])
            add_scaled(dtargets[head], target, h_of[i, head])
        for c in range(x.shape[1]):
            add_scaled(gradient.w1[c], x[i, c], dh[i])


def loss_and_gradient(
    x: Floats,
    graph: Graph,
    labels: NDArray[np.int32],
    class_weights: Floats,
    weights: Weights,
    activations: Activations,
    gradient: Weights,
) -> float:
    """Class-weighted mean cross entropy of a batch, and its gradient by every parameter.

    Parameters
    ----------
    x : float [n, d]
    graph : Graph
    labels : int32 [n]
    class_weights : float [classes]
    weights : Weights
    activations : Activations
        Overwritten.
    gradient : Weights
        Overwritten.

    Returns
    -------
    float
        The loss.
    """
    for part in gradient:
        part.fill(0)
    forward(x, graph, weights, activations)
    du, dz = np.empty_like(activations.u), np.zeros_like(activations.z)
    loss = float(_loss(activations.u, labels, class_weights, weights, gradient, du))
    _second_layer(graph, activations, weights, gradient, du, dz)
    _first_layer(x, graph, activations, weights, gradient, dz)
    return loss


@kernel
def drop_edges(graph, drawn, threshold, log_weights):
    """Copy a graph's log weights, -inf where the draw of an undirected pair is below a threshold.

    Parameters
    ----------
    graph : Graph
    drawn : uint64 [n]
        Random words of the nodes; a pair's is a mix of both, the same from either side.
    threshold : uint64
    log_weights : float [n, slots]
        Overwritten.
    """
    n, slots = graph.neighbours.shape
    for i in range(n):
        log_weights[i, SELF] = graph.log_weights[i, SELF]
        for s in range(SELF + 1, slots):
            mixed = (drawn[i] ^ drawn[graph.neighbours[i, s]]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(32)
            mixed *= np.uint64(0x9E3779B97F4A7C15)
            kept = mixed >= threshold
            log_weights[i, s] = graph.log_weights[i, s] if kept else -np.inf


@kernel
def _adam(parameters, gradient, moments, step_size, decay, correction):
    first, second = moments[0], moments[1]
    b1, b2 = parameters.dtype.type(BETA1), parameters.dtype.type(BETA2)
    one, epsilon = parameters.dtype.type(1), parameters.dtype.type(EPSILON)
    size, root = parameters.dtype.type(step_size), parameters.dtype.type(correction)
    lam = parameters.dtype.type(decay)
    for k in range(len(parameters)):
        g = multiply_add(lam, parameters[k], gradient[k])
        first[k] = multiply_add(b1, first[k], (one - b1) * g)
        second[k] = multiply_add(b2, second[k], (one - b2) * g * g)
        parameters[k] -= size * first[k] / (np.sqrt(second[k]) / root + epsilon)


def adam_step(parameters: Floats, gradient: Floats, moments: Floats, step: int, rate: float, decay: float) -> None:
    """One step of Adam with L2 weight decay added to the gradient.

    Parameters
    ----------
    parameters, gradient : float [p]
        The first is changed.
    moments : float [2, p]
        Zeros before the first step; changed.
    step : int
        1 for the first.
    rate, decay : float
        Learning rate, and the factor of the parameters that is added to their gradient.
    """
    power1 = power2 = 1.0
    for _ in range(step):  # products of our own: the C library's powers differ between machines
        power1 *= BETA1
        power2 *= BETA2
    _adam(parameters, gradient, moments, rate / (1.0 - power1), decay, float(np.sqrt(1.0 - power2)))


def initial_parameters(key: NDArray[np.uint64], d: int, classes: int) -> NDArray[np.float32]:
    """Glorot-uniform weights, zero biases: float32 [n_parameters(d, classes)].

    Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010, equation
    16; an attention vector counts as a matrix with one column a head.
    """
    flat = (2.0 * rng.uniform(key, 0, n_parameters(d, classes)) - 1.0).astype(np.float32)
    parts = split(flat, d, classes)
    fans = (d + HIDDEN, WIDTH + 1, WIDTH + 1, None, HIDDEN + classes, classes + 1, classes + 1, None)
    for part, fan in zip(parts, fans, strict=True):
        np.multiply(part, np.float32(0.0 if fan is None else np.sqrt(6.0 / fan)), out=part)
    return flat


def train(
    batches: Sequence[Batch], class_weights: Floats, key: NDArray[np.uint64], schedule: Schedule, flat: Floats
) -> list[float]:
    """Train on batches in turns.

    Parameters
    ----------
    batches : sequence of Batch
    class_weights : float [classes]
    key : uint64 [2]
        Of the stream that draws which edges a step leaves out.
    schedule : Schedule
    flat : float [p]
        The initial parameters; changed.

    Returns
    -------
    list of float
        The loss before every step.
    """
    largest, slots = max(len(batch.x) for batch in batches), batches[0].graph.neighbours.shape[1]
    d, classes = batches[0].x.shape[1], len(class_weights)
    kind = flat.dtype.type
    gradient, moments = np.zeros_like(flat), np.zeros((2, len(flat)), kind)
    weights, slopes = split(flat, d, classes), split(gradient, d, classes)
    activations = empty_activations(largest, slots, kind)
    log_weights, drawn = np.empty((largest, slots), kind), np.empty(largest, np.uint64)
    losses = []
    for step in range(schedule.steps):
        x, graph, labels = batches[step % len(batches)]
        n = len(x)
        rng.random_bits(key, step * largest, drawn)
        drop_edges(graph, drawn, np.uint64(int(schedule.masked * _WORDS)), log_weights)
        masked = Graph(graph.neighbours, log_weights[:n])
        room = type(activations)(*(part[:n] for part in activations))
        losses.append(float(loss_and_gradient(x, masked, labels, class_weights, weights, room, slopes)))
        adam_step(flat, gradient, moments, step + 1, schedule.rate, schedule.decay)
    return losses
