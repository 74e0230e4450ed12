"""Every selector of the catalogue, end to end: over HTTP, and in the library with other threads; the same bytes."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors import select
from tamis.selectors.jobs.catalogue import catalogue
from tamis.service.client import Client, JobFailed

from .conftest import Service

ROWS = 600
CLASSES = 4
EPOCHS = 5

JOBS: dict[str, list[dict[str, Any]]] = {
    "ccs": [
        {"params": {"hard_end": "low", "beta": 0.2}},
        {"params": {"source": "dynamics", "beta": 0.1, "class_balance": "proportional"}, "dynamics": True},
        {"params": {"source": "snapshot", "beta": "sweep"}, "target": True},
    ],
    "d2": [{"params": {"hard_end": "low"}}],
    "dsir": [{"params": {"buckets": 500}, "target": True}],
    "facility_location": [{}, {"params": {"neighbors": 8, "metric": "cosine"}}],
    "gais": [{}, {"params": {"graph": "minibatch", "score": "attention", "batch": 128}}],
    "graph_cut": [{}],
    "heuristic": [{"params": {"buckets": 500}, "target": True}],
    "kcenter": [{}, {"params": {"start": "central"}, "strata": {"by": "label", "default": {"max_share": 0.3}}}],
    "moderate": [{}],
    "quad": [
        {"params": {"probes": 5, "rows_per_pull": 20}},
        {"params": {"rule": "quota", "reward": "gradient"}, "target": True},
        {"params": {"reward": "gradient", "inverse": "ekfac", "clusters": 6, "neighbor_distance": 1.0}, "target": True},
        {"params": {"release": True, "rows_per_pull": 20, "tau": -0.5}},
    ],
    "random": [{}],
    "saturated_coverage": [{}],
    "semdedup": [{}],
    "stratified": [{}],
    "tarot": [
        {"params": {"weights": "potential"}, "target": True},
        {"params": {"mode": "otm", "folds": 4, "layers": 12}, "target": True},
        {"params": {"source": "last_layer", "dimension": 32, "solver": "exact"}, "target": True},
        {"params": {"source": "text", "dimension": 16, "whitening": "zca"}, "target": True},
        {"params": {"release": True}, "target": True},
    ],
    "topk": [{"params": {"order": "lowest"}}, {"params": {"source": "dynamics", "order": "highest"}, "dynamics": True}],
}
"""What is asked of each selector, beside dataset, budget and seed."""

CASES = [(name, index) for name, jobs in JOBS.items() for index in range(len(jobs))]


def test_every_selector_is_here() -> None:
    assert {info.name for info in catalogue()} == set(JOBS)


def table(rows: int, seed: int) -> pa.Table:
    """Rows of four classes, with a column for every role."""
    draw, words = np.random.default_rng(seed), random.Random(seed)
    labels = draw.integers(0, CLASSES, rows)
    embeddings = draw.normal(size=(rows, 8)) + 3 * np.eye(8)[labels]
    logits = draw.normal(size=(rows, CLASSES)) + 2 * np.eye(CLASSES)[labels]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    vocabularies = ["sail tide keel mast", "oven salt loaf soup", "loop queue stack heap", "moss fern bark leaf"]
    return pa.table(
        {
            "text": [" ".join(words.choices(vocabularies[label].split(), k=9)) for label in labels],
            "group": [f"g{label % 3}" for label in labels],
            "label": labels,
            "score": draw.normal(size=rows).astype(np.float32),
            "embedding": list(embeddings.astype(np.float32)),
            "cluster": labels * 2 + draw.integers(0, 2, rows),
            "influence": draw.normal(size=rows) + labels,
            "activation": list(embeddings.astype(np.float32)),
            "output_gradient": list((draw.normal(size=(rows, 3)) + 1).astype(np.float32)),
            "gradient": list((embeddings @ np.diag(np.arange(1, 9))).astype(np.float32)),
            "logits": list(log_probs.astype(np.float32)),
        }
    )


def visits(labels: np.ndarray, epoch: int) -> pa.Table:
    """One epoch of a log, in an order of its own."""
    draw = np.random.default_rng(100 + epoch)
    rows = draw.permutation(len(labels))
    logits = draw.normal(size=(len(rows), CLASSES)) + epoch * np.eye(CLASSES)[labels[rows]]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return pa.table(
        {
            "epoch": np.full(len(rows), epoch),
            "row": rows,
            "label": labels[rows],
            "logits": pa.array(list(log_probs.astype(np.float16)), pa.list_(pa.float16(), CLASSES)),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("every-selector")
    pool = table(ROWS, 1)
    pq.write_table(pool.slice(0, 350), place / "pool-0.parquet", row_group_size=100)
    pq.write_table(pool.slice(350), place / "pool-1.parquet", row_group_size=100)
    pq.write_table(table(120, 2), place / "target.parquet")
    labels = pool.column("label").to_numpy()
    for epoch in range(EPOCHS):
        pq.write_table(visits(labels, epoch), place / f"visits-{epoch}.parquet", row_group_size=250)
    return place


def request_for(folder: Path, name: str, index: int) -> dict[str, Any]:
    asked = JOBS[name][index]
    request: dict[str, Any] = {
        "dataset": {"shards": [str(folder / "pool-*.parquet")]},
        "selector": {"name": name, "params": copy.deepcopy(asked.get("params", {}))},
        "budget": {"rows": 60},
        "seed": 5,
    }
    if asked.get("target"):
        request["target"] = {"datasets": [{"shards": [str(folder / "target.parquet")]}]}
    if asked.get("dynamics"):
        request["dynamics"] = {"shards": [str(folder / "visits-*.parquet")]}
    if "strata" in asked:
        request["strata"] = asked["strata"]
    return request


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with Client(service.url) as connected:
        yield connected


@pytest.mark.parametrize(("name", "index"), CASES)
def test_the_same_bytes_everywhere(folder: Path, client: Client, tmp_path: Path, name: str, index: int) -> None:
    request = request_for(folder, name, index)
    planned = client.plan(request)
    job = client.submit(request).wait(progress=False)
    job.download(tmp_path / "http.parquet")
    digests = {hashlib.sha256((tmp_path / "http.parquet").read_bytes()).hexdigest()}
    for threads in (1, 7):
        selection = select(**request, out=tmp_path / str(threads), threads=threads)
        digests.add(hashlib.sha256(selection.path.read_bytes()).hexdigest())
    assert len(digests) == 1
    assert job.resource.fingerprint == planned.fingerprint == selection.manifest.provenance.fingerprint
    chosen = pq.read_table(tmp_path / "http.parquet")
    assert chosen.num_rows == 60
    assert sorted(chosen.column("rank").to_pylist()) == list(range(60))
    report = job.report()
    assert {"evidence", "warnings", "scores"} <= set(report)
    assert job.explain(row=int(chosen.column("row")[0].as_py())).selected


TOO_FEW = {"gais": "needs two classes", "quad": "nothing can be taken"}
"""What those say that one row is too few for: a class to tell from, and an influence above the first ones' mean."""


