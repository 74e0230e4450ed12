"""Does coverage pay? The experiment of the CCS paper in small, end to end through the service.

    make evidence-ccs                                five seeds of both data sets
    make evidence-ccs ARGS="seeds=1 data=mnist1d"    one seed of one

For every seed a split is drawn, a small network trained on all of the training part while it logs its training dynamics
(Parquet), and jobs submitted to a service started for it: what is kept of 10% to 70% by each selection. Networks of the
same shape are trained anew on the rows downloaded, all for the same number of iterations, and tested on clean labels.
With `work=FOLDER` the results of every
seed are kept there, and a second run goes on from them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tests.benchmarks.harness import Yielded, benchmark
from tests.benchmarks.results import Block
from tests.evidence import networks
from tests.evidence.jobs import lists, service
from tests.evidence.peers import mnist
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from tamis.service.client import Client

BETAS = (0.0, 0.1, 0.3, 0.5)
JOB_SECONDS = 900.0

Ints = npt.NDArray[np.int64]


class Data(NamedTuple):
    """A data set and how a network is trained on it."""

    title: str
    train: int
    validation: int
    noise: float  # share of training and validation labels that are another class
    epochs: int  # of the full set


DATA = {
    "mnist1d": Data("MNIST-1D", 10_000, 1_000, 0.0, 20),
    "mnist5k": Data("MNIST-5k, 5% label noise", 4_000, 250, 0.05, 30),
    "clouds": Data("ten clouds of points, for a toy run", 1_000, 125, 0.05, 1),
}
CLOUD_ROWS = 1_500


def write_data(name: str, folder: Path) -> Path:
    """Write a data set where it is not there yet."""
    path = folder / f"{name}.npz"
    if not path.exists() and name == "clouds":
        draw = np.random.default_rng(0)
        labels = draw.integers(0, 10, CLOUD_ROWS)
        points = draw.normal(size=(10, 16))[labels] + draw.normal(size=(CLOUD_ROWS, 16))
        np.savez(path, x=points.astype(np.float32), y=labels)
    if not path.exists() and mnist.run(mnist1d=folder / "mnist1d.npz", mnist5k=folder / "mnist5k.npz") is None:
        raise SystemExit("The data sets could not be made: see above.")
    return path


class Split(NamedTuple):
    """One seed's rows; the test labels are clean."""

    x: npt.NDArray[np.float32]  # of the training part, standardised
    y: Ints
    validation_x: npt.NDArray[np.float32]
    validation_y: Ints
    test_x: npt.NDArray[np.float32]
    test_y: Ints


def split(path: Path, data: Data, seed: int) -> Split:
    """Draw training, validation and test parts; spoil labels; standardise by the training part."""
    with np.load(path) as arrays:
        x, y = arrays["x"], arrays["y"]
    random = np.random.default_rng([seed, 1])
    order = random.permutation(len(x))
    seen, test = np.split(order, [data.train + data.validation])
    labels = y[seen]
    wrong = random.random(len(seen)) < data.noise
    labels[wrong] = (labels[wrong] + random.integers(1, 10, int(wrong.sum()))) % 10
    mean, deviation = x[seen[: data.train]].mean(axis=0), x[seen[: data.train]].std(axis=0) + 1e-3
    scaled = ((x - mean) / deviation).astype(np.float32)
    return Split(
        scaled[seen[: data.train]],
        labels[: data.train],
        scaled[seen[data.train :]],
        labels[data.train :],
        scaled[test],
        y[test],
    )


