"""Forward pass of a two-layer graph attention network over one batch, in float32 or float64 by the dtype of its input.

Velickovic, Cucurull, Casanova, Romero, Lio, Bengio: Graph Attention Networks, ICLR 2018, section 2.1: 4 heads of 8,
concatenated, ELU; then one head to the classes. Sources a neighbour's term and destination a node's own are added,
LeakyReLU 0.2, softmax over the node's neighbours and itself (equations 1 to 3).

The second layer needs no vector of classes a node: with u_i = sum_j alpha_ij z_j its output is u_i W2 + b2, and its
attention terms are a W2' z_j. That is the same sum in another order, and costs 32 numbers an edge instead of the
number of classes.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.math.dense import add_product, add_scaled, dot, multiply
from tamis.native.neighbours.graph import SELF, Graph
from tamis.native.simd.fma import exponential, multiply_add

HEADS = 4
WIDTH = 8
"""Features of one head."""
HIDDEN = HEADS * WIDTH
SLOPE = np.float32(0.2)
"""Of the LeakyReLU on attention logits where they are negative; rounded to float32 in both precisions."""

_HALF = np.float32(0.5)
_A_HEAD = np.float32(0.5 / HEADS)

Floats = NDArray[np.floating]


class Weights(NamedTuple):
    """The parameters, views of one flat array in this order."""

    w1: Floats  # [d, HIDDEN], W of the first layer
    source1: Floats  # [HIDDEN], a of the first layer for the neighbour, head by head
    target1: Floats  # [HIDDEN], a of the first layer for the node itself
    b1: Floats  # [HIDDEN]
    w2: Floats  # [HIDDEN, classes]
    source2: Floats  # [classes]
    target2: Floats  # [classes]
    b2: Floats  # [classes]


class Activations(NamedTuple):
    """The activations of the forward pass that the backward pass reads."""

    h: Floats  # [n, HIDDEN], X W1
    terms1: Floats  # [n, 2 HEADS], source terms, then target terms
    alpha1: Floats  # [n, slots, HEADS], attention paid
    z: Floats  # [n, HIDDEN], after the ELU
    terms2: Floats  # [n, 2]
    alpha2: Floats  # [n, slots]
    u: Floats  # [n, HIDDEN], the attention-weighted mean of z


def n_parameters(d: int, classes: int) -> int:
    """Length of the flat array of parameters."""
    return d * HIDDEN + 3 * HIDDEN + HIDDEN * classes + 3 * classes


def split(flat: Floats, d: int, classes: int) -> Weights:
    """Views of a flat array of parameters [n_parameters(d, classes)]."""
    shapes = [(d, HIDDEN), (HIDDEN,), (HIDDEN,), (HIDDEN,), (HIDDEN, classes), (classes,), (classes,), (classes,)]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    if ends[-1] != len(flat):
        raise ValueError(f"{len(flat)} parameters where {ends[-1]} are needed")
    parts = np.split(flat, ends[:-1])
    return Weights(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))


def empty_activations(n: int, slots: int, dtype: type[np.floating]) -> Activations:
    """Room for the activations of a batch of n nodes; a larger one's leading rows serve a smaller batch."""
    return Activations(
        np.empty((n, HIDDEN), dtype),
        np.empty((n, 2 * HEADS), dtype),
        np.empty((n, slots, HEADS), dtype),
        np.empty((n, HIDDEN), dtype),
        np.empty((n, 2), dtype),
        np.empty((n, slots), dtype),
        np.empty((n, HIDDEN), dtype),
    )


@piece
def leaky(x):
    """LeakyReLU."""
    return x if x > 0 else x * SLOPE


@piece
def _exponentials(flat):
    for k in range(len(flat)):
        flat[k] = exponential(flat[k])


@kernel
def attend_heads(graph, terms, alpha):
    """Attention of the first layer: softmax over the slots for every head (equation 3)."""
    n, slots = graph.neighbours.shape
    largest = np.empty(HEADS, alpha.dtype)
    for i in range(n):
        for head in range(HEADS):
            own = terms[i, HEADS + head]
            largest[head] = leaky(terms[i, head] + own)  # the node itself: always there
        for s in range(slots):
            j, shift = graph.neighbours[i, s], graph.log_weights[i, s]
            for head in range(HEADS):
                logit = leaky(terms[j, head] + terms[i, HEADS + head]) + shift
                alpha[i, s, head] = logit
                largest[head] = max(largest[head], logit)
        for s in range(slots):
            for head in range(HEADS):
                alpha[i, s, head] -= largest[head]
    _exponentials(alpha.reshape(-1))
    for i in range(n):
        for head in range(HEADS):
            total = alpha[i, 0, head]
            for s in range(1, slots):
                total += alpha[i, s, head]
            largest[head] = total
        for s in range(slots):
            for head in range(HEADS):
                alpha[i, s, head] /= largest[head]


@kernel
def attend(graph, terms, alpha):
    """Attention of the second layer's one head."""
    n, slots = graph.neighbours.shape
    for i in range(n):
        own = terms[i, 1]
        largest = leaky(terms[i, 0] + own)
        for s in range(slots):
            logit = leaky(terms[graph.neighbours[i, s], 0] + own) + graph.log_weights[i, s]
            alpha[i, s] = logit
            largest = max(largest, logit)
        for s in range(slots):
            alpha[i, s] -= largest
    _exponentials(alpha.reshape(-1))
    for i in range(n):
        total = alpha[i, 0]
        for s in range(1, slots):
            total += alpha[i, s]
        for s in range(slots):
            alpha[i, s] /= total


