"""``make evidence-gais``: does GAIS keep accuracy? Against random, prototypes and what else Tamis offers, over HTTP.

For every set, fold, share kept and label noise: each method selects training rows, three classifiers (1-NN, logistic
regression, random forest) are trained on them and tested on the fold's clean test rows. Methods of Tamis run as jobs of
a service of its own, through its client. Sets are those that ``../shared/corpora/load_tabular.py`` builds; tables are
printed as Markdown for tests/benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import uuid
import venv
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tamis.service.client import Client
from tamis.service.demo import running_service

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RECIPES = ROOT.parent / "shared" / "corpora"
PEERS = ("imbalanced-learn", "pyarrow", "pandas", "rdata")

TUNED_ON = (
    "sklearn_digits",
    "sklearn_breast_cancer",
    "mlbench_vowel",
    "keel_vehicle",
    "mlbench_pimaindiansdiabetes",
    "mlbench_satellite",
    "kernlab_spam",
    "mlbench_dna",
    "mlbench_letterrecognition",
    "mlbench_shuttle",
)
"""Those of the design's twelve sets that the recipes build; parameters were tuned on some of them."""

FRESH = (
    "keel_penbased",
    "keel_texture",
    "keel_optdigits",
    "keel_twonorm",
    "keel_ring",
    "keel_banana",
    "keel_magic",
    "keel_contraceptive",
    "keel_splice",
    "keel_chess",
)
"""KEEL sets that nothing was tuned on."""

GAIS: Mapping[str, Mapping[str, Any]] = {
    "GAIS (default)": {},
    "coverage, no doubt": {"doubt": "none"},
    "coverage, doubt by neighbours": {"doubt": "neighbours"},
    "coverage, gate 0.8": {"doubt": "gate"},
    "GAIS mini-batch": {"graph": "minibatch"},
    "GAIS attention": {"score": "attention"},
    "GAIS confidence": {"score": "confidence"},
}
CLASSIFIERS = ("1-NN", "logistic", "forest")

Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]
Rows = NDArray[np.int64]
Select = Callable[[dict[str, Any]], Rows]
"""Runs a job's request and returns the rows it selected."""


def peer_python() -> Path:
    """Return the interpreter of the peers' own virtual environment, made when it is not there."""
    folder = ROOT / ".venv" / "gais-peers"
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"Installing {', '.join(PEERS)} into {folder.relative_to(ROOT)}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
    return python


def built(folder: Path) -> Path:
    """Return the folder of the sets, built by the recipes where it is not there."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        environment = {"DATA_OUT": str(folder), "DATA_CACHE": str(folder / "cache"), "PATH": "/usr/bin:/bin"}
        names = ["sklearn_sets", "keel", "mlbench", "kernlab"]
        command = [str(peer_python()), str(RECIPES / "load_tabular.py"), *names]
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    return folder


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
        features, labels = features[part], labels[part]
    return features, labels


def quotas(labels: Labels, rows: int) -> NDArray[np.int64]:
    """Share rows out in proportion to the classes, two a class at least: as GAIS does."""
    from tamis.selectors.gais_quotas import class_quotas

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

    probabilities = cross_val_predict(LogisticRegression(max_iter=200), features, labels, cv=3, method="predict_proba")
    own = probabilities[np.arange(len(labels)), labels].copy()
    probabilities[np.arange(len(labels)), labels] = -1
    margins: NDArray[np.float64] = own - probabilities.max(axis=1)
    return margins


def accuracies(features: Matrix, labels: Labels, test: Matrix, truth: Labels) -> list[float]:
    """Accuracy of the three classifiers."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    if len(np.unique(labels)) < 2:
        return [float(np.mean(truth == labels[0]))] * len(CLASSIFIERS)
    models = (
        KNeighborsClassifier(1),
        LogisticRegression(max_iter=200),
        RandomForestClassifier(50, random_state=0),
    )
    return [float(model.fit(features, labels).score(test, truth)) for model in models]


