"""Text and token-id columns: n-gram counts, scores, bucket ids, sketches and statistics, one value a document.

Every function takes the raw buffers of an Arrow column (`TextColumn`, `IdColumn`) and an `NgramConfig`, and returns
arrays in document order that do not depend on how a data set is cut into columns. Follows DSIR (Data Selection for
Language Models via Importance Resampling, arXiv 2302.03169): section 4.1 and the authors' code for the tokens, n-grams
and SHA-256 buckets, appendix for the quality statistics.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.native.text import chunks, documents, ngrams, scan
from tamis.native.text import tokens as spans
from tamis.native.text.bucket_memo import new_memo
from tamis.native.text.sha256 import new_lanes, reduction
from tamis.native.text.unicode_tables import character_tables

Hash = Literal["fast", "sha256"]
Tokenizer = Literal["wordpunct", "wordpunct_regex", "unicode_word", "char", "byte"]

MAX_BUCKETS = 2**31 - 1
MAX_DOCUMENT_BYTES = 2**30
"""Spans are 32-bit offsets into the lowered text of a document."""
SKETCH_BINS = documents.BINS
QUALITY_COLUMNS = ("length", "repeating", "informative", "numeric")


class TextColumn(NamedTuple):
    """Buffers of an Arrow string column. A null is an empty range; ``offsets[0]`` need not be 0 (a slice)."""

    offsets: NDArray[np.int64]  # [n + 1], ascending, absolute into `data`; int32 is accepted and copied
    data: NDArray[np.uint8]  # valid UTF-8; may have no element when every document is empty


class IdColumn(NamedTuple):
    """Buffers of an Arrow list<int> column of token ids."""

    offsets: NDArray[np.int64]  # [n + 1], ascending, absolute into `values`
    values: NDArray[np.int64]  # any integer type is accepted and copied


class NgramConfig(NamedTuple):
    """Tokens, n-grams and buckets; made by `ngram_config`."""

    ngrams: int
    buckets: int
    hash: Hash
    tokenizer: Tokenizer
    scanner: spans.Scanner
    hashing: scan.Hashing


def ngram_config(
    ngrams: int = 2, buckets: int = 10_000, hash: Hash = "fast", tokenizer: Tokenizer = "wordpunct"
) -> NgramConfig:
    r"""Check and compile a configuration.

    Parameters
    ----------
    ngrams
        Longest n-gram, 1 or more; every order from 1 up to it counts.
    buckets
        Number of buckets, 1 to 2**31 - 1.
    hash
        ``sha256``: the reference's, SHA-256 of the UTF-8 n-gram (tokens joined by one space) as a big-endian number
        modulo the buckets. ``fast``: a 64-bit hash of our own, the same on every machine.
    tokenizer
        ``wordpunct``: the text lowered as `str.lower` does, then ``\w+|[^\w\s]+`` with the tables of `re`.
        ``wordpunct_regex``: the same with the tables of the third-party `regex` package (NLTK from 3.10.3 on).
        ``unicode_word``: as ``wordpunct``, but each character of a script written without spaces between words
        (`unicode_tables.UNSPACED_RANGES`) is a token of its own, and a combining mark or zero-width joiner stays in
        the token of the character before it (at the start or after a space it is a word character).
        ``char``: each character of the lowered text that is no space. ``byte``: each byte of the text as it is,
        spaces included, case kept.
    """
    if ngrams < 1:
        raise ValueError(f"ngrams must be 1 or more, not {ngrams}")
    if not 1 <= buckets <= MAX_BUCKETS:
        raise ValueError(f"buckets must be 1 to {MAX_BUCKETS}, not {buckets}")
    if hash not in get_args(Hash):
        raise ValueError(f"hash must be one of {get_args(Hash)}, not {hash!r}")
    if tokenizer not in get_args(Tokenizer):
        raise ValueError(f"tokenizer must be one of {get_args(Tokenizer)}, not {tokenizer!r}")
    return NgramConfig(ngrams, buckets, hash, tokenizer, _scanner(tokenizer), _hashing(ngrams, buckets, hash))


def _scanner(tokenizer: Tokenizer) -> spans.Scanner:
    engine = "regex" if tokenizer == "wordpunct_regex" else "re"
    tables = character_tables(engine, unspaced_scripts=tokenizer == "unicode_word")
    unit = {"char": spans.CHARACTERS, "byte": spans.BYTES}.get(tokenizer, spans.RUNS)
    return spans.Scanner(unit, engine == "re", tables.pages, tables.entries)


def _hashing(longest: int, buckets: int, hash: Hash) -> scan.Hashing:
    return scan.Hashing(longest, buckets, hash == "sha256", reduction(buckets))


def _canonical(array: ArrayLike, dtype: Any) -> NDArray[Any]:
    """Read-only, contiguous and of one type: each kernel compiles once, for Arrow's buffers as for anything else."""
    result = np.ascontiguousarray(array, dtype=dtype).view()
    result.setflags(write=False)
    return result


