"""``make evidence-gais``: accuracy kept by GAIS, against random draws, prototypes and what else Tamis offers (hours).

For every set, fold, share kept and label noise: each method selects training rows, three classifiers (1-NN, logistic
regression, random forest) are trained on them and tested on the fold's clean test rows. Methods of Tamis run as jobs of
a service of its own, through its client. That starts a process a job; with ``library=true`` jobs run by the library,
and those of the default at the first reduction of the first fold through the client as well, which must select the same
rows. All folds are measured at the first reduction, then at the others. With ``records=FILE`` records are kept there,
and a second run goes on from them.

``sets`` are built by the recipes of ``recipes`` (a folder with ``load_tabular.py``) where ``data`` lacks them.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tests.benchmarks.harness import ROOT, Yielded, benchmark
from tests.evidence.gais_tables import DEFAULT, DESIGN, FRESH, MADE, PLAIN, PROTOTYPES, RANDOM, Record, show
from tests.evidence.jobs import service
from tests.evidence.peers import imbalanced, recipes_sets
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from tamis.service.client import Client

FOLDS = 5
CCS = "CCS, beta 0.3"
TREES = 30
GAIS: Mapping[str, Mapping[str, Any]] = {
    DEFAULT: {},
    PLAIN: {"doubt": "none"},
    "coverage, doubt by neighbours": {"doubt": "neighbours"},
    "coverage, gate 0.8": {"doubt": "gate"},
    "GAIS mini-batch": {"graph": "minibatch"},
    "GAIS attention": {"score": "attention"},
    "GAIS confidence": {"score": "confidence"},
}
AT_ALL_REDUCTIONS = (RANDOM, PROTOTYPES, "k-center", CCS, DEFAULT, PLAIN)
"""The other methods run at the first reduction only."""
CCS_PARAMS = {"source": "score", "hard_end": "low", "beta": 0.3, "class_balance": "proportional"}

Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]
Rows = NDArray[np.int64]
Select = Callable[[dict[str, Any]], Rows]
"""Runs a job's request and returns the rows it selected."""


def build(folder: Path, names: list[str], recipes: str) -> None:
    """Build the sets where one of them is not there."""
    if names == [MADE]:
        draw = np.random.default_rng(0)
        labels = draw.integers(0, 3, 400)
        points = 2 * draw.normal(size=(3, 4))[labels] + draw.normal(size=(400, 4))
        (folder / MADE).mkdir(parents=True, exist_ok=True)
        columns = {f"x{index}": column for index, column in enumerate(points.T)}
        pq.write_table(pa.table({**columns, "label": labels}), folder / MADE / "0.parquet")
    if all((folder / name).is_dir() for name in names):
        return
    if not recipes:
        raise SystemExit(f"{folder} lacks some of the sets: recipes=FOLDER names the folder of their recipes.")
    folder.mkdir(parents=True, exist_ok=True)
    environment = {"DATA_OUT": str(folder), "DATA_CACHE": os.environ.get("DATA_CACHE", str(folder / "cache"))}
    if recipes_sets.run(recipes=recipes, environment=environment) is None:
        raise SystemExit("The sets could not be built: see above.")


def load(folder: Path, name: str, most: int) -> tuple[Matrix, Labels]:
    """Return features and classes of a set, of a large one a part drawn at random."""
    table = pa.concat_tables([pq.read_table(file) for file in sorted((folder / name).glob("*.parquet"))])
    labels = np.unique(table["label"].to_numpy().astype(str), return_inverse=True)[1]
    columns = [column for column in table.column_names if column not in ("id", "label", "split")]
    if columns == ["features"]:
        features = np.stack(table["features"].to_pylist()).astype(np.float32)
    else:
        features = np.stack([table[column].to_numpy() for column in columns], axis=1).astype(np.float32)
    if len(features) > most:
        part = np.sort(np.random.default_rng(0).choice(len(features), most, replace=False))
        features, labels = features[part], np.unique(labels[part], return_inverse=True)[1]
    return features, labels


def quotas(labels: Labels, rows: int) -> NDArray[np.int64]:
    """Share rows out in proportion to the classes, two a class at least: as GAIS does."""
    from tamis.selectors.methods.gais.quotas import class_quotas

    totals = np.bincount(labels)
    return class_quotas(rows, totals, totals, np.zeros_like(totals), "proportional", 2, "")


def stratified(labels: Labels, rows: int, seed: int) -> Rows:
    """Draw rows at random within each class."""
    random = np.random.default_rng(seed)
    shares = quotas(labels, rows)
    parts = [random.choice(np.flatnonzero(labels == c), shares[c], replace=False) for c in range(len(shares))]
    return np.concatenate(parts)


