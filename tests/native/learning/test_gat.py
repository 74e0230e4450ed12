"""The graph attention network: forward pass against loops, gradients against differences and against torch."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.native.naive import gais as naive

from tamis.native.learning import gat
from tamis.native.learning import gat_training as training
from tamis.native.math import rng
from tamis.native.neighbours.graph import Graph

D, CLASSES, SLOTS = 5, 3, 5


def problem(n: int, dtype: type[np.floating], seed: int = 0) -> tuple[Any, ...]:
    """A small batch with an absent edge, a weighted one and a class that nobody has."""
    random = np.random.default_rng(seed)
    neighbours = np.empty((n, SLOTS), np.int32)
    for i in range(n):
        neighbours[i] = [i, *random.choice(np.delete(np.arange(n), i), SLOTS - 1, replace=False)]
    log_weights = np.zeros((n, SLOTS), dtype)
    log_weights[0, 2] = -np.inf
    log_weights[1, 3] = np.log(2.0)
    x = random.normal(size=(n, D)).astype(dtype)
    labels = random.integers(0, CLASSES - 1, n).astype(np.int32)
    class_weights = random.uniform(0.5, 2.0, CLASSES).astype(dtype)
    flat = random.uniform(-0.5, 0.5, gat.n_parameters(D, CLASSES)).astype(dtype)
    return x, Graph(neighbours, log_weights), labels, class_weights, flat


def gradient_of(x: Any, graph: Graph, labels: Any, class_weights: Any, flat: Any) -> tuple[float, NDArray[Any]]:
    gradient = np.full_like(flat, np.nan)  # whatever is there before is overwritten
    activations = gat.empty_activations(len(x), SLOTS, flat.dtype.type)
    loss = training.loss_and_gradient(
        x,
        graph,
        labels,
        class_weights,
        gat.split(flat, D, CLASSES),
        activations,
        gat.split(gradient, D, CLASSES),
    )
    return loss, gradient


def test_the_loss_is_the_one_that_loops_give() -> None:
    x, graph, labels, class_weights, flat = problem(12, np.float64)
    weights = gat.split(flat, D, CLASSES)
    expected = naive.loss(x, graph.neighbours, graph.log_weights, weights, labels.tolist(), class_weights.tolist())
    assert gradient_of(x, graph, labels, class_weights, flat)[0] == pytest.approx(expected, rel=1e-12)


def test_gradients_are_those_of_central_differences() -> None:
    x, graph, labels, class_weights, flat = problem(12, np.float64)
    _, gradient = gradient_of(x, graph, labels, class_weights, flat)
    step = 1e-4
    for p in range(len(flat)):
        sides = []
        for multiple in (-2, -1, 1, 2):
            moved = flat.copy()
            moved[p] += multiple * step
            sides.append(gradient_of(x, graph, labels, class_weights, moved)[0])
        slope = (sides[0] - 8 * sides[1] + 8 * sides[2] - sides[3]) / (12 * step)
        assert gradient[p] == pytest.approx(slope, abs=1e-9), p


def test_signals_and_attention_are_those_of_loops() -> None:
    x, graph, labels, _, flat = problem(20, np.float32, 1)
    weights = gat.split(flat, D, CLASSES)
    activations = gat.empty_activations(20, SLOTS, np.float32)
    gat.forward(x, graph, weights, activations)
    own, margin = np.empty(20, np.float32), np.empty(20, np.float32)
    gat.class_signals(activations.u, weights, labels, own, margin)
    expected = naive.network(x, graph.neighbours, graph.log_weights, weights)
    for i, probabilities in enumerate(expected):
        label = labels[i]
        others = [p for c, p in enumerate(probabilities) if c != label]
        assert own[i] == pytest.approx(probabilities[label], abs=2e-6)
        assert margin[i] == pytest.approx(probabilities[label] - max(others), abs=3e-6)
    assert activations.alpha1.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert activations.alpha2.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert activations.alpha2[0, 2] == 0.0  # the absent edge

    same, other, shares = (np.empty(20, np.float32) for _ in range(3))
    gat.attention_received(graph, activations.alpha1, activations.alpha2, labels, same, other, shares)
    received, given = np.zeros((20, 2)), np.zeros((20, 2))
    for i in range(20):
        for s in range(1, SLOTS):
            j = graph.neighbours[i, s]
            paid = (activations.alpha1[i, s].mean() + activations.alpha2[i, s]) / 2
            received[j, int(labels[i] != labels[j])] += paid
            given[i, int(labels[i] != labels[j])] += paid
    assert np.stack([same, other], axis=1) == pytest.approx(received, abs=1e-5)
    assert shares == pytest.approx(given[:, 0] / given.sum(axis=1), abs=1e-5)


def test_gradients_in_float32_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is no dependency: `.ci/run` installs it for this test")
    x, graph, labels, class_weights, flat = problem(60, np.float32, 2)
    loss, gradient = gradient_of(x, graph, labels, class_weights, flat)
    parts = [torch.tensor(part.copy(), requires_grad=True) for part in gat.split(flat, D, CLASSES)]
    w1, source1, target1, b1, w2, source2, target2, b2 = parts
    neighbours, shift = torch.tensor(graph.neighbours).long(), torch.tensor(graph.log_weights)

    def attention(h: Any, source: Any, target: Any) -> Any:  # h [n, heads, width]
        own, others = (h * target).sum(-1), (h * source).sum(-1)
        logits = torch.nn.functional.leaky_relu(own[:, None] + others[neighbours], 0.2) + shift[..., None]
        return (torch.softmax(logits, dim=1)[..., None] * h[neighbours]).sum(1)

    h = (torch.tensor(x) @ w1).reshape(-1, 4, 8)
    z = torch.nn.functional.elu(attention(h, source1.reshape(4, 8), target1.reshape(4, 8)).reshape(-1, 32) + b1)
    logits = attention((z @ w2)[:, None, :], source2[None], target2[None])[:, 0] + b2
    theirs = torch.nn.functional.cross_entropy(logits, torch.tensor(labels).long(), weight=torch.tensor(class_weights))
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), rel=1e-5)
    for own, part in zip(gat.split(gradient, D, CLASSES), parts, strict=True):
        assert own == pytest.approx(part.grad.numpy(), abs=1e-5 * float(part.grad.abs().max()) + 1e-7)


def test_a_step_of_adam_is_the_published_one() -> None:
    random = np.random.default_rng(3)
    parameters = random.normal(size=7).astype(np.float32)
    moments = np.zeros((2, 7), np.float32)
    theta = parameters.astype(np.float64)
    m, v = np.zeros(7), np.zeros(7)
    for step in range(1, 4):
        gradient = random.normal(size=7).astype(np.float32)
        training.adam_step(parameters, gradient, moments, step, 0.01, 5e-4)
        g = gradient + 5e-4 * theta
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta -= 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        assert parameters == pytest.approx(theta, abs=1e-6)


def test_an_edge_is_left_out_from_both_sides_and_a_node_keeps_itself() -> None:
    n = 40
    neighbours = np.array([[i, *np.delete(np.arange(n), i)] for i in range(n)], np.int32)
    graph = Graph(neighbours, np.zeros((n, n), np.float32))
    drawn = rng.random_bits(rng.stream_key(1, "edges"), 0, np.empty(n, np.uint64))
    kept = np.empty((n, n), np.float32)
    training.drop_edges(graph, drawn, np.uint64(int(0.3 * 2**64)), kept)
    there = np.zeros((n, n), np.bool_)
    np.put_along_axis(there, neighbours.astype(np.int64), kept == 0.0, axis=1)
    assert (there == there.T).all()
    assert there.diagonal().all()
    assert 0.25 < 1 - (there.sum() - n) / (n * (n - 1)) < 0.35


def test_training_learns_to_tell_two_clouds_apart() -> None:
    random = np.random.default_rng(4)
    n = 64
    labels = np.repeat(np.arange(2, dtype=np.int32), n // 2)
    x = (random.normal(size=(n, D)) + 2.0 * labels[:, None]).astype(np.float32)
    neighbours = np.argsort(naive.distances(x), axis=1)[:, :SLOTS].astype(np.int32)
    graph = Graph(neighbours, np.zeros((n, SLOTS), np.float32))
    flat = training.initial_parameters(rng.stream_key(0, "weights"), D, CLASSES)
    start = flat.copy()
    batches = [training.Batch(x, graph, labels)]
    key = rng.stream_key(0, "masked")
    losses = training.train(batches, np.ones(CLASSES, np.float32), key, training.Schedule(60), flat)
    assert losses[-1] < 0.2 < losses[0]
    again = start.copy()
    assert training.train(batches, np.ones(CLASSES, np.float32), key, training.Schedule(60), again) == losses
    assert again.tobytes() == flat.tobytes()