def _source(column: TextColumn | IdColumn) -> scan.Source:
    offsets = _canonical(column.offsets, np.int64)
    if offsets.ndim != 1 or len(offsets) == 0:
        raise ValueError("offsets must hold one more element than there are documents")
    if isinstance(column, IdColumn):
        values = _canonical(column.values, np.int64)
        data = _canonical((), np.uint8)
        available = len(values)
    else:
        values = _canonical((), np.int64)
        data = _canonical(column.data, np.uint8)
        available = len(data)
    lengths = np.diff(offsets)
    if len(lengths) and (lengths.min() < 0 or offsets[0] < 0 or offsets[-1] > available):
        raise ValueError("offsets must ascend and stay within the data")
    if len(lengths) and lengths.max() > MAX_DOCUMENT_BYTES:
        raise ValueError(f"a document has {lengths.max()} bytes; at most {MAX_DOCUMENT_BYTES} are supported")
    return scan.Source(offsets, data, values, isinstance(column, IdColumn))


def _scratch(source: scan.Source, hashing: scan.Hashing, kind: int) -> scan.Scratch:
    """Buffers for the longest group; pages a group does not touch are never backed by memory."""
    longest = int(np.diff(source.offsets).max(initial=0))
    units = max(longest, scan.GROUP_UNITS)
    text_units = 0 if source.holds_ids else units
    lowered = text_units * spans.GROWTH_NUMERATOR // spans.GROWTH_DENOMINATOR + spans.OVERSHOOT
    n_spans = text_units + spans.SPAN_OVERSHOOT
    digests = hashing.sha256 and kind in (scan.COUNT, scan.SCORE, scan.IDS)
    memo_for = 0
    if digests:
        memo_for = len(source.values) * ngrams.ID_BYTES if source.holds_ids else len(source.data)
    joined = units * (ngrams.ID_BYTES + 1) if source.holds_ids else lowered + units
    round_grams = scan.GROUP_UNITS * hashing.ngrams
    seen = 1 << (2 * units).bit_length() if kind == scan.QUALITY else 0
    return scan.Scratch(
        tail=np.empty(longest + spans.OVERSHOOT, np.uint8),
        tokens=spans.Tokens(np.empty(lowered, np.uint8), np.empty(n_spans, np.int32), np.empty(n_spans, np.int32)),
        joined=np.empty(joined + spans.OVERSHOOT if digests else 0, np.uint8),
        joined_starts=np.empty(units if digests else 0, np.int32),
        joined_ends=np.empty(units if digests else 0, np.int32),
        hashes=np.empty(0 if digests else units, np.uint64),
        grams=np.empty(0 if digests else round_grams, np.uint64),
        ids=np.empty(round_grams, np.uint32),
        first_token=np.empty(scan.GROUP_DOCUMENTS + 1, np.int64),
        lanes=new_lanes(),
        long_lanes=new_lanes(),
        memo=new_memo(memo_for),
        seen=np.empty(seen, np.uint64),
        seen_times=np.empty(seen, np.int64),
    )


def _sink(kind: int, n_documents: int, **used: NDArray[Any]) -> scan.Sink:
    arrays: dict[str, NDArray[Any]] = {
        "counts": np.empty(0, np.int64),
        "table": _canonical((), np.float64),
        "sums": np.empty((0, 0), np.float64),
        "ids": np.empty(0, np.int32),
        "sketch": np.empty((0, 0), np.uint32),
        "stop_words": _canonical((), np.uint64),
        "quality": np.empty((0, 0), np.float64),
    }
    return scan.Sink(kind=kind, n_tokens=np.zeros(n_documents, np.int64), **(arrays | used))