class Bench:
    """A fold's training rows, as shards that a service reads."""

    def __init__(self, select: Select, folder: Path, features: Matrix, labels: Labels, seed: int) -> None:
        self._select = select
        self._folder = folder
        self._seed = seed
        self.features, self.labels = features, labels
        folder.mkdir(parents=True)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
        table = {"embedding": vectors, "label": labels, "score": held_out_margins(features, labels)}
        pq.write_table(pa.table(table), folder / "rows.parquet", row_group_size=16_384)

    def job(self, selector: str, params: Mapping[str, Any], rows: int) -> Rows:
        """Run a job and return the rows it selected."""
        request: dict[str, Any] = {
            "dataset": {"shards": [str(self._folder / "rows.parquet")], "columns": {"score": "score"}},
            "selector": {"name": selector, "params": dict(params)},
            "budget": {"rows": rows},
            "seed": self._seed,
        }
        return self._select(request)

    def methods(self, rows: int, wanted: Collection[str], peers: bool) -> Iterator[tuple[str, Rows]]:
        """Yield the rows of every method that is wanted."""
        ccs = {"source": "score", "hard_end": "low", "beta": 0.3, "class_balance": "proportional"}
        known: dict[str, Callable[[], Rows]] = {
            "random, stratified": lambda: stratified(self.labels, rows, self._seed),
            "k-means prototypes": lambda: prototypes(self.features, self.labels, rows, self._seed),
            "k-center": lambda: self.job("kcenter", {}, rows),
            "CCS, beta 0.3": lambda: self.job("ccs", ccs, rows),
            **{name: partial(self.job, "gais", params, rows) for name, params in GAIS.items()},
            "all rows": lambda: np.arange(len(self.labels)),
        }
        if peers:
            known |= {name: partial(self._peer, name) for name in ("CNN", "ENN")}
        for name, rows_of in known.items():
            if not wanted or name in wanted:
                yield name, rows_of()

    def _peer(self, name: str) -> Rows:
        """Return the rows that a method of imbalanced-learn keeps; it has no budget."""
        np.save(self._folder / "x.npy", self.features)
        np.save(self._folder / "y.npy", self.labels)
        command = [str(peer_python()), str(HERE / "gais_peers.py"), name, str(self._folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
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
    from tamis.selectors.jobs import Environment, execute
    from tamis.selectors.spec import JobSpec

    def select(request: dict[str, Any]) -> Rows:
        out = work / f"out-{uuid.uuid4()}"
        execute(JobSpec.model_validate(request), out, Environment(LocalStorage(), work / "cache", 1))
        picked: Rows = pq.read_table(out / "selection.parquet")["row"].to_numpy()
        return picked

    return select


def measure(arguments: argparse.Namespace, select: Select, work: Path) -> list[dict[str, Any]]:
    """Measure every combination; returns one record a set, fold, share, noise and method."""
    from sklearn.model_selection import StratifiedKFold

    records: list[dict[str, Any]] = []
    for fold in range(arguments.folds):
        for name in arguments.sets:
            features, labels = load(arguments.data, name, arguments.rows)
            train, test = list(StratifiedKFold(5, shuffle=True, random_state=0).split(features, labels))[fold]
            mean, deviation = features[train].mean(axis=0), features[train].std(axis=0)
            varies = deviation > 0
            scaled = ((features[:, varies] - mean[varies]) / deviation[varies]).astype(np.float32)
            for noise in arguments.noise:
                given = labels[train].copy()
                random = np.random.default_rng(fold + 77)
                wrong = random.random(len(given)) < noise
                given[wrong] = random.integers(0, labels.max() + 1, int(wrong.sum()))
                folder = work / f"{name}-{fold}-{noise}"
                bench = Bench(select, folder, np.ascontiguousarray(scaled[train]), given, fold)
                for reduction in arguments.reductions:
                    rows = max(2 * len(np.unique(given)), round((1 - reduction) * len(train)))
                    for method, picked in bench.methods(rows, arguments.methods, reduction == arguments.reductions[0]):
                        found = accuracies(bench.features[picked], given[picked], scaled[test], labels[test])
                        records.append(
                            {
                                "set": name,
                                "fold": fold,
                                "noise": noise,
                                "reduction": reduction,
                                "method": method,
                                "kept": len(picked) / len(train),
                                "accuracy": found,
                            }
                        )
            print(f"{name}, fold {fold}: {len(records)} results", file=sys.stderr, flush=True)
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(records))
    return records


def show(records: list[dict[str, Any]]) -> None:
    """Print the tables."""
    cases = sorted({(record["noise"], record["reduction"]) for record in records})
    groups = {"tuned on some": TUNED_ON, "KEEL, nothing tuned on them": FRESH}
    for noise, reduction in cases:
        for title, names in groups.items():
            own = [r for r in records if r["noise"] == noise and r["reduction"] == reduction and r["set"] in names]
            if not own:
                continue
            by_set: dict[str, dict[str, NDArray[np.float64]]] = defaultdict(dict)
            for method in dict.fromkeys(record["method"] for record in own):
                for name in dict.fromkeys(record["set"] for record in own):
                    parts = [r["accuracy"] for r in own if r["method"] == method and r["set"] == name]
                    by_set[method][name] = np.mean(parts, axis=0)
            count = len(next(iter(by_set.values())))
            print(f"\n{reduction:.0%} reduction, {noise:.0%} label noise; {title}: {count} sets\n")
            print(f"| | {' | '.join(CLASSIFIERS)} | mean | sets above random | worst against random |")
            print(f"|---|{'---|' * (len(CLASSIFIERS) + 3)}")
            random = by_set.get("random, stratified", next(iter(by_set.values())))
            for method, sets in by_set.items():
                mean = np.mean(list(sets.values()), axis=0)
                apart = [float(sets[name].mean() - random[name].mean()) for name in sets]
                kept = np.mean([r["kept"] for r in own if r["method"] == method])
                note = f" ({kept:.0%} kept)" if method in ("CNN", "ENN") else ""
                cells = " | ".join(f"{value:.3f}" for value in [*mean, mean.mean()])
                above = sum(value > 0 for value in apart)
                print(f"| {method}{note} | {cells} | {above} of {len(apart)} | {min(apart):+.3f} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / ".venv" / "gais-data", help="sets by load_tabular.py")
    parser.add_argument("--sets", nargs="+", default=[*TUNED_ON, *FRESH])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of a set, at most")
    parser.add_argument("--reductions", nargs="+", type=float, default=[0.96, 0.9, 0.98])
    parser.add_argument("--noise", nargs="+", type=float, default=[0.0, 0.1])
    parser.add_argument("--methods", nargs="+", default=[], help="by their names in the tables; all when left out")
    parser.add_argument("--in-process", action="store_true", help="by the library: faster, the same rows")
    parser.add_argument("--json", type=Path, help="also write the records here, as they come")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    built(arguments.data)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if arguments.in_process:
            records = measure(arguments, in_process(work), work / "data")
        else:
            with running_service(work / "home", work) as address, Client(address) as client:
                records = measure(arguments, by_service(client), work / "data")
    show(records)


if __name__ == "__main__":
    main()