def prototypes(features: Matrix, labels: Labels, rows: int, seed: int) -> Rows:
    """Return the rows nearest to the centres of k-means within each class."""
    from sklearn.cluster import KMeans

    parts = []
    for code, share in enumerate(quotas(labels, rows).tolist()):
        own = np.flatnonzero(labels == code)
        if share >= len(own):
            parts.append(own)
        elif share:
            fitted = KMeans(share, n_init=1, max_iter=20, random_state=seed).fit(features[own])
            parts.append(own[np.unique(fitted.transform(features[own]).argmin(axis=0))])
    return np.concatenate(parts)


def held_out_margins(features: Matrix, labels: Labels) -> NDArray[np.float64]:
    """Margins of a logistic regression on rows it was not trained on: CCS' difficulty here, low is hard."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    labels = np.unique(labels, return_inverse=True)[1]  # a fold may lack a rare class
    probabilities = cross_val_predict(LogisticRegression(max_iter=200), features, labels, cv=3, method="predict_proba")
    own = probabilities[np.arange(len(labels)), labels].copy()
    probabilities[np.arange(len(labels)), labels] = -1
    margins: NDArray[np.float64] = own - probabilities.max(axis=1)
    return margins


def tested(features: Matrix, labels: Labels, test: Matrix, truth: Labels) -> tuple[list[float], list[float]]:
    """Return accuracy and mean recall of the classes of the three classifiers."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.neighbors import KNeighborsClassifier

    models = (
        KNeighborsClassifier(1),
        LogisticRegression(max_iter=200),
        RandomForestClassifier(TREES, random_state=0),
    )
    accuracy, recall = [], []
    for model in models:
        said = np.full(len(truth), labels[0])
        if len(np.unique(labels)) > 1:
            said = model.fit(features, labels).predict(test)
        accuracy.append(float(np.mean(said == truth)))
        recall.append(float(balanced_accuracy_score(truth, said)))
    return accuracy, recall


class Bench:
    """A fold's training rows, as shards that a service reads."""

    def __init__(self, folder: Path, features: Matrix, labels: Labels, seed: int, *, scored: bool) -> None:
        self._folder = folder
        self._seed = seed
        self.features, self.labels = features, labels
        folder.mkdir(parents=True)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
        score = held_out_margins(features, labels) if scored else np.zeros(len(labels))
        table = {"embedding": vectors, "label": labels, "score": score}
        pq.write_table(pa.table(table), folder / "rows.parquet", row_group_size=16_384)

    def rows_of(self, method: str, rows: int, ways: Sequence[Select]) -> Rows | None:
        """Return the rows that a method selects; of a job, in every way that it is run; None without the peer."""
        if method == RANDOM:
            return stratified(self.labels, rows, self._seed)
        if method == PROTOTYPES:
            return prototypes(self.features, self.labels, rows, self._seed)
        if method == "all rows":
            return np.arange(len(self.labels))
        if method in ("CNN", "ENN"):
            return self._peer(method)
        if method == "k-center":
            return self._job("kcenter", {}, rows, ways)
        if method == CCS:
            return self._job("ccs", CCS_PARAMS, rows, ways)
        return self._job("gais", GAIS[method], rows, ways)

    def _job(self, selector: str, params: Mapping[str, Any], rows: int, ways: Sequence[Select]) -> Rows:
        request: dict[str, Any] = {
            "dataset": {"shards": [str(self._folder / "rows.parquet")], "columns": {"score": "score"}},
            "selector": {"name": selector, "params": dict(params)},
            "budget": {"rows": rows},
            "seed": self._seed,
        }
        picked = [way(request) for way in ways]
        for other in picked[1:]:
            if not np.array_equal(picked[0], other):
                raise AssertionError(f"The service and the library select differently: {request}")
        return picked[0]

    def _peer(self, name: str) -> Rows | None:
        """Return the rows that a method of imbalanced-learn keeps, which has no budget; None if it is not there."""
        np.save(self._folder / "x.npy", self.features)
        np.save(self._folder / "y.npy", self.labels)
        if imbalanced.run(method=name, folder=self._folder) is None:
            return None
        kept: Rows = np.load(self._folder / "kept.npy")
        return kept


def by_service(client: Client) -> Select:
    """Run jobs through a service's client."""

    def select(request: dict[str, Any]) -> Rows:
        picked: Rows = client.submit(request).wait().selection()["row"].to_numpy()
        return picked

    return select


