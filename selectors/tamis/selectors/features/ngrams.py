"""Hashed n-gram features of text units: the tasks that DSIR and its baselines share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from tamis.native.math import rng
from tamis.native.text import columns as kernels
from tamis.native.text.unicode_tables import engine_version
from tamis.selectors.datasets import RoleBatch
from tamis.selectors.errors import Invalid
from tamis.selectors.run.opened import Job
from tamis.selectors.schema.request import Shape
from tamis.selectors.signals.store import with_metadata
from tamis.selectors.signals.task import UnitReader, unit_task

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DIGEST_BYTES = 16

LENGTH_BINS = 64
"""Documents are counted by the binary order of their length in tokens: bin 0 holds the empty ones."""


class NgramParams(Shape):
    """How text becomes hashed n-grams (paper section 4.1)."""

    ngrams: Annotated[int, Field(ge=1, le=8)] = Field(2, description="n: all orders from 1 to n are counted. Paper: 2.")
    buckets: Annotated[int, Field(ge=2, le=2**24)] = Field(10_000, description="m: hash buckets. Paper: 10000.")
    hash: Literal["fast", "sha256"] = Field(
        "fast",
        description="'sha256': the reference's bucket ids, bit for bit. 'fast': a 64-bit hash, several times faster.",
    )
    tokenizer: Literal["wordpunct", "wordpunct_regex", "unicode_word", "char", "byte", "ids"] = Field(
        "wordpunct",
        description="'wordpunct': the reference's, for scripts with spaces ('wordpunct_regex': as newer NLTK splits). "
        "'unicode_word' also splits scripts without spaces, by character. 'ids': the text column is list<int>.",
    )

    def features(self) -> dict[str, Any]:
        """Return what decides the features, for a signal's name."""
        return {
            "ngrams": self.ngrams,
            "buckets": self.buckets,
            "hash": self.hash,
            "tokenizer": self.tokenizer,
            "tables": tables_version(self.tokenizer),
        }


def tables_version(tokenizer: str) -> str:
    """Return the version of the character tables that `tokenizer` uses: other tables, other tokens."""
    if tokenizer in ("ids", "byte"):
        return "none"
    return engine_version("regex" if tokenizer == "wordpunct_regex" else "re")


def check_tokenizer(params: NgramParams, job: Job) -> None:
    """Refuse a tokenizer that does not go with what the text columns hold.

    Raises
    ------
    Invalid
        With the pointer of the column: token ids need 'ids', and only they do.
    """
    datasets = {"/dataset": job.candidates}
    datasets |= {f"/target/datasets/{index}": target for index, target in enumerate(job.targets)}
    for pointer, dataset in datasets.items():
        if dataset.columns.is_token_ids != (params.tokenizer == "ids"):
            held, wanted = ("token ids", "'ids'") if dataset.columns.is_token_ids else ("text", "a text tokenizer")
            raise Invalid(
                f"The text column holds {held}: set selector.params.tokenizer to {wanted}, or name another column.",
                pointer=f"{pointer}/columns/text",
            )


def config_of(features: Mapping[str, Any]) -> kernels.NgramConfig:
    """Return the kernels' configuration for :meth:`NgramParams.features`."""
    # Token ids are hashed as they are: the kernels' tokenizer does not matter then.
    tokenizer: kernels.Tokenizer = "wordpunct" if features["tokenizer"] == "ids" else features["tokenizer"]
    return kernels.ngram_config(
        ngrams=features["ngrams"], buckets=features["buckets"], hash=features["hash"], tokenizer=tokenizer
    )


def length_bins(tokens: npt.NDArray[Any]) -> Ints:
    """Count documents by the binary order of their length; shape (LENGTH_BINS,)."""
    order = np.where(tokens > 0, np.floor(np.log2(np.maximum(tokens, 1))).astype(np.int64) + 1, 0)
    return np.bincount(order, minlength=LENGTH_BINS)


def column_of(batch: RoleBatch) -> kernels.TextColumn | kernels.IdColumn:
    """Return the text role's buffers as the kernels take them."""
    return kernels.IdColumn(*batch.tokens()) if batch.is_token_ids else kernels.TextColumn(*batch.text_buffers())


def count_batch(batch: RoleBatch, config: kernels.NgramConfig, counts: Ints) -> Ints:
    """Add a batch's n-grams to `counts` (int64, (buckets,)); return each document's number of tokens."""
    tokens = np.empty(batch.rows, np.int64)
    kernels.count_buckets(column_of(batch), config, counts, tokens)
    return tokens


