"""What the kernels must give, in plain Python: one function a kernel, no regard for speed."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tamis.native.text.columns import TextColumn
from tamis.native.text.unicode_tables import UNSPACED_RANGES

ASCII_PUNCTUATION = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def column(documents: Sequence[str | bytes], before: bytes = b"", after: bytes = b"") -> TextColumn:
    """Buffers of a string column, as a slice of a longer one where ``before`` and ``after`` are given."""
    encoded = [document if isinstance(document, bytes) else document.encode() for document in documents]
    offsets = len(before) + np.cumsum([0, *map(len, encoded)])
    data = np.frombuffer(before + b"".join(encoded) + after, dtype=np.uint8)
    return TextColumn(offsets.astype(np.int64), data)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M" or character in "\u200c\u200d"


def _unicode_words(lowered: str) -> list[str]:
    tokens: list[str] = []
    kind = ""
    for character in lowered:
        if character.isspace():
            kind = ""
        elif _is_mark(character) and kind:
            tokens[-1] += character
        else:
            own = "word" if character.isalnum() or character == "_" or _is_mark(character) else "punctuation"
            if own == "word" and any(first <= ord(character) <= last for _, first, last in UNSPACED_RANGES):
                own = "word" if _is_mark(character) else "alone"
            if own == kind and own != "alone":
                tokens[-1] += character
            else:
                tokens.append(character)
            kind = own
    return tokens


def tokens(document: str, tokenizer: str) -> list[str]:
    lowered = document.lower()
    if tokenizer == "wordpunct":
        return re.findall(r"\w+|[^\w\s]+", lowered)
    if tokenizer == "wordpunct_regex":
        import regex

        found: list[str] = regex.findall(r"\w+|[^\w\s]+", lowered)
        return found
    if tokenizer == "char":
        return [character for character in lowered if not character.isspace()]
    if tokenizer == "unicode_word":
        return _unicode_words(lowered)
    return [byte.to_bytes(1).decode("latin-1") for byte in document.encode()]


def grams(words: Sequence[bytes], ngrams: int) -> list[bytes]:
    """N-grams in the order of the token they end at, shorter ones first."""
    return [
        b" ".join(words[end - order : end])
        for end in range(1, len(words) + 1)
        for order in range(1, min(ngrams, end) + 1)
    ]


def sha256_bucket(gram: bytes, buckets: int) -> int:
    return int.from_bytes(hashlib.sha256(gram).digest(), "big") % buckets


def encoded(words: Sequence[str], tokenizer: str) -> list[bytes]:
    return [word.encode("latin-1" if tokenizer == "byte" else "utf-8") for word in words]


def sha256_ids(document: str, ngrams: int, buckets: int, tokenizer: str) -> list[int]:
    words = encoded(tokens(document, tokenizer), tokenizer)
    return [sha256_bucket(gram, buckets) for gram in grams(words, ngrams)]


def chunk_texts(document: str, words: int) -> list[str]:
    """The authors' chunker, with each separating space left on the chunk it ends."""
    pieces = document.split(" ")
    groups = [pieces[k : k + words] for k in range(0, len(pieces), words)]
    return [" ".join(group) + " " * (k + 1 < len(groups)) for k, group in enumerate(groups)]


def quality(words: Sequence[str], stop_words: set[str]) -> list[float]:
    total = len(words)
    if total == 0:
        return [0.0, 0.0, 0.0, 0.0]
    informative = sum(word not in stop_words and not set(word) <= ASCII_PUNCTUATION for word in words)
    numeric = sum(not (len(word) == 1 and word in "0123456789") for word in words)
    return [float(total), max(Counter(words).values()) / total, informative / total, numeric / total]


def score(ids: Sequence[int], table: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.sum(table[np.array(ids, dtype=np.int64)], axis=0)
    return total
