"""A network of one hidden layer whose per-example gradients are what selectors see."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CLASSES, INPUTS, HIDDEN, PROJECTED = 10, 32, 64, 256


class Network:
    """One hidden layer of tanh, trained by Adam."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.weights = [
            draw.normal(size=(INPUTS + 1, HIDDEN)) / np.sqrt(INPUTS),
            draw.normal(size=(HIDDEN + 1, CLASSES)) / np.sqrt(HIDDEN),
        ]

    def _forward(self, inputs: Floats) -> tuple[Floats, Floats, Floats]:
        x = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
        hidden = np.concatenate([np.tanh(x @ self.weights[0]), np.ones((len(x), 1))], axis=1)
        logits = hidden @ self.weights[1]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return x, hidden, odds / odds.sum(axis=1, keepdims=True)

    def _factors(self, inputs: Floats, labels: Ints) -> tuple[Floats, Floats, Floats, Floats]:
        x, hidden, error = self._forward(inputs)
        error[np.arange(len(labels)), labels] -= 1
        back = (error @ self.weights[1][:-1].T) * (1 - hidden[:, :-1] ** 2)
        return x, back, hidden, error

    def train(self, inputs: Floats, labels: Ints, steps: int, seed: int, keep: int = 0) -> list[list[Floats]]:
        """Train, and return `keep` checkpoints, evenly spaced."""
        draw = np.random.default_rng(seed)
        first = [np.zeros_like(weight) for weight in self.weights]
        second = [np.zeros_like(weight) for weight in self.weights]
        kept = []
        for step in range(1, steps + 1):
            batch = draw.integers(0, len(labels), 128)
            x, back, hidden, error = self._factors(inputs[batch], labels[batch])
            for index, loss in enumerate((x.T @ back / 128, hidden.T @ error / 128)):
                gradient = loss + 1e-4 * self.weights[index]
                first[index] = 0.9 * first[index] + 0.1 * gradient
                second[index] = 0.999 * second[index] + 0.001 * gradient**2
                corrected = first[index] / (1 - 0.9**step)
                scale = np.sqrt(second[index] / (1 - 0.999**step)) + 1e-8
                self.weights[index] -= 0.005 * corrected / scale
            if keep and step % (steps // keep) == 0:
                kept.append([weight.copy() for weight in self.weights])
        return kept

    def gradients(self, inputs: Floats, labels: Ints, signs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Project per-example gradients of the loss."""
        out = np.empty((len(labels), PROJECTED), np.float32)
        for start in range(0, len(labels), 1000):
            part = slice(start, start + 1000)
            x, back, hidden, error = self._factors(inputs[part], labels[part])
            flat = [np.einsum("ni,nj->nij", *pair).reshape(len(x), -1) for pair in ((x, back), (hidden, error))]
            out[part] = np.concatenate(flat, axis=1).astype(np.float32) @ signs
        return out

    def accuracy(self, inputs: Floats, labels: Ints) -> float:
        """Return the share of rows that it gets right."""
        return float((self._forward(inputs)[2].argmax(axis=1) == labels).mean())

    def projection(self, draw: np.random.Generator) -> npt.NDArray[np.float32]:
        """Draw the random signs that gradients are projected with: (parameters, PROJECTED)."""
        parameters = sum(weight.size for weight in self.weights)
        signs = draw.choice([-1.0, 1.0], (parameters, PROJECTED)) / np.sqrt(parameters)
        out: npt.NDArray[np.float32] = signs.astype(np.float32)
        return out