def score_batch(batch: RoleBatch, config: kernels.NgramConfig, table: Floats) -> tuple[Floats, Ints]:
    """Return the sums of `table` ((buckets, T)) over each document's n-grams ((n, T)), and its number of tokens."""
    tokens = np.empty(batch.rows, np.int64)
    return kernels.score(column_of(batch), config, table, n_tokens=tokens), tokens


def score_chunks(batch: RoleBatch, config: kernels.NgramConfig, table: Floats, words: int) -> tuple[Floats, Ints]:
    """Like :func:`score_batch`, a document's weight being the sum of its chunks' weights.

    The reference's experiments cut documents in chunks of 128 words and resample chunks. A row is one document here: it
    is taken when the first of its chunks is drawn. As the largest of Gumbel-perturbed log weights is a Gumbel-perturbed
    log-sum-exp of them, that is the same as resampling rows with the log-sum-exp of their chunks' log weights.
    """
    column = kernels.TextColumn(*batch.text_buffers())
    offsets, document = kernels.chunk_offsets(column, words)
    chunk_tokens = np.empty(len(document), np.int64)
    chunk_scores = kernels.score(kernels.TextColumn(offsets, column.data), config, table, n_tokens=chunk_tokens)
    scores = np.zeros((batch.rows, table.shape[1]))
    tokens = np.zeros(batch.rows, np.int64)
    np.add.at(tokens, document, chunk_tokens)
    if len(document):
        firsts = np.flatnonzero(np.diff(document, prepend=-1))
        scores[document[firsts]] = np.logaddexp.reduceat(chunk_scores, firsts, axis=0)
    return scores, tokens


def listed_rows(batch: RoleBatch, first_row: int, listed: Ints) -> RoleBatch | None:
    """Return the rows of a batch, whose first is `first_row`, that are `listed` (sorted); None when none is."""
    low, high = np.searchsorted(listed, [first_row, first_row + batch.rows])
    return batch.take(listed[low:high] - first_row) if low < high else None


def digest_batch(batch: RoleBatch) -> Iterator[bytes]:
    """Yield a digest of every document's bytes: equal documents, equal digests."""
    offsets, values = batch.tokens() if batch.is_token_ids else batch.text_buffers()
    view = np.ascontiguousarray(values).data.cast("B")
    width = values.itemsize
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        yield hashlib.blake2b(view[start * width : stop * width], digest_size=DIGEST_BYTES).digest()


def table_columns(table: pa.Table) -> Floats:
    """Return a shared table's columns as one (buckets, T) float64 array, C-contiguous."""
    return np.ascontiguousarray(np.stack([column.to_numpy() for column in table.columns], axis=1))


def _count(batches: Iterable[RoleBatch], features: Mapping[str, Any]) -> pa.Table:
    config = config_of(features)
    counts = np.zeros(config.buckets, np.int64)
    lengths = np.zeros(LENGTH_BINS, np.int64)
    rows = tokens = 0
    for batch in batches:
        n_tokens = count_batch(batch, config, counts)
        lengths += length_bins(n_tokens)
        rows += batch.rows
        tokens += int(n_tokens.sum())
    return with_metadata(pa.table({"count": counts}), {"rows": rows, "tokens": tokens, "lengths": lengths.tolist()})


