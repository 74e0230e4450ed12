"""``make evidence-quad``: networks trained on what a bandit over clusters selects, on influence or diversity alone.

A pool of ten domains of ten topics, which differ in how many of their labels are wrong (none, 10, 40 or 80 %); 40 % of
its rows are near copies of a few others. Ten classes look different in every domain; embeddings tell the topic, not the
class. A small network is trained on the pool; its gradients, projected with random signs, and those of a few clean rows
of all domains are what selectors see. Each selection, a tenth of the pool, trains a new network, which is tested on
fresh clean rows. Everything compared is a job of a running service, submitted by its client; the clusters, the same for
all who need them, are scikit-learn's k-means of the embeddings, except where Quad makes its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tests.benchmarks.harness import Yielded, benchmark
from tests.benchmarks.results import Block
from tests.evidence.gradient_network import CLASSES, INPUTS, Floats, Ints, Network
from tests.evidence.jobs import lists, service

if TYPE_CHECKING:
    from tamis.service.client import Client

DOMAINS, TOPICS, EMBEDDED = 10, 10, 24
WRONG_LABELS = (0.0, 0.1, 0.4, 0.8)
COPIES, COPIED = 0.4, 0.02  # shares of the pool
TARGET, TEST = 300, 5000
BUDGET = 0.1
DAMPING = 0.01
PULLS: dict[str, Any] = {"arms_per_round": 10, "probes": 10, "rows_per_pull": 20}


class World:
    """Domains, their topics, and what the classes look like in each domain."""

    def __init__(self, draw: np.random.Generator) -> None:
        self.topics = 1.5 * draw.normal(size=(DOMAINS, 1, INPUTS)) + 0.6 * draw.normal(size=(DOMAINS, TOPICS, INPUTS))
        self.classes = 2.0 * draw.normal(size=(DOMAINS, CLASSES, INPUTS))
        self.wrong = draw.permutation(np.resize(WRONG_LABELS, DOMAINS * TOPICS)).reshape(DOMAINS, TOPICS)
        self.look = draw.normal(size=(INPUTS, EMBEDDED)) / np.sqrt(INPUTS)

    def rows(self, draw: np.random.Generator, n: int, *, clean: bool) -> dict[str, npt.NDArray[Any]]:
        """Return inputs, labels, domains and embeddings of `n` rows."""
        domain, topic = draw.integers(0, DOMAINS, n), draw.integers(0, TOPICS, n)
        label = draw.integers(0, CLASSES, n)
        inputs = self.topics[domain, topic] + self.classes[domain, label] + draw.normal(size=(n, INPUTS))
        wrong = np.zeros(n) if clean else self.wrong[domain, topic]
        given = np.where(draw.random(n) < wrong, draw.integers(0, CLASSES, n), label)
        embedding = (self.topics[domain, topic] + 0.2 * draw.normal(size=(n, INPUTS))) @ self.look
        return {"inputs": inputs, "labels": given, "domain": domain, "embedding": embedding.astype(np.float32)}


def with_copies(draw: np.random.Generator, rows: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Replace a share of the rows by near copies of a few others."""
    n = len(rows["labels"])
    copies = draw.permutation(n)[: int(COPIES * n)]
    sources = draw.choice(np.setdiff1d(np.arange(n), copies), int(COPIED * n), replace=False)
    of = np.arange(n)
    of[copies] = draw.choice(sources, len(copies))
    rows = {name: values[of] for name, values in rows.items()}
    rows["inputs"][copies] += 0.05 * draw.normal(size=(len(copies), INPUTS))
    rows["embedding"][copies] += 0.01 * draw.normal(size=(len(copies), EMBEDDED)).astype(np.float32)
    return rows


def influences(pool: Floats, target: Floats) -> Floats:
    """Multiply gradients by the inverse Fisher product of the target's mean."""
    fisher = pool.T @ pool / len(pool)
    damped = fisher + DAMPING * np.trace(fisher) / len(fisher) * np.eye(len(fisher))
    scores: Floats = pool @ np.linalg.solve(damped, target.mean(axis=0))
    return scores


class Jobs:
    """Jobs over the data of one seed."""

    def __init__(self, client: Client, folder: Path, seed: int, influence: Floats) -> None:
        self.client, self.folder, self.seed, self.influence = client, folder, seed, influence

    def run(
        self, name: str, columns: dict[str, str], *, target: bool = False, **params: Any
    ) -> tuple[Ints, dict[str, Any]]:
        """Submit a job and return its rows and report; where it asks, answer."""
        request: dict[str, Any] = {
            "dataset": {"shards": [str(self.folder / "pool.parquet")], "columns": columns},
            "selector": {"name": name, "params": params},
            "budget": {"fraction": BUDGET},
            "seed": self.seed,
        }
        if target:
            request["target"] = {"datasets": [{"shards": [str(self.folder / "target.parquet")]}]}
        job = self.client.submit(request)
        if params.get("reward") == "ask":
            for question in job.questions():
                job.answer(question, self.influence[np.asarray(question.rows)].tolist())
        job.wait(progress=False)
        path = job.download(self.folder / "selection.parquet")
        return pq.read_table(path)["row"].to_numpy(), job.report()


