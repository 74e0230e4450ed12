"""`make evidence-quad`: whether a bandit over clusters chooses better training data than influence or diversity alone.

A pool of ten domains of ten topics, which differ in how many of their labels are wrong (none, 10, 40 or 80 %); 40 % of
its rows are near copies of a few others. Ten classes look different in every domain; embeddings tell the topic, not the
class. A small network is trained on the pool; its gradients, projected with random signs, and those of a few clean rows
of all domains are what selectors see. Each selection, a tenth of the pool, trains a new network, which is tested on
fresh clean rows. Everything compared is a job of a running service, submitted by its client; the clusters, the same for
all who need them, are scikit-learn's k-means of the embeddings, except where Quad makes its own.
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
from evidence_tarot import CLASSES, INPUTS, PROJECTED, Network  # type: ignore[import-not-found]
from sklearn.cluster import KMeans

from tamis.service.cli.demo import running_service
from tamis.service.client import Client

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DOMAINS, TOPICS, EMBEDDED = 10, 10, 24
WRONG_LABELS = (0.0, 0.1, 0.4, 0.8)
COPIES, COPIED = 0.4, 400
POOL, TARGET, TEST = 20_000, 300, 5000
BUDGET = 0.1
CLUSTERS = DOMAINS * TOPICS
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
    sources = draw.choice(np.setdiff1d(np.arange(n), copies), COPIED, replace=False)
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


def lists(values: npt.NDArray[np.float32]) -> pa.Array:
    """Make a column of vectors."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


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


def one_seed(client: Client, folder: Path, seed: int, steps: int) -> dict[str, Any]:
    """Run every method of one seed; return accuracy, also in the worst domain, and the share of influences asked."""
    draw = np.random.default_rng(2000 + seed)
    world = World(draw)
    pool = with_copies(draw, world.rows(draw, POOL, clean=False))
    target, test = world.rows(draw, TARGET, clean=True), world.rows(draw, TEST, clean=True)
    network = Network(seed)
    network.train(pool["inputs"], pool["labels"], 1600, seed)
    parameters = sum(weight.size for weight in network.weights)
    signs = (draw.choice([-1.0, 1.0], (parameters, PROJECTED)) / np.sqrt(parameters)).astype(np.float32)
    gradients = [network.gradients(rows["inputs"], rows["labels"], signs) for rows in (pool, target)]
    influence = influences(*(rows.astype(np.float64) for rows in gradients))
    found = KMeans(CLUSTERS, n_init=1, random_state=seed).fit(pool["embedding"])
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
            "quad", {"embedding": "embedding"}, target=True, reward="gradient", clusters=CLUSTERS, **PULLS
        ),
        "Quad, neighbours": jobs.run(
            "quad",
            {"influence": "influence", "embedding": "embedding"},
            clusters=CLUSTERS,
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
        told = jobs.run("quad", {"cluster": "topic"}, reward="ask", **PULLS)
        if not np.array_equal(told[0], chosen["Quad"][0]):
            raise SystemExit("asked and told, Quad selects other rows than with the same influences in a column")

    def tested(rows: Ints) -> tuple[float, float]:
        fresh = Network(77 + seed)
        fresh.train(pool["inputs"][rows], pool["labels"][rows], steps, seed)
        each = [
            fresh.accuracy(test["inputs"][test["domain"] == domain], test["labels"][test["domain"] == domain])
            for domain in range(DOMAINS)
        ]
        return fresh.accuracy(test["inputs"], test["labels"]), min(each)

    outcome: dict[str, Any] = {}
    asked_by_all = {"top-k influence": 1.0}
    for name, (rows, report) in chosen.items():
        accuracy, worst = tested(rows)
        asked = asked_by_all.get(name, 0.0)
        if report["selector"] == "quad":
            asked = report["evidence"]["influences"]["share_of_rows"]
        outcome[name] = {"accuracy": accuracy, "worst": worst, "asked": asked, "rows": len(rows)}
    accuracy, worst = tested(np.arange(POOL))
    outcome["full pool"] = {"accuracy": accuracy, "worst": worst, "asked": 0.0, "rows": POOL}
    return outcome


def show(seeds: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"\n{len(seeds)} seeds, {BUDGET:.0%} of {POOL:,} rows, accuracy on fresh clean rows of all domains\n")
    print("| selector | accuracy | worst domain | influences asked / n | vs top-k | vs uniform over clusters |")
    print("|---|---|---|---|---|---|")
    for name in seeds[0]:
        mean, worst, asked = (
            statistics.mean(seed[name][column] for seed in seeds) for column in ("accuracy", "worst", "asked")
        )
        versus = []
        for rival in ("top-k influence", "uniform over clusters"):
            gains = [seed[name]["accuracy"] - seed[rival]["accuracy"] for seed in seeds]
            wins = sum(gain > 0 for gain in gains)
            versus.append("" if name == rival else f"{statistics.mean(gains):+.3f}, {wins} of {len(seeds)}")
        print(f"| {name} | {mean:.3f} | {worst:.3f} | {asked:.2f} | {' | '.join(versus)} |")
    short = {name: [seed[name]["rows"] for seed in seeds] for name in seeds[0]}
    odd = {name: rows for name, rows in short.items() if name != "full pool" and set(rows) != {int(BUDGET * POOL)}}
    print(f"\nRows selected other than asked: {odd or 'none'}.", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=800, help="of training on a selection")
    parser.add_argument("--json", help="also write all accuracies to this file")
    arguments = parser.parse_args()
    seeds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        home, data = Path(temporary) / "home", Path(temporary) / "data"
        with running_service(home, data) as url, Client(url) as client:
            for seed in range(arguments.seeds):
                folder = data / str(seed)
                folder.mkdir(parents=True)
                seeds.append(one_seed(client, folder, seed, arguments.steps))
                if arguments.json:
                    Path(arguments.json).write_text(json.dumps(seeds, indent=1))
    show(seeds)


if __name__ == "__main__":
    main()