@unit_task("ngrams.count_ngrams", revision=1, roles=("text",))
def count_ngrams(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Count a unit's n-grams by bucket: column ``count`` int64 (buckets,); rows, tokens and lengths in the metadata."""
    return _count(reader.batches(), params["features"])


@unit_task("ngrams.count_part", revision=1, roles=("text",), numbered=True)
def count_part(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Count one side of the holdout only: a row's side is drawn from its number and the seed."""
    key = rng.stream_key(params["seed"], "holdout")

    def side() -> Iterator[RoleBatch]:
        for batch in reader.batches():
            held = rng.uniform(key, reader.first_row + batch.start, batch.rows) < params["holdout"]
            yield batch.take(np.flatnonzero(held if params["part"] == "held" else ~held))

    return _count(side(), params["features"])


@unit_task("ngrams.describe_rows", revision=2, roles=("text",), numbered=True)
def describe_rows(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Look closely at the rows listed in each shared table (column ``row`` int64, sorted): one row of lists.

    For every shared table NAME, ``NAME.count``: n-grams by bucket; and for every listed row of the unit, in order,
    ``NAME.tokens``: its length, ``NAME.sketch``: its MinHash sketch, ``NAME.digest``: a digest of its text.
    """
    config = config_of(params["features"])
    described = {name: _Described(table.column("row").to_numpy(), config) for name, table in shared.items()}
    for batch in reader.batches():
        for rows in described.values():
            rows.add(batch, reader.first_row + batch.start)
    return pa.table(
        {f"{name}.{column}": _one_list(v) for name, rows in described.items() for column, v in rows.columns()}
    )


class _Described:
    """The columns that :func:`describe_rows` gathers for one list of rows."""

    def __init__(self, listed: Ints, config: kernels.NgramConfig) -> None:
        self._listed = listed
        self._config = config
        self._counts = np.zeros(config.buckets, np.int64)
        self._tokens: list[Ints] = []
        self._sketches: list[npt.NDArray[np.uint32]] = []
        self._digests: list[bytes] = []

    def add(self, batch: RoleBatch, first_row: int) -> None:
        taken = listed_rows(batch, first_row, self._listed)
        if taken is None:
            return
        self._tokens.append(count_batch(taken, self._config, self._counts))
        self._sketches.append(kernels.minhash(column_of(taken), self._config))
        self._digests.extend(digest_batch(taken))

    def columns(self) -> Iterator[tuple[str, pa.Array]]:
        yield "count", pa.array(self._counts)
        yield "tokens", pa.array(np.concatenate(self._tokens) if self._tokens else np.empty(0, np.int64))
        flat = pa.py_buffer(np.concatenate(self._sketches).tobytes() if self._sketches else b"")
        width = kernels.SKETCH_BINS * np.dtype(np.uint32).itemsize
        yield "sketch", pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(self._digests), [None, flat])
        yield "digest", pa.array(self._digests, pa.binary(DIGEST_BYTES))


@unit_task("ngrams.list_features", revision=1, roles=("text",), numbered=True)
def list_features(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """List the n-grams of the rows in ``shared["rows"]`` (``row`` int64, sorted): column ``bucket``, list<int32>."""
    config = config_of(params["features"])
    listed = shared["rows"].column("row").to_numpy()
    parts: list[pa.Array] = []
    for batch in reader.batches():
        taken = listed_rows(batch, reader.first_row + batch.start, listed)
        if taken is not None:
            indptr, ids = kernels.bucket_ids(column_of(taken), config)
            parts.append(pa.ListArray.from_arrays(pa.array(indptr.astype(np.int32)), pa.array(ids)))
    return pa.table({"bucket": pa.chunked_array(parts, pa.list_(pa.int32()))})


@unit_task("ngrams.digest_rows", revision=1, roles=("text",))
def digest_rows(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Digest a unit's texts, the first ``rows`` of them: column ``digest``."""
    digests: list[bytes] = []
    for batch in reader.batches():
        digests.extend(digest_batch(batch))
        if len(digests) >= params["rows"]:
            break
    return pa.table({"digest": pa.array(digests[: params["rows"]], pa.binary(DIGEST_BYTES))})


def _one_list(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


@unit_task("ngrams.sum_table", revision=1, roles=("text",))
def sum_table(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Sum a per-bucket table over each row's n-grams: columns ``sum_0`` … float64 and ``tokens`` int64, a row each."""
    config, words = config_of(params["features"]), params.get("chunk_words")
    table = table_columns(shared["table"])
    scores: list[Floats] = []
    tokens: list[Ints] = []
    for batch in reader.batches():
        score, n_tokens = score_chunks(batch, config, table, words) if words else score_batch(batch, config, table)
        scores.append(score)
        tokens.append(n_tokens)
    sums = np.concatenate(scores) if scores else np.empty((0, table.shape[1]))
    columns: dict[str, Any] = {f"sum_{index}": np.ascontiguousarray(sums[:, index]) for index in range(sums.shape[1])}
    columns["tokens"] = np.concatenate(tokens) if tokens else np.empty(0, np.int64)
    return pa.table(columns)


@unit_task("ngrams.measure_quality", revision=1, roles=("text",))
def measure_quality(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Measure the paper's quality statistics (appendix; experimental code) of each row: float64 columns."""
    config = config_of(params["features"])
    stop_words = kernels.hash_tokens(params["stop_words"])
    parts = [
        kernels.quality_stats(kernels.TextColumn(*batch.text_buffers()), config, stop_words)
        for batch in reader.batches()
    ]
    stats = np.concatenate(parts) if parts else np.empty((0, 4))
    names = ("length", "repeating", "informative", "numeric")
    return pa.table({name: np.ascontiguousarray(stats[:, index]) for index, name in enumerate(names)})
