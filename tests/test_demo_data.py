"""The demo's data is what its README says: counts, disjoint targets, licences beside it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

DATA = Path(__file__).parent / "data"
DEMO = DATA / "demo"
POOL = [*sorted((DEMO / "pool").glob("*.parquet")), DEMO / "wikipedia" / "pool.parquet"]
TARGETS = {
    "speeches": DEMO / "targets" / "speeches.parquet",
    "python": DEMO / "targets" / "python.parquet",
    "wikipedia": DEMO / "wikipedia" / "target.parquet",
}
MEGABYTES_COMMITTED = 5


@pytest.fixture(scope="module")
def pool() -> pa.Table:
    return ds.dataset(POOL).to_table()


def test_counts_are_those_of_the_readme(pool: pa.Table) -> None:
    readme = (DATA / "README.md").read_text()
    told = {
        name: (int(rows.replace(",", "")), int(target or 0))
        for name, rows, target in re.findall(r"`([a-z-]+)` \(([\d,]+)(?: \+ (\d+))?\)", readme)
    }
    counted = Counter(pool["domain"].to_pylist())
    targets = {name: ds.dataset(path).count_rows() for name, path in TARGETS.items()}
    assert told == {name: (rows, targets.get(name, 0)) for name, rows in counted.items()}
    assert pool.num_rows == 12_000


@pytest.mark.parametrize("name", TARGETS)
def test_no_document_of_a_target_is_in_the_pool(name: str, pool: pa.Table) -> None:
    target = ds.dataset(TARGETS[name]).to_table()
    assert set(target["domain"].to_pylist()) == {name}
    for column in ("id", "text"):
        held = target[column].to_pylist()
        assert len(set(held)) == len(held)
        assert not set(held) & set(pool[column].to_pylist())


def test_text_of_another_licence_stays_in_its_folder() -> None:
    assert "wikipedia" not in ds.dataset(sorted((DEMO / "pool").glob("*.parquet"))).to_table()["domain"].to_pylist()


def test_the_licences_that_the_readme_names_are_there() -> None:
    named = set(re.findall(r"licences/[\w.-]+\.txt", (DATA / "README.md").read_text()))
    assert named == {f"licences/{path.name}" for path in (DATA / "licences").iterdir()}


def test_the_data_stays_small() -> None:
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < MEGABYTES_COMMITTED * 1e6
