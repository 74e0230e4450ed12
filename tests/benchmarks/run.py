"""Benchmarks: ``run.py dsir`` (speed against the reference), ``run.py pool`` (precision on a real pool).

``run.py NAME`` runs the script of any other name that lies beside this one, with the arguments that follow.

Each leg is a process of its own, the legs of one table run one after the other in one run, and the table is printed as
Markdown for tests/benchmarks/README.md. CPU seconds, medians of the repetitions; MB are 10^6 bytes of UTF-8 text.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from peers import peer_python  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEMO = ROOT / "tests" / "data" / "demo"
REFERENCE = ("data-selection==1.0.3", "nltk==3.8.1")
"""Pinned: the reference is faster on this NLTK than on newer ones, and its tokens are the paper's."""


def leg(python: Path | str, script: str, *arguments: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run one leg and return what it printed."""
    done = subprocess.run(
        [str(python), str(HERE / script), *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def median(legs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of every number over the repetitions."""
    return {
        key: statistics.median(leg[key] for leg in legs) if isinstance(value, int | float) else value
        for key, value in legs[0].items()
    }


def write_corpus(pattern: str, megabytes: float, folder: Path, name: str) -> tuple[float, int]:
    """Write the first `megabytes` of a corpus as zstd Parquet (one file, 5000 rows a group) and as JSON lines."""
    table = ds.dataset(sorted(str(path) for path in Path("/").glob(pattern.lstrip("/")))).to_table(columns=["text"])
    sizes = pc.cumulative_sum(pc.cast(pc.binary_length(table["text"]), pa.int64()))
    rows = pc.sum(pc.less_equal(sizes, int(megabytes * 1e6))).as_py()
    table = table.slice(0, rows)
    pq.write_table(table, folder / f"{name}.parquet", compression="zstd", row_group_size=5000, use_dictionary=False)
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for text in table["text"].to_pylist():
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return pc.sum(pc.binary_length(table["text"])).as_py() / 1e6, rows


def job(folder: Path, form: str, hash: str, rows: int) -> dict[str, Any]:
    """Return a DSIR job over the corpus."""
    return {
        "dataset": {"shards": [str(folder / f"raw.{form}")]},
        "target": {"datasets": [{"shards": [str(folder / f"target.{form}")]}]},
        "selector": {"name": "dsir", "params": {"hash": hash, "min_tokens": 100}},
        "budget": {"rows": rows},
    }


def dsir(arguments: argparse.Namespace) -> None:
    """Time the reference and Tamis on the same text."""
    raw = arguments.raw or str(DEMO / "pool" / "*.parquet")
    target = arguments.target or str(DEMO / "targets" / "python" / "*.parquet")
    python = peer_python("reference", *REFERENCE)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        megabytes, rows = write_corpus(raw, arguments.megabytes, folder, "raw")
        target_megabytes, _ = write_corpus(target, 20, folder, "target")
        budget = rows // 10
        print(
            f"{rows:,} rows, {megabytes:.1f} MB of text; target {target_megabytes:.1f} MB; {budget:,} rows selected.\n"
        )
        reference = median(
            [
                leg(
                    python,
                    "dsir_reference.py",
                    str(folder / "raw.jsonl"),
                    str(folder / "target.jsonl"),
                    str(folder / f"reference-{repetition}"),
                    str(budget),
                )
                for repetition in range(max(1, arguments.repetitions // 2))
            ]
        )
        fitted = megabytes + target_megabytes
        columns = ["", "hash", "input", "threads", "fit MB/s", "weights MB/s", "whole MB/s"]
        columns += ["fit ×", "weights ×", "whole ×", "whole wall s", "peak RSS MB"]
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")

        def row(leg: dict[str, Any], *, name: str, form: str, hash: str, threads: str, wall: str) -> None:
            speeds = [fitted / leg["fit"], megabytes / leg["weights"], megabytes / leg["whole"]]
            base = [fitted / reference["fit"], megabytes / reference["weights"], megabytes / reference["whole"]]
            ratios = " | ".join(f"{ours / theirs:.0f}" for ours, theirs in zip(speeds, base, strict=True))
            print(
                f"| {name} | {hash} | {form} | {threads} | {' | '.join(f'{speed:.1f}' for speed in speeds)} | {ratios} "
                f"| {wall} | {leg['peak_rss'] / 1e6:.0f} |",
                flush=True,
            )

        row(reference, name="reference", form="jsonl", hash="sha256", threads="1", wall="")
        environment = {"TAMIS_HOME": str(folder / "home")}  # of its own, so that the first leg compiles
        cold = None
        for hash in ("fast", "sha256"):
            for form in ("parquet", "jsonl"):
                (folder / "job.json").write_text(json.dumps(job(folder, form, hash, budget)))
                for threads in ("1", "2"):
                    legs = []
                    for repetition in range(arguments.repetitions + (cold is None)):
                        work = folder / f"tamis-{hash}-{form}-{threads}-{repetition}"
                        done = leg(
                            sys.executable,
                            "dsir_tamis.py",
                            str(folder / "job.json"),
                            str(work),
                            threads,
                            environment=environment,
                        )
                        if cold is None:
                            cold = done
                        else:
                            legs.append(done)
                    middle = median(legs)
                    wall = f"{middle['whole_wall']:.2f}"
                    row(middle, name="Tamis", form=form, hash=hash, threads=threads, wall=wall)
        assert cold is not None
        print(
            f"\nKernels: cold compile {cold['kernels']:.1f} CPU s, warm start {middle['kernels']:.2f} CPU s "
            f"({middle['kernels_wall']:.2f} s wall with imports)."
        )


def pool(arguments: argparse.Namespace) -> None:
    """Select each target's domain out of a mixed pool: precision beside random, with and without normalisation."""
    shards = str(Path(arguments.pool) / "pool_mixed" / "*.parquet")
    domains = ds.dataset(
        sorted(str(path) for path in (Path(arguments.pool) / "pool_mixed").glob("*.parquet"))
    ).to_table(columns=["domain"])["domain"]
    print("| target | rows asked | random | " + " | ".join(f"{mode}" for mode in arguments.normalize) + " |")
    print("|---|---|---|" + "---|" * len(arguments.normalize))
    worst = {"peak_rss": 0.0, "whole_wall": 0.0}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for target in sorted(Path(arguments.pool).glob("target_*")):
            domain = target.name.removeprefix("target_")
            rows = pc.sum(pc.equal(domains, domain)).as_py()
            cells = []
            for mode in arguments.normalize:
                spec = {
                    "dataset": {"shards": [shards], "columns": {"group": "domain"}},
                    "target": {"datasets": [{"shards": [str(target / "*.parquet")]}]},
                    "selector": {"name": "dsir", "params": {"normalize": mode}},
                    "budget": {"rows": rows},
                }
                (folder / "job.json").write_text(json.dumps(spec))
                work = folder / f"{domain}-{mode}"
                done = leg(sys.executable, "dsir_tamis.py", str(folder / "job.json"), str(work), "2")
                report = json.loads((work / "out" / "report.json").read_text())
                groups = {entry["group"]: entry for entry in report["composition"]["groups"]}
                cells.append(f"{groups[domain]['selected'] / rows:.2f}")
                drawn = groups[domain]["random"] / rows
                worst = {name: max(value, done[name]) for name, value in worst.items()}
            print(f"| {domain} | {rows:,} | {drawn:.3f} | {' | '.join(cells)} |", flush=True)
    print(
        f"\nSlowest whole job (empty cache, 2 threads): {worst['whole_wall']:.1f} s; largest peak RSS: "
        f"{worst['peak_rss'] / 1e6:.0f} MB; {len(domains):,} rows."
    )


def main() -> None:
    """Parse the command line, or hand it to another benchmark's script."""
    script = HERE / f"{sys.argv[1]}.py" if len(sys.argv) > 1 else HERE
    if script.is_file():
        sys.argv = [str(script), *sys.argv[2:]]
        runpy.run_path(str(script), run_name="__main__")
        return
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command")
    speed = commands.add_parser("dsir", help="speed against the reference package")
    speed.add_argument("--raw", help="glob of Parquet files with a text column (default: the demo's pool)")
    speed.add_argument("--target", help="glob of the target's (default: the demo's Python target)")
    speed.add_argument("--megabytes", type=float, default=40)
    speed.add_argument("--repetitions", type=int, default=3)
    quality = commands.add_parser("pool", help="precision by domain on a mixed pool")
    quality.add_argument("pool", help="folder with pool_mixed and target_*, built by ../shared/corpora/mix_pool.py")
    quality.add_argument("--normalize", nargs="+", default=["none", "length", "poisson"])
    arguments = parser.parse_args()
    if arguments.command == "pool":
        pool(arguments)
    else:
        dsir(speed.parse_args([]) if arguments.command is None else arguments)


if __name__ == "__main__":
    main()
