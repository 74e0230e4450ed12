"""``make evidence-tarot``: networks trained on what TAROT selects, on what influence selects, and on random draws.

A pool of ten domains of ten classes, 30 % of the labels wrong; a target of four domains with unequal shares, or of one.
A small network is trained on the pool; its per-example gradients at four checkpoints, projected with random signs, are
what selectors see. Each selection trains a new network, which is tested on fresh rows of the target. All selections
are jobs of a running service, submitted by its client; influences are computed here, and `topk` takes the highest.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from tests.benchmarks.harness import Yielded, benchmark
from tests.benchmarks.results import Block
from tests.evidence.gradient_network import CLASSES, INPUTS, PROJECTED, Floats, Ints, Network
from tests.evidence.jobs import lists, service

if TYPE_CHECKING:
    from tamis.service.client import Client

DOMAINS = 10
WRONG_LABELS = 0.3
TARGET, TEST = 300, 4000
SHARES = {"four domains": (0.55, 0.25, 0.15, 0.05), "one domain": (1.0,)}
CHECKPOINTS = 4


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


def write(path: Path, gradients: list[Any], scores: dict[str, Floats]) -> None:
    """Write one column of gradients a checkpoint, and one for each score."""
    import pyarrow as pa

    columns = {f"gradient_{index}": lists(values) for index, values in enumerate(gradients)}
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


def one_seed(
    client: Client, folder: Path, kind: str, seed: int, pool: int, steps: int, budgets: list[float]
) -> dict[str, Any]:
    """Run every method of one seed and return accuracies by method and budget."""
    draw = np.random.default_rng(1000 + seed)
    world = World(draw)
    inputs, labels, true, domain = world.rows(draw, pool, np.full(DOMAINS, 1 / DOMAINS), WRONG_LABELS)
    shares = np.array(SHARES[kind])
    target_inputs, target_labels, _, _ = world.rows(draw, TARGET, shares, 0.0)
    test_inputs, test_labels, _, _ = world.rows(draw, TEST, shares, 0.0)
    network = Network(seed)
    kept = network.train(inputs, labels, 2 * steps, seed, CHECKPOINTS)
    signs = network.projection(draw)
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
    for budget in budgets:
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
    found["TAROT otm"] = {"accuracy": tested(rows), "share": len(rows) / pool}
    found["TAROT otm"]["plateau"] = [size / pool for size in report["evidence"]["otm"]["plateau_rows"]]
    found["full pool"] = {"accuracy": tested(np.arange(pool))}
    wanted = (labels == true) & np.isin(domain, np.arange(len(shares)))
    found["clean rows of the target's domains"] = {
        "share": float(wanted.mean()),
        "accuracy": tested(np.flatnonzero(wanted)),
    }
    return found


@benchmark(
    full={"seeds": 6, "kinds": list(SHARES), "pool": 20_000, "steps": 800, "budgets": [0.02, 0.05, 0.1]},
    toy={"seeds": 1, "kinds": ["one domain"], "pool": 1500, "steps": 20, "budgets": [0.1]},
)
def experiment(seeds: int, kinds: list[str], pool: int, steps: int, budgets: list[float]) -> Iterator[Yielded]:
    """Accuracy of networks trained on selections of TAROT, of influence, and on random draws."""
    with service() as (client, data):
        for kind in kinds:
            found = []
            for seed in range(seeds):
                folder = data / f"{kind.split()[0]}-{seed}"
                folder.mkdir()
                found.append(one_seed(client, folder, kind, seed, pool, steps, budgets))
            yield from show(kind, found, [f"{budget:.0%}" for budget in budgets])


def show(kind: str, seeds: list[dict[str, Any]], budgets: list[str]) -> Iterator[Yielded]:
    """Give the table of one kind of target."""
    methods = [name for name in seeds[0] if budgets[0] in seeds[0][name]]
    yield Block(f"{kind}, {len(seeds)} seeds, accuracy on fresh rows of the target")
    for budget in budgets:
        yield {"budget": budget, **{name: statistics.mean(seed[name][budget] for seed in seeds) for name in methods}}
    for rival in ("mean influence", "max influence", "random", "layers, no whitening", "as released"):
        wins = [
            f"{sum(seed['TAROT fixed'][budget] > seed[rival][budget] for seed in seeds)} of {len(seeds)} at {budget}"
            for budget in budgets
        ]
        yield f"TAROT fixed is better than {rival} in {', '.join(wins)}."
    otm = [seed["TAROT otm"] for seed in seeds]
    sizes, low, high = ([entry["share"] for entry in otm], *zip(*(entry["plateau"] for entry in otm), strict=True))
    clean = [seed["clean rows of the target's domains"] for seed in seeds]
    yield (
        f"OTM chose {min(sizes):.1%} to {max(sizes):.1%} (plateaus from {min(low):.1%} to {max(high):.1%}), "
        f"accuracy {statistics.mean(entry['accuracy'] for entry in otm):.3f}; full pool "
        f"{statistics.mean(seed['full pool']['accuracy'] for seed in seeds):.3f}; all clean rows of its domains "
        f"({statistics.mean(entry['share'] for entry in clean):.1%} of the pool) "
        f"{statistics.mean(entry['accuracy'] for entry in clean):.3f}."
    )
