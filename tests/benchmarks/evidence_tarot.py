"""`make evidence-tarot`: whether TAROT chooses better training data than influence, and than a random draw.

A pool of ten domains of ten classes, 30 % of the labels wrong; a target of four domains with unequal shares, or of one.
A small network is trained on the pool; its per-example gradients at four checkpoints, projected with random signs, are
what selectors see. Each selection trains a new network, which is tested on fresh rows of the target. All selections
are jobs of a running service, submitted by its client; influences are computed here, and `topk` takes the highest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.service.cli.demo import running_service
from tamis.service.client import Client

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DOMAINS, CLASSES, INPUTS, HIDDEN, PROJECTED = 10, 10, 32, 64, 256
WRONG_LABELS = 0.3
POOL, TARGET, TEST = 20_000, 300, 4000
SHARES = {"four domains": (0.55, 0.25, 0.15, 0.05), "one domain": (1.0,)}
CHECKPOINTS = 4
BUDGETS = (0.02, 0.05, 0.1)


class World:
    """Domains and their classes: where the rows of each lie."""

    def __init__(self, draw: np.random.Generator) -> None:
        self.domains = 1.5 * draw.normal(size=(DOMAINS, 1, INPUTS))
        self.classes = self.domains + 0.9 * draw.normal(size=(DOMAINS, CLASSES, INPUTS))

    def rows(self, draw: np.random.Generator, n: int, shares: Floats, wrong: float) -> tuple[Floats, Ints, Ints, Ints]:
        """Return inputs, labels as given, labels as they should be, and domains."""
        domain = draw.choice(len(shares), n, p=shares)
        label = draw.integers(0, CLASSES, n)
        inputs = self.classes[domain, label] + draw.normal(size=(n, INPUTS))
        given = np.where(draw.random(n) < wrong, draw.integers(0, CLASSES, n), label)
        return inputs, given, label, domain


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


def write(path: Path, gradients: list[npt.NDArray[np.float32]], scores: dict[str, Floats]) -> None:
    """Write one column of gradients a checkpoint, and one for each score."""
    columns = {
        f"gradient_{index}": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), PROJECTED)
        for index, values in enumerate(gradients)
    }
    pq.write_table(pa.table({**columns, **scores}), path, row_group_size=4000)


def select(client: Client, folder: Path, budget: float, columns: Any, **params: Any) -> tuple[Ints, dict[str, Any]]:
    """Submit a TAROT job and return its rows and report."""
    columns = {"gradient": columns}
    target = {"shards": [str(folder / "target.parquet")], "columns": columns}
    selector = {"name": "tarot", "params": params}
    return submit(client, folder, columns, selector, {"fraction": budget}, target={"datasets": [target]})


def submit(
    client: Client, folder: Path, columns: dict[str, Any], selector: dict[str, Any], budget: dict[str, Any], **more: Any
) -> tuple[Ints, dict[str, Any]]:
    """Submit a job over the pool and return its rows and report."""
    dataset = {"shards": [str(folder / "pool.parquet")], "columns": columns}
    job = client.submit({"dataset": dataset, "selector": selector, "budget": budget, **more})
    job.wait()
    path = job.download(folder / "selection.parquet")
    return pq.read_table(path)["row"].to_numpy(), job.report()


def unit(rows: Floats) -> Floats:
    """Scale rows to length 1."""
    scaled: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled


def influences(pool: Floats, target: Floats) -> dict[str, Floats]:
    """Score candidates by mean and max cosine, and by the mean cosine of whitened gradients."""
    similarity = unit(pool) @ unit(target).T
    both = np.concatenate([pool, target])
    covariance = np.cov(both.T, bias=True)
    lower = np.linalg.cholesky(covariance + 0.01 * np.trace(covariance) / PROJECTED * np.eye(PROJECTED))
    white = [unit(np.linalg.solve(lower, (rows - both.mean(axis=0)).T).T) for rows in (pool, target)]
    return {
        "mean influence": similarity.mean(axis=1),
        "max influence": similarity.max(axis=1),
        "whitened, mean": white[0] @ white[1].mean(axis=0),
    }


def one_seed(client: Client, folder: Path, kind: str, seed: int, steps: int) -> dict[str, Any]:
    """Run every method of one seed and return accuracies by method and budget."""
    draw = np.random.default_rng(1000 + seed)
    world = World(draw)
    inputs, labels, true, domain = world.rows(draw, POOL, np.full(DOMAINS, 1 / DOMAINS), WRONG_LABELS)
    shares = np.array(SHARES[kind])
    target_inputs, target_labels, _, _ = world.rows(draw, TARGET, shares, 0.0)
    test_inputs, test_labels, _, _ = world.rows(draw, TEST, shares, 0.0)
    network = Network(seed)
    kept = network.train(inputs, labels, 1600, seed, CHECKPOINTS)
    parameters = sum(weight.size for weight in network.weights)
    signs = (draw.choice([-1.0, 1.0], (parameters, PROJECTED)) / np.sqrt(parameters)).astype(np.float32)
    gradients: dict[str, list[Any]] = {"pool": [], "target": []}
    for weights in kept:
        network.weights = weights
        gradients["pool"].append(network.gradients(inputs, labels, signs))
        gradients["target"].append(network.gradients(target_inputs, target_labels, signs))
    mean = {name: np.stack(values).mean(axis=0, dtype=np.float64) for name, values in gradients.items()}
    scores = influences(mean["pool"], mean["target"])
    write(folder / "pool.parquet", gradients["pool"], scores)
    write(folder / "target.parquet", gradients["target"], {})
    columns = {"columns": [f"gradient_{index}" for index in range(CHECKPOINTS)]}
    last = f"gradient_{CHECKPOINTS - 1}"

    def tested(rows: Ints) -> float:
        fresh = Network(77 + seed)
        fresh.train(inputs[rows], labels[rows], steps, seed)
        return fresh.accuracy(test_inputs, test_labels)

    found: dict[str, Any] = {}
    for budget in BUDGETS:
        part = {"fraction": budget}
        chosen = {"random": submit(client, folder, {}, {"name": "random"}, part, seed=seed)[0]}
        for name in scores:
            highest = {"name": "topk", "params": {"order": "highest"}}
            chosen[name] = submit(client, folder, {"score": name}, highest, part)[0]
        chosen["layers, no whitening"] = select(client, folder, budget, columns, whitening="none")[0]
        chosen["TAROT fixed"] = select(client, folder, budget, columns)[0]
        chosen["as released"] = select(client, folder, budget, last, release=True)[0]
        for name, rows in chosen.items():
            found.setdefault(name, {})[f"{budget:.0%}"] = tested(rows)
    rows, report = select(client, folder, 1.0, columns, mode="otm")
    found["TAROT otm"] = {"accuracy": tested(rows), "share": len(rows) / POOL}
    found["TAROT otm"]["plateau"] = [size / POOL for size in report["evidence"]["otm"]["plateau_rows"]]
    found["full pool"] = {"accuracy": tested(np.arange(POOL))}
    wanted = (labels == true) & np.isin(domain, np.arange(len(shares)))
    found["clean rows of the target's domains"] = {
        "share": float(wanted.mean()),
        "accuracy": tested(np.flatnonzero(wanted)),
    }
    return found


def show(kind: str, seeds: list[dict[str, Any]]) -> None:
    """Print one table."""
    methods = [name for name in seeds[0] if f"{BUDGETS[0]:.0%}" in seeds[0][name]]
    print(f"\n**{kind}**, {len(seeds)} seeds, accuracy on fresh rows of the target\n")
    print("| budget | " + " | ".join(methods) + " |\n|---|" + "---|" * len(methods))
    for budget in (f"{budget:.0%}" for budget in BUDGETS):
        means = [statistics.mean(seed[name][budget] for seed in seeds) for name in methods]
        print(f"| {budget} | " + " | ".join(f"{value:.3f}" for value in means) + " |")
    for rival in ("mean influence", "max influence", "random", "layers, no whitening", "as released"):
        wins = [
            f"{sum(seed['TAROT fixed'][budget] > seed[rival][budget] for seed in seeds)} of {len(seeds)} at {budget}"
            for budget in (f"{budget:.0%}" for budget in BUDGETS)
        ]
        print(f"\nTAROT fixed is better than {rival} in {', '.join(wins)}.", end="")
    otm = [seed["TAROT otm"] for seed in seeds]
    sizes, low, high = ([entry["share"] for entry in otm], *zip(*(entry["plateau"] for entry in otm), strict=True))
    clean = [seed["clean rows of the target's domains"] for seed in seeds]
    print(
        f"\n\nOTM chose {min(sizes):.1%} to {max(sizes):.1%} (plateaus from {min(low):.1%} to {max(high):.1%}), "
        f"accuracy {statistics.mean(entry['accuracy'] for entry in otm):.3f}; full pool "
        f"{statistics.mean(seed['full pool']['accuracy'] for seed in seeds):.3f}; all clean rows of its domains "
        f"({statistics.mean(entry['share'] for entry in clean):.1%} of the pool) "
        f"{statistics.mean(entry['accuracy'] for entry in clean):.3f}.",
        flush=True,
    )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=800, help="of training on a selection")
    parser.add_argument("--kinds", nargs="+", default=list(SHARES), choices=list(SHARES))
    parser.add_argument("--json", help="also write all accuracies to this file")
    arguments = parser.parse_args()
    everything: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        home, data = Path(temporary) / "home", Path(temporary) / "data"
        data.mkdir()
        with running_service(home, data) as url, Client(url) as client:
            for kind in arguments.kinds:
                everything[kind] = []
                for seed in range(arguments.seeds):
                    folder = data / f"{kind.split()[0]}-{seed}"
                    folder.mkdir()
                    everything[kind].append(one_seed(client, folder, kind, seed, arguments.steps))
                show(kind, everything[kind])
                if arguments.json:
                    Path(arguments.json).write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