@kernel
def gather_heads(graph, alpha, h, b1, z):
    """``z = ELU(sum_j alpha_ij h_j + b1)``, head by head (equation 5)."""
    n, slots = graph.neighbours.shape
    by_head, heads_of = h.reshape(len(h), HEADS, WIDTH), z.reshape(len(z), HEADS, WIDTH)
    for i in range(n):
        z[i] = b1
        row = heads_of[i]
        for s in range(slots):
            neighbour = by_head[graph.neighbours[i, s]]
            for head in range(HEADS):
                weight = alpha[i, s, head]
                for c in range(WIDTH):
                    row[head, c] = multiply_add(weight, neighbour[head, c], row[head, c])
    _elu(z.reshape(-1))


@piece
def _elu(flat):
    zero, one = flat.dtype.type(0), flat.dtype.type(1)
    for k in range(len(flat)):
        x = flat[k]
        below = exponential(min(x, zero)) - one
        flat[k] = x if x > zero else below


@kernel
def gather(graph, alpha, z, u):
    """``u = sum_j alpha_ij z_j``."""
    n, slots = graph.neighbours.shape
    for i in range(n):
        row = u[i]
        row[:] = 0
        for s in range(slots):
            add_scaled(row, alpha[i, s], z[graph.neighbours[i, s]])


@kernel
def head_terms(h, source, target, terms):
    """Attention terms of the first layer: source terms of the heads, then target terms."""
    by_head = h.reshape(len(h), HEADS, WIDTH)
    sources, targets = source.reshape(HEADS, WIDTH), target.reshape(HEADS, WIDTH)
    for i in range(len(h)):
        for head in range(HEADS):
            terms[i, head] = dot(by_head[i, head], sources[head])
            terms[i, HEADS + head] = dot(by_head[i, head], targets[head])


@kernel
def class_terms(w2, source, target, pair):
    """W2 times the second layer's attention vectors: float [HIDDEN, 2], what z is multiplied with for its terms."""
    for c in range(HIDDEN):
        pair[c, 0] = dot(w2[c], source)
        pair[c, 1] = dot(w2[c], target)


def forward(x: Floats, graph: Graph, weights: Weights, activations: Activations) -> None:
    """Run both layers but for the last product with W2.

    Parameters
    ----------
    x : float [n, d]
    graph : Graph
    weights : Weights
    activations : Activations
        Of n rows; overwritten.
    """
    multiply(x, weights.w1, activations.h)
    head_terms(activations.h, weights.source1, weights.target1, activations.terms1)
    attend_heads(graph, activations.terms1, activations.alpha1)
    gather_heads(graph, activations.alpha1, activations.h, weights.b1, activations.z)
    pair = np.empty((HIDDEN, 2), x.dtype)
    class_terms(weights.w2, weights.source2, weights.target2, pair)
    multiply(activations.z, pair, activations.terms2)
    attend(graph, activations.terms2, activations.alpha2)
    gather(graph, activations.alpha2, activations.z, activations.u)


@piece
def class_probabilities(u, w2, b2, out):
    """Softmax of one node's ``u w2 + b2``; returns nothing, writes float [classes]."""
    out[:] = b2
    add_product(u, w2, out)
    largest = out[0]
    for j in range(1, len(out)):
        largest = max(largest, out[j])
    for j in range(len(out)):
        out[j] = exponential(out[j] - largest)
    total = out[0]
    for j in range(1, len(out)):
        total += out[j]
    for j in range(len(out)):
        out[j] /= total


@kernel
def class_signals(u, weights, labels, own, margin):
    """Probability of each node's own label, and how far it lies above the most probable other class.

    Parameters
    ----------
    u : float [n, HIDDEN]
    weights : Weights
    labels : int32 [n]
    own : float [n]
        Overwritten: probability of the own label.
    margin : float [n]
        Overwritten: that probability less the largest of another class; -1 to 1.
    """
    probabilities = np.empty(len(weights.b2), u.dtype)
    for i in range(len(u)):
        class_probabilities(u[i], weights.w2, weights.b2, probabilities)
        label = labels[i]
        own[i] = probabilities[label]
        probabilities[label] = -1
        other = probabilities[0]
        for j in range(1, len(probabilities)):
            other = max(other, probabilities[j])
        margin[i] = own[i] - max(other, 0)


@kernel
def attention_received(graph, alpha1, alpha2, labels, same, other, paid):
    """Attention that each node receives from the others of its batch, and pays to those of its own label.

    The mean of both layers' attention, the first layer's over its heads; what a node pays itself does not count (ours).

    Parameters
    ----------
    graph : Graph
    alpha1, alpha2 : float [n, slots, HEADS], float [n, slots]
    labels : int32 [n]
    same, other : float [n]
        Overwritten: received from nodes with the same label, and from others; the sum over all nodes is at most n.
    paid : float [n]
        Overwritten: of what a node pays its neighbours, the share that those with its label get; 1 without neighbours.
    """
    n, slots = graph.neighbours.shape
    same[:] = 0
    other[:] = 0
    for i in range(n):
        to_same, to_all = same.dtype.type(0), same.dtype.type(0)
        for s in range(SELF + 1, slots):
            j = graph.neighbours[i, s]
            weight = alpha1[i, s, 0]
            for head in range(1, HEADS):
                weight += alpha1[i, s, head]
            weight = weight * _A_HEAD + alpha2[i, s] * _HALF
            to_all += weight
            if labels[i] == labels[j]:
                to_same += weight
                same[j] += weight
            else:
                other[j] += weight
        paid[i] = to_same / to_all if to_all > 0 else 1
