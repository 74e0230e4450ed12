"""The evidence for a selection on hashed n-grams: nearer to the target than a random draw, and free of copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import JsonValue

from tamis.native.math import rng
from tamis.selectors.decision.choice import Choice
from tamis.selectors.features.ngram_model import Counted, NgramModel, kl_divergence
from tamis.selectors.features.ngrams import describe_rows, digest_rows
from tamis.selectors.run.run import Run
from tamis.selectors.signals.store import Mapped

Ints = npt.NDArray[np.int64]

ROWS_MEASURED = 10_000
"""At most so many rows of the selection, of the random draw and of the target are looked at closely."""

COVERED_ROWS = 300
"""Rows drawn from all rows, each looked for its nearest among the selected ones."""

COVERING_ROWS = 2_000
"""At most so many rows of the selection, and of the random draw, are compared with those."""

MEMORY = 5 * 10**7
"""Bytes held while measuring: sketches, digests and bucket counts of the rows measured."""

SKETCH_BANDS = 8
"""Documents whose sketches agree on a whole band (8 of 64 values) are compared.

Of the pairs of similarity 0.8 this finds 76 %.
"""

FIELDS = ("count", "tokens", "sketch", "digest")
"""What is gathered of every list of rows."""

NEAR_DUPLICATE = 0.8
"""Share of equal sketch values (an estimate of the n-grams' Jaccard similarity) from which a pair counts."""


@dataclass(frozen=True)
class Described:
    """Rows looked at closely."""

    counted: Counted
    sketches: npt.NDArray[np.uint32]  # (n, 64)
    digests: list[bytes]


def measure(run: Run, model: NgramModel, held: Counted | None, choice: Choice, random: Choice) -> dict[str, JsonValue]:
    """Compare the selection and a random draw with the target, and look for duplicates and leaks.

    Parameters
    ----------
    run : Run
        In its last phase.
    model : NgramModel
        What the selection was weighed by.
    held : Counted, optional
        The part of the target that was kept out of the fit.
    choice, random : Choice
        The selection, and a random draw under the same budget and bounds.
    """
    raw_rows = _raw_sample(run)
    selected, drawn, raw = _describe(run, model, {"selected": choice.rows, "random": random.rows, "raw": raw_rows})
    target_digests = _target_digests(run)
    return {
        "distance": _distances(model, model.joined(), selected, drawn),
        "distance_held_out": None if held is None or held.ngrams == 0 else _distances(model, held, selected, drawn),
        "length_in_tokens": {
            "raw": model.raw.mean_tokens,
            "target": model.joined().mean_tokens,
            "random": drawn.counted.mean_tokens,
            "selected": selected.counted.mean_tokens,
        },
        "near_duplicate_share": {
            "selected": near_duplicate_share(selected.sketches),
            "random": near_duplicate_share(drawn.sketches),
            "similarity": NEAR_DUPLICATE,
            "rows_measured": len(selected.digests),
        },
        "coverage": _coverage(raw, selected, drawn),
        "rows_identical_to_a_target_row": {
            "selected": sum(digest in target_digests for digest in selected.digests),
            "random": sum(digest in target_digests for digest in drawn.digests),
            "rows_measured": len(selected.digests),
        },
    }


def _sample(run: Run, rows: Ints, stream: str) -> Ints:
    if len(rows) <= ROWS_MEASURED:
        return rows
    order = rng.random_bits_at(run.stream(stream), rows)
    return np.sort(rows[np.argsort(order, kind="stable")[:ROWS_MEASURED]])


def _raw_sample(run: Run) -> Ints:
    """Draw some of all rows, eligible or not."""
    assert run.candidates.rows is not None
    draw = rng.uniform(run.stream("report.raw"), 0, COVERED_ROWS) * run.candidates.rows
    return np.unique(draw.astype(np.int64))


def _describe(run: Run, model: NgramModel, lists: Mapping[str, Ints]) -> list[Described]:
    """Look closely at a sample of each list of rows, in one pass over the units that hold any."""
    samples = {name: _sample(run, rows, f"report.{name}") for name, rows in lists.items()}
    starts = run.candidates.row_starts
    assert starts is not None
    units = np.unique(np.searchsorted(starts, np.concatenate(list(samples.values())), side="right") - 1).tolist()
    tables = run.map(
        describe_rows,
        run.candidates,
        params={"features": dict(model.features)},
        shared={name: run.share(name, pa.table({"row": rows}), scratch=True) for name, rows in samples.items()},
        units=units,
        scratch=True,
    )
    return [_gather(tables, name, len(model.raw.counts)) for name in lists]


def _gather(tables: Mapped, name: str, buckets: int) -> Described:
    counted = Counted.empty(buckets)
    sketches: list[npt.NDArray[np.uint32]] = []
    digests: list[bytes] = []
    for unit in range(len(tables)):
        column = {key: tables[unit].column(f"{name}.{key}").combine_chunks().flatten() for key in FIELDS}
        tokens = column["tokens"].to_numpy()
        counted += Counted(column["count"].to_numpy(), len(tokens), int(tokens.sum()))
        # The width from the type: a unit may hold rows of one list and none of another.
        width = column["sketch"].type.byte_width // np.dtype(np.uint32).itemsize
        sketches.append(np.frombuffer(b"".join(column["sketch"].to_pylist()), np.uint32).reshape(len(tokens), width))
        digests.extend(column["digest"].to_pylist())
    return Described(counted, np.concatenate(sketches), digests)


def _target_digests(run: Run) -> frozenset[bytes]:
    """Digests of the target's rows: all of a small target, the first rows of a large one."""
    digests: set[bytes] = set()
    for target in run.targets:
        for table in run.map(digest_rows, target, params={"rows": ROWS_MEASURED}):
            digests.update(table.column("digest").to_pylist())
    return frozenset(digests)


def _distances(model: NgramModel, target: Counted, selected: Described, drawn: Described) -> dict[str, JsonValue]:
    p = target.distribution()
    raw, random, chosen = (kl_divergence(p, bag.distribution()) for bag in (model.raw, drawn.counted, selected.counted))
    return {
        "measure": "KL(target || rows) of hashed n-grams, in nats",
        "raw": raw,
        "random": random,
        "selected": chosen,
        "kl_reduction_against_raw": raw - chosen,
        "kl_reduction_against_random": random - chosen,
        "rows_measured": {"selected": selected.counted.rows, "random": drawn.counted.rows, "target": target.rows},
    }


def _coverage(raw: Described, selected: Described, drawn: Described) -> dict[str, JsonValue]:
    """How far a row of the whole is from its nearest selected row; as many rows of either side are compared."""
    size = min(COVERING_ROWS, len(selected.sketches), len(drawn.sketches))
    coverage: dict[str, JsonValue] = {
        "measure": "1 - Jaccard similarity of n-grams (MinHash) to the nearest row",
        "rows_measured": {"raw": len(raw.sketches), "selected": size, "random": size},
    }
    for name, side in (("selected", selected), ("random", drawn)):
        spread = np.linspace(0, len(side.sketches) - 1, size).astype(np.int64)
        nearest = nearest_distances(raw.sketches, side.sketches[spread])
        coverage[name] = {"mean": float(nearest.mean()), "worst": float(nearest.max())} if len(nearest) else None
    return coverage


def nearest_distances(sketches: npt.NDArray[np.uint32], others: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """Return each sketch's distance to the nearest of `others`, (n,): the share of values that differ."""
    if not len(others):
        return np.empty(0)
    alike = [int(np.count_nonzero(others == sketch, axis=1).max()) for sketch in sketches]
    distances: npt.NDArray[np.float64] = 1.0 - np.array(alike, np.float64) / others.shape[1]
    return distances


def near_duplicate_share(sketches: npt.NDArray[Any]) -> float:
    """Return the share of documents with another one that has :data:`NEAR_DUPLICATE` of its sketch values."""
    rows, width = sketches.shape
    if rows < 2:
        return 0.0
    near = np.zeros(rows, np.bool_)
    band = width // SKETCH_BANDS
    for start in range(0, width, band):
        keys = np.ascontiguousarray(sketches[:, start : start + band]).view(f"V{band * sketches.itemsize}").ravel()
        _, inverse = np.unique(keys, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        # Neighbours in a bucket's order stand for all its pairs: duplicates come in chains, and chains are cheap.
        same = inverse[order][1:] == inverse[order][:-1]
        left, right = order[:-1][same], order[1:][same]
        alike = (sketches[left] == sketches[right]).mean(axis=1) >= NEAR_DUPLICATE
        near[left[alike]] = near[right[alike]] = True
    return float(near.mean())