def log_dynamics(part: Split, data: Data, seed: int, folder: Path) -> tuple[float, int]:
    """Train on everything, write log, candidates and validation split; return test accuracy and iterations."""
    an_epoch = data.train // networks.BATCH
    iterations = an_epoch * data.epochs
    visits: list[tuple[int, Ints, npt.NDArray[np.float16]]] = []

    def log(iteration: int, rows: Ints, log_p: npt.NDArray[np.float32]) -> None:
        visits.append((iteration // an_epoch, rows, log_p.astype(np.float16)))

    network = networks.train(part.x, part.y, [np.arange(data.train)], iterations, seed, log)
    rows = np.concatenate([rows for _, rows, _ in visits])
    columns = {
        "epoch": pa.array(np.repeat([epoch for epoch, _, _ in visits], networks.BATCH).astype(np.int32)),
        "row": pa.array(rows),
        "label": pa.array(part.y[rows].astype(np.int32)),
        "logits": lists(np.concatenate([log_p for _, _, log_p in visits])),
    }
    pq.write_table(pa.table(columns), folder / "log.parquet", compression="zstd")
    for name, x, y in (("candidates", part.x, part.y), ("validation", part.validation_x, part.validation_y)):
        embedding = lists(networks.embedded(network, x))
        pq.write_table(pa.table({"label": pa.array(y), "embedding": embedding}), folder / f"{name}.parquet")
    return networks.accuracies(network, part.test_x, part.test_y)[0], iterations


def methods(folder: Path, pruned: int) -> dict[str, dict[str, Any]]:
    """Return the jobs that keep what a pruning rate leaves: selector, and what it reads."""
    dynamics = {"dynamics": {"shards": [str(folder / "log.parquet")]}}
    ccs = {"source": "dynamics"}

    def job(name: str, params: dict[str, Any], **reads: Any) -> dict[str, Any]:
        return {"selector": {"name": name, "params": params}, **reads}

    found = {"random": job("random", {})}
    for metric, order in (("aum", "lowest"), ("forgetting", "highest"), ("el2n", "highest")):
        found[f"{metric} hardest"] = job("topk", {**ccs, "metric": metric, "order": order}, **dynamics)
    for beta in BETAS:
        if beta <= pruned / 100:
            found[f"ccs beta {beta:g}"] = job("ccs", {**ccs, "beta": beta}, **dynamics)
    validation = {"datasets": [{"shards": [str(folder / "validation.parquet")]}]}
    found["ccs beta swept"] = job("ccs", {**ccs, "beta": "sweep"}, target=validation, **dynamics)
    return found


def selections(
    client: Client, folder: Path, seed: int, pruned_rates: list[int]
) -> tuple[dict[tuple[int, str], Ints], dict[int, float]]:
    """Submit all jobs of a seed and download what they chose; with the betas that the sweeps took."""
    candidates = {"shards": [str(folder / "candidates.parquet")]}
    running = {}
    for pruned in pruned_rates:
        for name, parts in methods(folder, pruned).items():
            budget = {"fraction": (100 - pruned) / 100}
            running[pruned, name] = client.submit({"dataset": candidates, "budget": budget, "seed": seed, **parts})
    rows: dict[tuple[int, str], Ints] = {}
    betas: dict[int, float] = {}
    for (pruned, name), submitted in running.items():
        submitted.wait(timeout=JOB_SECONDS)
        file = submitted.download(folder / f"{pruned}-{name.replace(' ', '-')}.parquet")
        rows[pruned, name] = pq.read_table(file)["row"].to_numpy()
        if name == "ccs beta swept":
            betas[pruned] = float(submitted.report()["evidence"]["sweep"]["chosen"])
    return rows, betas


def run_seed(client: Client, path: Path, data: Data, seed: int, folder: Path, pruned: list[int]) -> dict[str, Any]:
    """Run one seed: log, select, retrain."""
    folder.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    part = split(path, data, seed)
    full, iterations = log_dynamics(part, data, seed, folder)
    logged = time.process_time()
    rows, betas = selections(client, folder, seed, pruned)
    selected = time.process_time()
    trained = networks.train(part.x, part.y, list(rows.values()), iterations, 1_000 + seed)
    found = networks.accuracies(trained, part.test_x, part.test_y)
    took = {"log": logged - start, "retrain": time.process_time() - selected}
    return {
        "full": full,
        "iterations": iterations,
        "betas": {str(rate): beta for rate, beta in betas.items()},
        "accuracies": {f"{rate} {name}": value for (rate, name), value in zip(rows, found, strict=True)},
        "cpu": {name: round(seconds, 1) for name, seconds in took.items()},
    }


# -- the table


def spread(values: npt.NDArray[np.float64]) -> str:
    deviation = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{deviation}"


def against(values: npt.NDArray[np.float64], random: npt.NDArray[np.float64]) -> str:
    """Return the paired difference with its standard error, and the wins."""
    gain = values - random
    error = f" ± {gain.std(ddof=1) / np.sqrt(len(gain)):.1f}" if len(gain) > 1 else ""
    return f"{gain.mean():+.1f}{error} ({int((gain > 0).sum())}/{len(gain)})"


def show(data: Data, results: list[dict[str, Any]], pruned: list[int]) -> Iterator[Yielded]:
    """Give the tables of one data set."""
    full = 100 * np.array([result["full"] for result in results])
    title = f"{data.title}: all rows {spread(full)}, {results[0]['iterations']:,} iterations, {len(full)} seeds"
    names = list(dict.fromkeys(key.split(" ", 1)[1] for result in results for key in result["accuracies"]))
    names.sort(key=lambda name: name == "ccs beta swept")

    def column(rate: int, name: str) -> npt.NDArray[np.float64] | None:
        known = [result["accuracies"].get(f"{rate} {name}") for result in results]
        return None if None in known else 100 * np.array(known, np.float64)

    for what in ("accuracy %, mean ± sd", "less random, mean ± se (wins)"):
        yield Block(title if what.startswith("accuracy") else "")
        for name in names if what.startswith("accuracy") else names[1:]:
            row: dict[str, Any] = {what: name}
            for rate in pruned:
                values, random = column(rate, name), column(rate, "random")
                assert random is not None
                shown = None if values is None else spread(values)
                if values is not None and not what.startswith("accuracy"):
                    shown = against(values, random)
                row[f"{rate}% pruned"] = shown
            yield row
    swept = {rate: ", ".join(f"{result['betas'][str(rate)]:g}" for result in results) for rate in pruned}
    yield "Betas swept, seed by seed: " + "; ".join(f"{rate}%: {listed}" for rate, listed in swept.items()) + "."
    yield f"CPU seconds of a seed's networks: {results[0]['cpu']}."


@benchmark(
    full={"seeds": 5, "data": ["mnist1d", "mnist5k"], "pruned": [30, 50, 70, 90], "work": ""},
    toy={"seeds": 1, "data": ["clouds"], "pruned": [70]},
)
def experiment(seeds: int, data: list[str], pruned: list[int], work: str) -> Iterator[Yielded]:
    """Accuracy of networks trained on coresets of CCS, on the hardest rows, and on random draws."""
    # Products of small matrices gain nothing from threads.
    with service() as (client, folder), threadpool_limits(1):
        kept_in = Path(work).resolve() if work else folder
        kept_in.mkdir(parents=True, exist_ok=True)
        for name in data:
            path, results = write_data(name, kept_in), []
            for seed in range(seeds):
                kept = kept_in / f"{name}-{seed}.json"
                if not kept.exists():
                    found = run_seed(client, path, DATA[name], seed, folder / f"{name}-{seed}", pruned)
                    kept.write_text(json.dumps(found))
                results.append(json.loads(kept.read_text()))
            yield from show(DATA[name], results, pruned)