def in_process(work: Path) -> Select:
    """Run the same jobs by the library: the same bytes, without a process for each."""
    from tamis.selectors.datasets import LocalStorage
    from tamis.selectors.jobs.execute import execute
    from tamis.selectors.jobs.open import Environment
    from tamis.selectors.schema.request import JobSpec

    def select(request: dict[str, Any]) -> Rows:
        out = work / f"out-{uuid.uuid4()}"
        execute(JobSpec.model_validate(request), out, Environment(LocalStorage(), work / "cache", 1))
        picked: Rows = pq.read_table(out / "selection.parquet")["row"].to_numpy()
        return picked

    return select


def methods_of(wanted: list[str], condensed: bool, first: bool) -> Iterator[str]:
    """Name the methods that run on a fold; those without a budget at its first reduction only."""
    names = list(AT_ALL_REDUCTIONS)
    if first:
        names += [name for name in GAIS if name not in names] + ["all rows", "ENN"]
        names += ["CNN"] if condensed else []
    yield from (name for name in names if not wanted or name in wanted)


def measure(options: dict[str, Any], client: Select, work: Path) -> None:
    """Measure every combination that has no record yet."""
    from sklearn.model_selection import StratifiedKFold

    library, path = in_process(work / "library"), Path(options["records"])
    done = {tuple(record[part] for part in ("set", "fold", "noise", "reduction", "method")) for record in read(path)}
    first, *others = options["reductions"]
    passes = [(reductions, fold) for reductions in ([first], others) for fold in range(options["folds"])]
    for (reductions, fold), name, noise in itertools.product(passes, options["sets"], options["noise"]):
        wanted = [
            (reduction, method)
            for reduction in reductions
            for method in methods_of(options["methods"], fold < options["condensed_folds"], reduction == first)
            if (name, fold, noise, reduction, method) not in done
        ]
        if not wanted:
            continue
        features, labels = load(Path(options["data"]), name, options["rows"])
        train, test = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features, labels))[fold]
        mean, deviation = features[train].mean(axis=0), features[train].std(axis=0)
        varies = deviation > 0
        scaled = ((features[:, varies] - mean[varies]) / deviation[varies]).astype(np.float32)
        given = labels[train].copy()
        random = np.random.default_rng(fold + 77)
        wrong = random.random(len(given)) < noise
        given[wrong] = random.integers(0, labels.max() + 1, int(wrong.sum()))
        scored = any(method == CCS for _, method in wanted)
        bench = Bench(work / uuid.uuid4().hex, np.ascontiguousarray(scaled[train]), given, fold, scored=scored)
        records: list[Record] = []
        for reduction, method in wanted:
            rows = max(2 * len(np.unique(given)), round((1 - reduction) * len(train)))
            ways = [client]
            if options["library"]:
                checked = method == DEFAULT and reduction == first and fold == 0
                ways = [library, client] if checked else [library]
            picked = bench.rows_of(method, rows, ways)
            if picked is None:
                continue
            accuracy, recall = tested(bench.features[picked], given[picked], scaled[test], labels[test])
            record = {"set": name, "fold": fold, "noise": noise, "reduction": reduction, "method": method}
            measured = {"kept": len(picked) / len(train), "accuracy": accuracy, "recall": recall}
            records.append(record | measured | {"most_rows": options["rows"], "client": client in ways})
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
        sys.stderr.write(f"{name}, fold {fold}, noise {noise}: {len(records)} results\n")


def read(path: Path) -> list[Record]:
    """Return the records of earlier runs."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@benchmark(
    full={
        "data": ".venv/gais-data",
        "recipes": "",
        "records": "",
        "sets": [*DESIGN, *FRESH],
        "folds": FOLDS,
        "condensed_folds": FOLDS,
        "library": False,
        "rows": 20_000,
        "reductions": [0.96, 0.9, 0.98],
        "noise": [0.0, 0.1],
        "methods": [],
    },
    toy={"data": "", "sets": [MADE], "folds": 1, "library": True, "reductions": [0.9], "noise": [0.1]},
)
def experiment(**options: Any) -> Iterator[Yielded]:
    """Accuracy of classifiers trained on selections of GAIS, of other methods, and on random draws.

    ``condensed_folds``: folds that CNN runs on, which is slow; ``rows``: of a set, at most; ``methods``: by their names
    in the tables, all if empty.
    """
    with service() as (client, folder), threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classifiers that do not converge
        options["data"] = str(ROOT / options["data"]) if options["data"] else str(folder / "sets")
        options["records"] = options["records"] or str(folder / "records.jsonl")
        if any(record["most_rows"] != options["rows"] for record in read(Path(options["records"]))):
            raise SystemExit(f"{options['records']} holds records of another number of rows.")
        build(Path(options["data"]), options["sets"], options["recipes"])
        measure(options, by_service(client), folder)
        found = read(Path(options["records"]))
    yield from show(found)
