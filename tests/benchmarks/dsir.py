"""DSIR: speed beside the authors' package on the same text, and precision on a pool of known domains."""

from __future__ import annotations

import glob
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.environments import peer
from tests.benchmarks.harness import ROOT, Figures, Row, Yielded, benchmark, figure, leg, ratio
from tests.benchmarks.jobs import job, report

DEMO = ROOT / "tests" / "data" / "demo"
TARGET_MEGABYTES = 20


@leg(
    env=peer("data-selection==1.0.3", "nltk==3.8.1")
)  # faster on this NLTK than on newer ones; its tokens are the paper's
def reference(raw: str, target: str, work: str, rows: int) -> Figures:
    """Fit, weigh and resample with the authors' package, in one process."""
    from data_selection import HashedNgramDSIR

    def cpu_seconds() -> float:
        return sum(os.times()[:4])  # of this process and its children

    marks = [cpu_seconds()]
    dsir = HashedNgramDSIR([raw], [target], cache_dir=f"{work}/cache", num_proc=1, ngrams=2, num_buckets=10_000)
    begun = cpu_seconds()
    dsir.fit_importance_estimator(num_tokens_to_fit="all")
    marks.append(cpu_seconds())
    dsir.compute_importance_weights()
    marks.append(cpu_seconds())
    dsir.resample(out_dir=f"{work}/out", num_to_sample=rows, cache_dir=f"{work}/resampled")
    marks.append(cpu_seconds())
    _, weights, _ = (later - earlier for earlier, later in itertools.pairwise(marks))
    return {"fit": marks[1] - begun, "weights": weights, "cpu": marks[-1] - marks[0]}