def one_seed(client: Client, folder: Path, seed: int, rows: int, steps: int, clusters: int) -> dict[str, Any]:
    """Run every method of one seed; return accuracy, also in the worst domain, and the share of influences asked."""
    from sklearn.cluster import KMeans

    draw = np.random.default_rng(2000 + seed)
    world = World(draw)
    pool = with_copies(draw, world.rows(draw, rows, clean=False))
    target, test = world.rows(draw, TARGET, clean=True), world.rows(draw, TEST, clean=True)
    network = Network(seed)
    network.train(pool["inputs"], pool["labels"], 2 * steps, seed)
    signs = network.projection(draw)
    gradients = [network.gradients(part["inputs"], part["labels"], signs) for part in (pool, target)]
    influence = influences(*(part.astype(np.float64) for part in gradients))
    found = KMeans(clusters, n_init=1, random_state=seed).fit(pool["embedding"])
    columns = {
        "gradient": lists(gradients[0]),
        "embedding": lists(pool["embedding"]),
        "influence": influence,
        "topic": found.labels_,
        "label": pool["labels"],
    }
    pq.write_table(pa.table(columns), folder / "pool.parquet", row_group_size=4000)
    pq.write_table(pa.table({"gradient": lists(gradients[1])}), folder / "target.parquet")
    apart = np.linalg.norm(found.cluster_centers_[:, None] - found.cluster_centers_[None], axis=2)
    near = float(np.median(np.sort(apart, axis=1)[:, 5]))  # about five neighbours each

    jobs = Jobs(client, folder, seed, influence)
    given = {"influence": "influence", "cluster": "topic"}
    chosen = {
        "random": jobs.run("random", {}),
        "uniform over clusters": jobs.run("stratified", {"group": "topic"}, allocation="equal"),
        "top-k influence": jobs.run("topk", {"score": "influence"}, order="highest"),
        "Quad, alpha 0": jobs.run("quad", given, alpha=0, **PULLS),
        "Quad, alpha 0.5": jobs.run("quad", given, alpha=0.5, **PULLS),
        "Quad": jobs.run("quad", given, **PULLS),
        "Quad, own clusters and inverse": jobs.run(
            "quad", {"embedding": "embedding"}, target=True, reward="gradient", clusters=clusters, **PULLS
        ),
        "Quad, neighbours": jobs.run(
            "quad",
            {"influence": "influence", "embedding": "embedding"},
            clusters=clusters,
            neighbor_distance=near,
            **PULLS,
        ),
        "Quad, no inverse": jobs.run(
            "quad", {"cluster": "topic"}, target=True, reward="gradient", inverse="none", **PULLS
        ),
        "Quad, clusters are labels": jobs.run("quad", {"influence": "influence", "cluster": "label"}, **PULLS),
        "quota": jobs.run("quad", given, rule="quota"),
    }
    if seed == 0:
        asked_for, _ = jobs.run("quad", {"cluster": "topic"}, reward="ask", **PULLS)
        if not np.array_equal(asked_for, chosen["Quad"][0]):
            raise AssertionError("With answers to its questions Quad selects other rows than with a column of them")

    def tested(picked: Ints) -> tuple[float, float]:
        fresh = Network(77 + seed)
        fresh.train(pool["inputs"][picked], pool["labels"][picked], steps, seed)
        each = [
            fresh.accuracy(test["inputs"][test["domain"] == domain], test["labels"][test["domain"] == domain])
            for domain in range(DOMAINS)
        ]
        return fresh.accuracy(test["inputs"], test["labels"]), min(each)

    outcome: dict[str, Any] = {}
    asked_by_all = {"top-k influence": 1.0}
    for name, (picked, report) in chosen.items():
        accuracy, worst = tested(picked)
        asked = asked_by_all.get(name, 0.0)
        if report["selector"] == "quad":
            asked = report["evidence"]["influences"]["share_of_rows"]
        outcome[name] = {"accuracy": accuracy, "worst": worst, "asked": asked, "rows": len(picked)}
    accuracy, worst = tested(np.arange(rows))
    outcome["full pool"] = {"accuracy": accuracy, "worst": worst, "asked": 0.0, "rows": rows}
    return outcome


@benchmark(
    full={"seeds": 6, "rows": 20_000, "steps": 800, "clusters": DOMAINS * TOPICS},
    toy={"seeds": 1, "rows": 3000, "steps": 20, "clusters": 20},
)
def experiment(seeds: int, rows: int, steps: int, clusters: int) -> Iterator[Yielded]:
    """Accuracy of networks trained on selections of Quad, of influence or diversity alone, and on random draws."""
    found: list[dict[str, Any]] = []
    with service() as (client, data):
        for seed in range(seeds):
            folder = data / str(seed)
            folder.mkdir()
            found.append(one_seed(client, folder, seed, rows, steps, clusters))
    yield from show(found, rows)


def show(seeds: list[dict[str, Any]], rows: int) -> Iterator[Yielded]:
    """Give the table of all seeds."""
    yield Block(f"{len(seeds)} seeds, {BUDGET:.0%} of {rows:,} rows, accuracy on fresh clean rows of all domains")
    for name in seeds[0]:
        mean, worst, asked = (
            statistics.mean(seed[name][column] for seed in seeds) for column in ("accuracy", "worst", "asked")
        )
        row: dict[str, Any] = {"selector": name, "accuracy": mean, "worst domain": worst, "influences asked / n": asked}
        for title, rival in (("top-k", "top-k influence"), ("uniform over clusters", "uniform over clusters")):
            gains = [seed[name]["accuracy"] - seed[rival]["accuracy"] for seed in seeds]
            wins = f"{statistics.mean(gains):+.3f}, {sum(gain > 0 for gain in gains)} of {len(seeds)}"
            row[f"vs {title}"] = None if name == rival else wins
        yield row
    selected = {name: [seed[name]["rows"] for seed in seeds] for name in seeds[0] if name != "full pool"}
    odd = {name: counts for name, counts in selected.items() if set(counts) != {int(BUDGET * rows)}}
    yield f"Rows selected other than asked: {odd or 'none'}."
