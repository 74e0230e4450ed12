"""Build the demo's data: a mixed pool of real text whose domains are known, and targets for three of the domains.

    python tests/data/build_demo.py CORPORA TITLES [--out tests/data/demo]

``CORPORA`` holds one folder for each domain with Parquet files (columns ``id`` and ``text``), in passages of about
2,000 characters, made from the packages that README.md beside this script names. ``TITLES`` is the JSON file of
Wikipedia summaries those passages came from: an object whose n-th key is the title of the article ``wiki_en-n``.

The result depends on nothing but those inputs: documents are put in the order of a hash of their id, so that two runs
write the same rows, and a document is in the pool or in a target, never in both. Wikipedia's text goes into a folder
of its own, since its licence differs.
"""

import argparse
import hashlib
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

# name in the demo -> (folder, documents in the pool); a domain that has a target is a few per cent of the pool
DOMAINS = {
    "speeches": ("speeches_sotu", 500),
    "python": ("code_python", 450),
    "wikipedia": ("wiki_en", 600),
    "dictionary": ("dict_wordnet", 2600),
    "rust-docs": ("docs_rust", 1900),
    "go": ("code_go", 1700),
    "cpp": ("code_cpp", 1200),
    "postgres-docs": ("docs_postgres", 1000),
    "boost-docs": ("docs_boost", 700),
    "bible-kjv": ("bible_kjv", 550),
    "bible-asv": ("bible_asv", 400),
    "novels": ("novels_austen", 400),
}
TARGETS = {"speeches": 400, "python": 400, "wikipedia": 550}
SHARES_A_LICENCE_OF_ITS_OWN = {"wikipedia"}

MAX_CHARACTERS = 900
"""Documents are cut at the last line or sentence end before this, so that all domains have like lengths."""
MIN_CHARACTERS = {"wikipedia": 450}
DEFAULT_MIN_CHARACTERS = 600
POOL_SHARDS = 4
ROWS_PER_GROUP = 500

# Left out: addresses, e-mail, keys and copyright notices (those stand in NOTICES.md, once and whole).
UNWANTED = re.compile(
    r"://|www\.|@[\w-]+\.\w|-----BEGIN|copyright|all rights reserved|�|[\x00-\x08\x0b-\x1f]", re.IGNORECASE
)

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), ("domain", pa.string()), ("tokens", pa.int32())])


def order(key: str) -> bytes:
    """Return the sort key that shuffles documents the same way on every run."""
    return hashlib.sha256(key.encode()).digest()


def cut(text: str) -> str:
    """Return the start of a text, up to the last line or sentence end before `MAX_CHARACTERS`."""
    text = text.strip()
    if len(text) <= MAX_CHARACTERS:
        return text
    head = text[:MAX_CHARACTERS]
    end = max(head.rfind("\n"), head.rfind(". ") + 1, head.rfind("; ") + 1)
    return head[: end if end > MAX_CHARACTERS // 2 else head.rfind(" ")].rstrip()


def documents(corpora: Path, name: str, titles: list[str]) -> list[dict[str, object]]:
    """Return a domain's usable documents in shuffled order, each text once."""
    folder, _ = DOMAINS[name]
    table = ds.dataset(corpora / folder, format="parquet").to_table(columns=["id", "text"])
    rows = sorted(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True), key=lambda row: order(row[0]))
    seen: set[str] = set()
    found: list[dict[str, object]] = []
    for source_id, whole in rows:
        text = cut(whole)
        if len(text) < MIN_CHARACTERS.get(name, DEFAULT_MIN_CHARACTERS) or UNWANTED.search(text) or text in seen:
            continue
        seen.add(text)
        number = int(source_id.rsplit("-", 1)[1])
        label = titles[number] if name == "wikipedia" else f"{number:06d}"
        found.append({"id": f"{name}/{label}", "text": text, "domain": name, "tokens": len(text.split())})
    return found


def write(path: Path, rows: list[dict[str, object]]) -> None:
    """Write one zstd Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(
        table, path, compression="zstd", compression_level=19, use_dictionary=["domain"], row_group_size=ROWS_PER_GROUP
    )


def main() -> None:
    """Build the folders ``pool``, ``targets`` and ``wikipedia``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("titles", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo")
    arguments = parser.parse_args()

    titles = list(json.loads(arguments.titles.read_text(encoding="utf-8")))
    pool: list[dict[str, object]] = []
    for name, (_, wanted) in DOMAINS.items():
        found = documents(arguments.corpora, name, titles)
        held_back = TARGETS.get(name, 0)
        if len(found) < held_back + wanted:
            raise SystemExit(f"{name}: {len(found)} usable documents, {held_back + wanted} wanted")
        own_folder = arguments.out / name if name in SHARES_A_LICENCE_OF_ITS_OWN else None
        if held_back:
            write(
                (own_folder / "target.parquet") if own_folder else arguments.out / "targets" / f"{name}.parquet",
                found[:held_back],
            )
        kept = found[held_back : held_back + wanted]
        if own_folder:
            write(own_folder / "pool.parquet", kept)
        else:
            pool.extend(kept)

    pool.sort(key=lambda row: order(f"pool {row['id']}"))
    for shard in range(POOL_SHARDS):
        rows = pool[shard * len(pool) // POOL_SHARDS : (shard + 1) * len(pool) // POOL_SHARDS]
        write(arguments.out / "pool" / f"part-{shard}.parquet", rows)


if __name__ == "__main__":
    main()