def write_corpus(pattern: str, megabytes: float, folder: Path, name: str, *, repeated: bool) -> tuple[float, int]:
    """Write the first `megabytes` of a corpus as zstd Parquet (one file, 5,000 rows a group) and as JSON lines.

    Returns
    -------
    tuple of float and int
        Megabytes of text and rows; fewer than asked if the corpus is smaller and not `repeated`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    files = sorted(glob.glob(str(ROOT / pattern)))  # noqa: PTH207 - the pattern may be absolute
    if not files:
        raise SystemExit(f"No file matches {pattern!r}.")
    table = ds.dataset(files).to_table(columns=["text"])
    size = pc.sum(pc.binary_length(table["text"])).as_py()
    if repeated:
        table = pa.concat_tables([table] * max(1, round(megabytes * 1e6 / size)))
    sizes = pc.cumulative_sum(pc.cast(pc.binary_length(table["text"]), pa.int64()))
    table = table.slice(0, pc.sum(pc.less_equal(sizes, int(megabytes * 1e6))).as_py())
    pq.write_table(table, folder / f"{name}.parquet", compression="zstd", row_group_size=5000, use_dictionary=False)
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for text in table["text"].to_pylist():
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return pc.sum(pc.binary_length(table["text"])).as_py() / 1e6, len(table)


@benchmark(
    full={
        "raw": "tests/data/demo/pool/*.parquet",
        "target": "tests/data/demo/targets/python.parquet",
        "megabytes": 40.0,
        "hashes": ["fast", "sha256"],
        "forms": ["parquet", "jsonl"],
        "threads": [1, 2],
        "repeat": 3,
        "cold": True,
    },
    toy={"megabytes": 0.5, "hashes": ["fast"], "forms": ["jsonl"], "threads": [2], "repeat": 1, "cold": False},
)
def speed(
    raw: str,
    target: str,
    megabytes: float,
    hashes: list[str],
    forms: list[str],
    threads: list[int],
    repeat: int,
    cold: bool,
) -> Iterator[Yielded]:
    """Speed of the authors' package and of Tamis on the same text; a corpus smaller than asked is repeated."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size, rows = write_corpus(raw, megabytes, folder, "raw", repeated=True)
        target_size, _ = write_corpus(target, TARGET_MEGABYTES, folder, "target", repeated=False)
        budget = max(1, rows // 10)
        theirs = reference.run(
            raw=folder / "raw.jsonl", target=folder / "target.jsonl", work=folder / "reference", rows=budget
        )

        def row(name: str, hash: str, form: str, count: int, found: Figures) -> Row:
            speeds = {"fit": size + target_size, "weights": size, "cpu": size}
            told: Row = {"": name, "hash": hash, "input": form, "threads": count}
            told |= {f"{'whole' if part == 'cpu' else part} MB/s": much / found[part] for part, much in speeds.items()}
            told |= {f"{'whole' if part == 'cpu' else part} ×": ratio(theirs, found, part) for part in speeds}
            return told | {"whole wall s": found.get("wall"), "peak RSS MB": found["peak_rss"] / 1e6}

        if theirs is not None:
            yield row("reference", "sha256", "jsonl", 1, theirs)
        if cold:
            first = job.ours(
                spec=_spec(folder, "parquet", "fast", budget),
                work=folder / "cold",
                threads=1,
                environment={"TAMIS_HOME": str(folder / "home")},  # of its own, and so without kernels
            )
        for hash, form, count in itertools.product(hashes, forms, threads):
            spec = _spec(folder, form, hash, budget)
            found = job.ours(spec=spec, work=folder / "work", threads=count, processes=repeat)
            yield row("Tamis", hash, form, count, found)
        yield f"{rows:,} rows, {size:.1f} MB of text; target {target_size:.1f} MB; {budget:,} rows selected."
        if cold:
            yield (
                f"Kernels: cold compile {first['kernels']:.1f} CPU s, warm start {found['kernels']:.2f} CPU s "
                f"({found['kernels_wall']:.2f} s wall with imports)."
            )


def _spec(folder: Path, form: str, hash: str, rows: int) -> dict[str, Any]:
    return {
        "dataset": {"shards": [str(folder / f"raw.{form}")]},
        "target": {"datasets": [{"shards": [str(folder / f"target.{form}")]}]},
        "selector": {"name": "dsir", "params": {"hash": hash, "min_tokens": 100}},
        "budget": {"rows": rows},
    }


@benchmark(
    full={"pool": "", "normalize": ["none", "length", "poisson"], "threads": 2},
    toy={"normalize": ["length"]},
)
def pool(pool: str, normalize: list[str], threads: int) -> Iterator[Yielded]:
    """Precision by domain: as many rows as the pool holds of a target's domain, with and without normalisation.

    `pool` is a folder with ``pool_mixed/`` (text, domain) and a folder ``target_DOMAIN/`` for each domain of interest;
    left empty, one is made of the demo's text, whose domains are its sources.
    """
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    worst = {"peak_rss": 0.0, "wall": 0.0}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given = Path(pool) if pool else _demo_pool(folder)
        shards = sorted(str(path) for path in (given / "pool_mixed").glob("*.parquet"))
        domains = ds.dataset(shards).to_table(columns=["domain"])["domain"]
        for target in sorted(given.glob("target_*")):
            domain = target.name.removeprefix("target_")
            rows = pc.sum(pc.equal(domains, domain)).as_py()
            told: Row = {"target": domain, "rows asked": rows}
            for mode in normalize:
                spec = {
                    "dataset": {"shards": shards, "columns": {"group": "domain"}},
                    "target": {"datasets": [{"shards": [str(target / "*.parquet")]}]},
                    "selector": {"name": "dsir", "params": {"normalize": mode}},
                    "budget": {"rows": rows},
                }
                work = folder / f"{domain}-{mode}"
                found = job.ours(spec=spec, work=work, threads=threads)
                groups = {entry["group"]: entry for entry in report(work)["composition"]["groups"]}
                told |= {"random": groups[domain]["random"] / rows, mode: groups[domain]["selected"] / rows}
                worst = {name: max(value, figure(found, name)) for name, value in worst.items()}
            yield told
        yield (
            f"Slowest whole job (empty cache, {threads} threads): {worst['wall']:.1f} s; largest peak RSS: "
            f"{worst['peak_rss'] / 1e6:.0f} MB; {len(domains):,} rows."
        )


def _demo_pool(folder: Path) -> Path:
    """Lay the demo's pool and its Python target out in the form that `pool` reads."""
    made = folder / "demo"
    (made / "target_python").mkdir(parents=True)
    (made / "pool_mixed").symlink_to(DEMO / "pool")
    (made / "target_python" / "0.parquet").symlink_to(DEMO / "targets" / "python.parquet")
    return made
