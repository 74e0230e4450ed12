"""Small made-up corpora with a known answer, for tests of whole jobs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

WORDS = {
    "sea": [
        "ship",
        "wave",
        "sail",
        "anchor",
        "harbour",
        "tide",
        "captain",
        "storm",
        "deck",
        "gull",
        "rope",
        "mast",
        "island",
        "salt",
    ],
    "kitchen": [
        "flour",
        "butter",
        "oven",
        "knife",
        "salt",
        "soup",
        "onion",
        "pepper",
        "bake",
        "stir",
        "plate",
        "bread",
        "sugar",
        "recipe",
    ],
    "code": [
        "function",
        "return",
        "class",
        "import",
        "variable",
        "loop",
        "index",
        "string",
        "error",
        "compile",
        "test",
        "stack",
        "queue",
    ],
}


def document(rng: random.Random, domain: str, words: int) -> str:
    """Return a text of one domain's words, a few of the others' among them."""
    others = [word for name, vocabulary in WORDS.items() if name != domain for word in vocabulary]
    return " ".join(rng.choice(WORDS[domain]) if rng.random() < 0.85 else rng.choice(others) for _ in range(words))


def table(rows: int, seed: int, domains: Sequence[str] = tuple(WORDS), words: tuple[int, int] = (5, 60)) -> pa.Table:
    """Return documents with text, id, domain and tokens columns."""
    rng = random.Random(seed)
    names = [rng.choice(domains) for _ in range(rows)]
    texts = [document(rng, name, rng.randint(*words)) for name in names]
    return pa.table(
        {
            "id": pa.array([f"d{seed}-{index}" for index in range(rows)]),
            "text": pa.array(texts),
            "domain": pa.array(names),
            "tokens": pa.array([text.count(" ") + 1 for text in texts], pa.int64()),
        }
    )


def write(folder: Path, shards: int = 3, rows: int = 400, row_group: int = 90) -> dict[str, Any]:
    """Write a pool of shards and a target about the sea; return a job for them as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        pq.write_table(table(rows, shard), folder / f"pool-{shard}.parquet", row_group_size=row_group)
    pq.write_table(table(300, 99, ["sea"]), folder / "target.parquet")
    return {
        "dataset": {
            "shards": [str(folder / "pool-*.parquet")],
            "columns": {"text": "text", "id": "id", "group": "domain", "size": "tokens"},
        },
        "target": {"datasets": [{"shards": [str(folder / "target.parquet")], "columns": {"group": "domain"}}]},
        "selector": {"name": "dsir", "params": {"buckets": 512}},
        "budget": {"rows": 100},
        "seed": 7,
    }