@pytest.mark.parametrize("name", JOBS)
def test_one_row(folder: Path, client: Client, tmp_path: Path, name: str) -> None:
    """Of one row that row is selected, or it is said why one row is too few."""
    pq.write_table(pq.read_table(folder / "pool-0.parquet").slice(0, 1), tmp_path / "pool.parquet")
    request = request_for(folder, name, 0)
    request["dataset"] = {"shards": [str(tmp_path / "pool.parquet")]}
    request["budget"] = {"rows": 1}
    if name in TOO_FEW:
        with pytest.raises(JobFailed, match=TOO_FEW[name]):
            client.submit(request).wait(progress=False)
        return
    client.submit(request).wait(progress=False).download(tmp_path / "one.parquet")
    assert pq.read_table(tmp_path / "one.parquet").column("row").to_pylist() == [0]


def test_quad_that_asks_selects_as_with_the_column(folder: Path, client: Client, tmp_path: Path) -> None:
    request = request_for(folder, "quad", 0)
    column = select(**request, out=tmp_path / "column")
    request["selector"]["params"]["reward"] = "ask"
    influence = np.concatenate(
        [pq.read_table(path)["influence"].to_numpy() for path in sorted(folder.glob("pool-*.parquet"))]
    )
    told = select(**request, out=tmp_path / "told", answer=lambda question: influence[question.rows])
    job = client.submit(request)
    for question in job.questions():
        job.answer(question, influence[np.asarray(question.rows)].tolist())
    job.download(tmp_path / "asked.parquet")
    assert (tmp_path / "asked.parquet").read_bytes() == told.path.read_bytes()
    wanted = ["row", "rank", "score", "cluster"]
    assert pq.read_table(told.path, columns=wanted).equals(pq.read_table(column.path, columns=wanted))