def _run(column: TextColumn | IdColumn, config: NgramConfig, kind: int, **used: NDArray[Any]) -> tuple[scan.Sink, int]:
    source = _source(column)
    sink = _sink(kind, len(source.offsets) - 1, **used)
    scratch = _scratch(source, config.hashing, kind)
    return sink, int(scan.run(source, config.scanner, config.hashing, scratch, sink))


def _give_tokens(n_tokens: NDArray[Any] | None, sink: scan.Sink) -> None:
    if n_tokens is not None:
        n_tokens[...] = sink.n_tokens


def count_tokens(column: TextColumn | IdColumn, config: NgramConfig) -> NDArray[np.int64]:
    """Number of tokens of each document, int64 [n]."""
    return _run(column, config, scan.LENGTHS)[0].n_tokens


def count_ngrams(n_tokens: NDArray[np.int64], config: NgramConfig) -> NDArray[np.int64]:
    """Number of n-grams, all orders, of documents with ``n_tokens`` tokens: int64 [n]."""
    longest = config.ngrams
    full = n_tokens * longest - longest * (longest - 1) // 2
    return np.where(n_tokens >= longest, full, n_tokens * (n_tokens + 1) // 2)


def count_buckets(
    column: TextColumn | IdColumn,
    config: NgramConfig,
    counts: NDArray[np.int64],
    n_tokens: NDArray[np.int64] | NDArray[np.int32] | None = None,
) -> int:
    """Add every n-gram of the column to its bucket.

    Parameters
    ----------
    column
        Documents.
    config
        Tokens, n-grams and buckets.
    counts
        int64 [buckets], contiguous; added to.
    n_tokens
        Where given, int [n]; receives the number of tokens of each document.

    Returns
    -------
    int
        N-grams added.
    """
    if counts.shape != (config.buckets,) or counts.dtype != np.int64 or not counts.flags.c_contiguous:
        raise ValueError(f"counts must be a contiguous int64 array of {config.buckets} elements")
    sink, total = _run(column, config, scan.COUNT, counts=counts)
    _give_tokens(n_tokens, sink)
    return total


def score(
    column: TextColumn | IdColumn,
    config: NgramConfig,
    table: NDArray[np.float64],
    log_weight: NDArray[np.float64] | None = None,
    n_tokens: NDArray[np.int64] | NDArray[np.int32] | None = None,
) -> NDArray[np.float64]:
    """Sum a table over the n-grams of each document: the log importance weight, with the log ratio as the table.

    Parameters
    ----------
    column
        Documents.
    config
        Tokens, n-grams and buckets.
    table
        float64 [buckets] or [buckets, targets].
    log_weight
        Where given, float64 [n] or [n, targets]; receives the sums.
    n_tokens
        Where given, int [n]; receives the number of tokens of each document.

    Returns
    -------
    ndarray
        float64 [n] or [n, targets]. Summed in float64 in an order that depends on the document alone.
    """
    flat = table.ndim == 1
    rows = _canonical(table[:, None] if flat else table, np.float64)
    if rows.ndim != 2 or rows.shape[0] != config.buckets:
        raise ValueError(f"table must have {config.buckets} rows")
    sums = np.zeros((len(column.offsets) - 1, rows.shape[1]))
    sink, _ = _run(column, config, scan.SCORE, table=rows.ravel(), sums=sums)
    _give_tokens(n_tokens, sink)
    result = sums[:, 0] if flat else sums
    if log_weight is None:
        return result
    log_weight[...] = result
    return log_weight


def bucket_ids(column: TextColumn | IdColumn, config: NgramConfig) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Bucket of every n-gram, as the rows of a CSR matrix.

    Returns
    -------
    indptr : ndarray
        int64 [n + 1].
    ids : ndarray
        int32 [indptr[-1]]; within a document by the token an n-gram ends at, shorter ones first; repeated as often as
        the n-gram is.
    """
    indptr = np.zeros(len(column.offsets), np.int64)
    np.cumsum(count_ngrams(count_tokens(column, config), config), out=indptr[1:])
    ids = np.empty(int(indptr[-1]), np.int32)
    _run(column, config, scan.IDS, ids=ids)
    return indptr, ids


def minhash(
    column: TextColumn | IdColumn, config: NgramConfig, sketch: NDArray[np.uint32] | None = None
) -> NDArray[np.uint32]:
    """One-permutation MinHash of each document's set of n-grams: uint32 [n, 64].

    The share of equal values in two rows estimates the Jaccard similarity of the two sets. Uses the fast hash whatever
    the configuration's; a row without n-grams is all 2**32 - 1.

    Notes
    -----
    One Permutation Hashing (Li, Owen, Zhang, NeurIPS 2012) with optimal densification of empty bins (Shrivastava, ICML
    2017): the upper 6 bits of an n-gram's hash choose the bin, the next 32 are its value.
    """
    result = np.full((len(column.offsets) - 1, SKETCH_BINS), documents.EMPTY_BIN, np.uint32)
    _run(column, config, scan.MINHASH, sketch=result)
    if sketch is None:
        return result
    sketch[...] = result
    return sketch


def hash_tokens(words: Iterable[str]) -> NDArray[np.uint64]:
    """Fast hashes of tokens as the kernels see them (lowered), sorted: uint64 [distinct words].

    A word that is not one token under a configuration never matches there.
    """
    hashes = set()
    for word in words:
        token = word.lower().encode()
        if token:
            padded = np.frombuffer(token + bytes(16), np.uint8)
            hashes.add(int(ngrams.hash_bytes(padded.ctypes.data, len(token))))
    return np.array(sorted(hashes), dtype=np.uint64)


def quality_stats(column: TextColumn, config: NgramConfig, stopword_hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """DSIR's quality statistics of each document.

    Parameters
    ----------
    column
        Documents.
    config
        Only its tokenizer matters.
    stopword_hashes
        From `hash_tokens`.

    Returns
    -------
    ndarray
        float64 [n, 4], see `QUALITY_COLUMNS`: tokens; the most frequent token's share; the share of tokens that are
        neither stop words nor made of ASCII punctuation alone; the share that is not a single digit 0 to 9. All but
        the first are 0 for a document without tokens.

    Notes
    -----
    The authors tokenise with NLTK's Treebank tokenizer here and count only single ASCII punctuation characters as such.
    Tokens are told apart by their 64-bit hash: two different ones of a document are taken for one with a probability
    below T**2 / 2**65.
    """
    if isinstance(column, IdColumn):
        raise TypeError("quality statistics need text, not token ids")
    result = np.zeros((len(column.offsets) - 1, len(QUALITY_COLUMNS)))
    stop_words = _canonical(np.sort(stopword_hashes), np.uint64)
    _run(column, config, scan.QUALITY, stop_words=stop_words, quality=result)
    return result


def tokens(column: TextColumn, config: NgramConfig) -> list[list[str]]:
    """Tokens of each document as strings, to look at; bytes that are no whole character show as U+FFFD."""
    source = _source(column)
    scratch = _scratch(source, config.hashing, scan.LENGTHS)
    found = []
    for start, end in zip(source.offsets[:-1], source.offsets[1:], strict=True):
        scratch.tail[: end - start] = source.data[start:end]
        _, count = spans.scan_document(scratch.tail.ctypes.data, int(end - start), config.scanner, scratch.tokens, 0, 0)
        lowered, starts, ends = (array.tolist() for array in scratch.tokens)
        found.append(
            [bytes(lowered[a:b]).decode(errors="replace") for a, b in zip(starts[:count], ends[:count], strict=True)]
        )
    return found


def chunk_offsets(column: TextColumn, words: int = 128) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut each document into chunks of ``words`` words as the paper's chunker does, without copying text.

    Words are what single spaces (U+0020) separate, ``text.split(' ')``, so that several spaces make empty words. A
    chunk ends just after its last separating space; the last chunk of a document is shorter.

    Returns
    -------
    offsets : ndarray
        int64 [m + 1], absolute into the same data; a chunk is a document of ``TextColumn(offsets, column.data)``.
    document : ndarray
        int64 [m], the document of each chunk. An empty document has one empty chunk.
    """
    if words < 1:
        raise ValueError(f"words must be 1 or more, not {words}")
    source = _source(column)
    per_document = np.empty(len(source.offsets) - 1, np.int64)
    chunks.count_chunks(source.offsets, source.data, words, per_document)
    offsets = np.empty(int(per_document.sum()) + 1, np.int64)
    chunks.cut_chunks(source.offsets, source.data, words, offsets)
    return offsets, np.repeat(np.arange(len(per_document)), per_document)
