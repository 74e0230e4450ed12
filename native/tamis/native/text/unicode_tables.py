"""Character tables of the running interpreter: lower-case mapping, token class and the bits of the final-sigma rule.

The tables are asked from the engines themselves (``str.lower``, ``re`` and, by name, the ``regex`` package), never
shipped: a tokenisation is bit-exact only against one Unicode version, so `unicode_version` belongs in every model
fitted with them. Strings of all code points are lowered and matched whole, which keeps a build below 0.3 s.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CODE_POINTS = 0x110000
PAGE_BITS = 7
"""A page of the second stage holds ``2**PAGE_BITS`` code points."""

CAPITAL_I_WITH_DOT = 0x130
"""The one code point that `str.lower` maps to two: U+0069 U+0307."""
COMBINING_DOT_ABOVE = 0x307
CAPITAL_SIGMA = 0x3A3
FINAL_SIGMA = 0x3C2
SMALL_SIGMA = 0x3C3

# One uint32 a code point c. Its low bits are the distance to lower(c), (c + entry) & LOWER_MASK, so that most pages are
# equal. The token class is that of the *lowered* code point, as the reference lowers first.
LOWER_MASK = (1 << 21) - 1
CLASS_SPACE = 1 << 21
CLASS_WORD = 1 << 22  # neither bit: punctuation, that is neither \w nor \s
ALONE = 1 << 23  # a token of its own (scripts written without spaces), `unicode_word` only
MARK = 1 << 24  # continues the token before it, `unicode_word` only
CHANGED = 1 << 25  # lower() changes it, within the same number of UTF-8 bytes
SPECIAL = 1 << 26  # sigma, dotted I, or lower() changes the number of UTF-8 bytes
CASED = 1 << 27  # cased and not case-ignorable, as the final-sigma rule asks
CASE_IGNORABLE = 1 << 28

UNSPACED_RANGES: tuple[tuple[str, int, int], ...] = (
    ("Thai", 0x0E01, 0x0E4E),
    ("Lao", 0x0E81, 0x0ECF),
    ("Lao letters", 0x0EDC, 0x0EDF),
    ("Tibetan letters", 0x0F40, 0x0FBC),
    ("Myanmar", 0x1000, 0x103F),
    ("Myanmar extensions", 0x1050, 0x108F),
    ("Khmer", 0x1780, 0x17D3),
    ("Tai Le", 0x1950, 0x197F),
    ("New Tai Lue", 0x1980, 0x19CF),
    ("Tai Tham", 0x1A20, 0x1A7F),
    ("Balinese", 0x1B00, 0x1B4B),
    ("Ideographic iteration marks and zero", 0x3005, 0x3007),
    ("Hangzhou numerals", 0x3021, 0x3029),
    ("Hiragana, Katakana", 0x3041, 0x30FF),
    ("Bopomofo", 0x3105, 0x312F),
    ("Bopomofo Extended, Katakana extensions", 0x31A0, 0x31FF),
    ("CJK Extension A", 0x3400, 0x4DBF),
    ("CJK Unified Ideographs", 0x4E00, 0x9FFF),
    ("Yi", 0xA000, 0xA48C),
    ("Javanese", 0xA980, 0xA9C0),
    ("Myanmar Extended-B", 0xA9E0, 0xA9FE),
    ("Myanmar Extended-A", 0xAA60, 0xAA7F),
    ("Tai Viet", 0xAA80, 0xAADF),
    ("CJK Compatibility Ideographs", 0xF900, 0xFAFF),
    ("Halfwidth Katakana", 0xFF66, 0xFF9F),
    ("Kana Supplement to Small Kana Extension", 0x1AFF0, 0x1B16F),
    ("CJK Extensions B to H and supplement", 0x20000, 0x3FFFD),
)
"""Scripts written without spaces between words: (name, first, last), both ends included."""

ZERO_WIDTH_JOINERS = (0x200C, 0x200D)


class CharacterTables(NamedTuple):
    """Two-stage table: ``entries[(pages[c >> PAGE_BITS] << PAGE_BITS) | (c & 127)]`` describes code point ``c``."""

    pages: NDArray[np.uint16]  # [CODE_POINTS >> PAGE_BITS]
    entries: NDArray[np.uint32]  # [pages in use << PAGE_BITS], the bits named above


def unicode_version() -> str:
    """Unicode version of the running interpreter, to be stored with any fitted model."""
    return unicodedata.unidata_version


def engine_version(engine: str) -> str:
    """Version of the character tables of an engine: Unicode's for ``re``, the package's own for ``regex``."""
    if engine == "re":
        return unicode_version()
    from importlib.metadata import version

    return f"{unicode_version()}+regex-{version('regex')}"


def _engine(name: str) -> Any:
    if name == "re":
        return re
    if name == "regex":
        import regex

        return regex
    raise ValueError(f"unknown engine {name!r}: 're' or 'regex'")


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32)


def _text(code_points: NDArray[np.uint32]) -> str:
    return code_points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _matches(engine: Any, pattern: str, everything: str) -> NDArray[np.bool_]:
    mask = np.zeros(CODE_POINTS, dtype=np.bool_)
    for match in engine.finditer(pattern, everything):
        mask[match.start() : match.end()] = True
    return mask


def _utf8_length(code_points: NDArray[np.uint32]) -> NDArray[np.int64]:
    return 1 + (code_points > 0x7F).astype(np.int64) + (code_points > 0x7FF) + (code_points > 0xFFFF)


def _lower_mapping(everything: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Lower-case code point of each, with U+0130 and U+03A3 (their mapping is not one to one) left as they are."""
    lower = everything.copy()
    plain = np.ones(CODE_POINTS, dtype=np.bool_)
    plain[[CAPITAL_I_WITH_DOT, CAPITAL_SIGMA]] = False
    lowered = _code_points(_text(everything[plain]).lower())
    if len(lowered) != CODE_POINTS - 2 or chr(CAPITAL_I_WITH_DOT).lower() != "i\u0307":
        raise RuntimeError(f"str.lower() of Unicode {unicode_version()} is not the one these tables know")
    lower[plain] = lowered
    return lower


def _sigma_bits(everything: NDArray[np.uint32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Cased and case-ignorable code points, found by what a capital sigma after them becomes."""
    probe = np.full((CODE_POINTS, 4), ord("\n"), dtype=np.uint32)
    probe[:, 1] = everything
    probe[:, 2] = CAPITAL_SIGMA
    probe[CAPITAL_I_WITH_DOT, 1] = ord("A")  # cased as well, and keeps the rows four long when lowered
    after_none = _code_points(_text(probe.ravel()).lower()).reshape(-1, 4)[:, 2]
    probe[:, 0] = ord("A")
    probe[:, 3] = ord("\n")
    after_cased = _code_points(_text(probe.ravel()).lower()).reshape(-1, 4)[:, 2]
    cased = after_none == FINAL_SIGMA
    return cased, (after_cased == FINAL_SIGMA) & ~cased


def _unspaced(word: NDArray[np.bool_], mark: NDArray[np.bool_]) -> NDArray[np.bool_]:
    alone = np.zeros(CODE_POINTS, dtype=np.bool_)
    for _, first, last in UNSPACED_RANGES:
        alone[first : last + 1] = True
    return alone & word & ~mark


def _combining_marks() -> NDArray[np.bool_]:
    mark = np.zeros(CODE_POINTS, dtype=np.bool_)
    # No combining mark is assigned between the end of plane 1 and the variation selectors of plane 14.
    for block in (range(0x300, 0x20000), range(0xE0100, 0xE01F0)):
        mark[block.start : block.stop] = [unicodedata.category(chr(c))[0] == "M" for c in block]
    mark[list(ZERO_WIDTH_JOINERS)] = True
    return mark


@lru_cache(maxsize=4)
def character_tables(engine: str = "re", unspaced_scripts: bool = False) -> CharacterTables:
    r"""Tables of one regular-expression engine; built once a process and shared.

    Parameters
    ----------
    engine
        ``re``: ``\w`` is `str.isalnum` or ``_``. ``regex``: ``\w`` also holds marks, joiners and connectors, and
        U+001C to U+001F are punctuation; asks for the third-party package of that name.
    unspaced_scripts
        Set the bits of the `unicode_word` tokenizer: `ALONE` for word characters of `UNSPACED_RANGES`, `MARK` for
        combining marks (general category M) and the zero-width joiners.

    Returns
    -------
    CharacterTables
        Read-only arrays.
    """
    everything = np.arange(CODE_POINTS, dtype=np.uint32)
    text = _text(everything)
    module = _engine(engine)
    word = _matches(module, r"\w+", text)
    space = _matches(module, r"\s+", text)
    lower = _lower_mapping(everything)
    cased, ignorable = _sigma_bits(everything)

    entry = lower.copy()
    entry[space[lower]] |= CLASS_SPACE
    entry[word[lower]] |= CLASS_WORD
    if unspaced_scripts:
        mark = _combining_marks()
        entry[_unspaced(word, mark)[lower]] |= ALONE
        entry[mark[lower]] |= MARK
    special = _utf8_length(lower) != _utf8_length(everything)
    special[[CAPITAL_I_WITH_DOT, CAPITAL_SIGMA]] = True
    entry[(lower != everything) & ~special] |= CHANGED
    entry[special] |= SPECIAL
    entry[cased] |= CASED
    entry[ignorable] |= CASE_IGNORABLE
    return _two_stages(entry)


def _two_stages(entry: NDArray[np.uint32]) -> CharacterTables:
    everything = np.arange(CODE_POINTS, dtype=np.uint32)
    relative = (entry & ~np.uint32(LOWER_MASK)) | ((entry - everything) & np.uint32(LOWER_MASK))
    rows = relative.reshape(-1, 1 << PAGE_BITS)
    unique: dict[bytes, int] = {}
    pages = np.array([unique.setdefault(row.tobytes(), len(unique)) for row in rows], dtype=np.uint16)
    entries = np.frombuffer(b"".join(unique), dtype=np.uint32)
    pages.setflags(write=False)
    return CharacterTables(pages, entries)
