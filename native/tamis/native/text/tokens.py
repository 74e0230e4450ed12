r"""Text to token spans: lower case and ``\w+|[^\w\s]+`` in one pass over 64-byte blocks.

A block of ASCII is classified at once into bit masks; each character outside ASCII is looked up and patched into the
masks. Starts and ends of tokens are then bits of the masks (the method of simdjson: Langdale and Lemire, VLDB Journal
28, 2019, section 3). A character whose lowering needs more than its table entry (capital sigma, U+0130, another
number of UTF-8 bytes) or that is not valid UTF-8 ends the block early and is handled alone.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.simd.words import BLOCK, load_u8, lower_block, popcount, store_i32, store_u8, trailing_zeros
from tamis.native.text.unicode_tables import (
    ALONE,
    CAPITAL_I_WITH_DOT,
    CAPITAL_SIGMA,
    CASE_IGNORABLE,
    CASED,
    CHANGED,
    CLASS_SPACE,
    CLASS_WORD,
    CODE_POINTS,
    COMBINING_DOT_ABOVE,
    FINAL_SIGMA,
    LOWER_MASK,
    MARK,
    PAGE_BITS,
    SMALL_SIGMA,
    SPECIAL,
)

RUNS = 0
"""Tokens are runs of word characters and runs of punctuation."""
CHARACTERS = 1
"""Each character that is no space is a token."""
BYTES = 2
"""Each byte is a token, spaces included; nothing is lowered."""

GROWTH_NUMERATOR, GROWTH_DENOMINATOR = 3, 2
"""Lowering makes text at most 3/2 as long in UTF-8 (U+023A and U+0130 go from 2 bytes to 3)."""

OVERSHOOT = 2 * BLOCK
"""Bytes that may be written, and read, after the last lowered one."""


class Cursor(NamedTuple):
    """State of the scan between two characters; flags are uint64 zeros or ones, as they are bits of the masks."""

    out: int  # lowered bytes so far
    starts: int  # tokens begun so far
    ends: int  # tokens ended so far
    in_word: np.uint64  # the character before is in a word
    in_punctuation: np.uint64  # the character before is in punctuation
    forced: np.uint64  # a token must start at the next character that is neither space nor mark


SPAN_BYTES = 4
EMITTED = 8
SPAN_OVERSHOOT = 2 * EMITTED
"""Spans that may be written after the last one."""

INVALID = -1
_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_PAGE_MASK = (1 << PAGE_BITS) - 1


class Scanner(NamedTuple):
    """How a kernel cuts text: the tokenizer and its character tables."""

    unit: int  # RUNS, CHARACTERS or BYTES
    separators_are_spaces: bool  # U+001C to U+001F: true for `re`, false for `regex`
    pages: NDArray[np.uint16]
    entries: NDArray[np.uint32]


class Tokens(NamedTuple):
    """Growing list of spans in a buffer of lowered text; sized by the caller for the worst case."""

    lowered: NDArray[np.uint8]
    starts: NDArray[np.int32]  # offsets into `lowered`
    ends: NDArray[np.int32]


@piece
def decode(address, available):
    """Code point and byte length at an address; (INVALID, 1) if the ``available`` bytes hold no whole character."""
    first = np.int64(load_u8(address))
    if first < 0x80:
        return first, 1
    if first < 0xC2 or first > 0xF4:
        return INVALID, 1
    length = 2 + (first >= 0xE0) + (first >= 0xF0)
    if length > available:
        return INVALID, 1
    code_point = first & (0x7F >> length)
    for k in range(1, length):
        following = np.int64(load_u8(address + k))
        if following & 0xC0 != 0x80:
            return INVALID, 1
        code_point = code_point << 6 | following & 0x3F
    if code_point >= CODE_POINTS:
        return INVALID, 1
    return code_point, length


@piece
def encode(address, code_point):
    """Write a code point as UTF-8; returns its number of bytes."""
    if code_point < 0x80:
        store_u8(address, np.uint8(code_point))
        return 1
    length = 2 + (code_point >= 0x800) + (code_point >= 0x10000)
    for k in range(length - 1, 0, -1):
        store_u8(address + k, np.uint8(0x80 | code_point & 0x3F))
        code_point >>= 6
    store_u8(address, np.uint8((0xF00 >> length) & 0xFF | code_point))
    return length


@piece
def lookup(scanner, code_point):
    """Table entry of a code point."""
    page = np.int64(scanner.pages[code_point >> PAGE_BITS])
    return np.int64(scanner.entries[(page << PAGE_BITS) | (code_point & _PAGE_MASK)])


@piece
def _is_final_sigma(scanner, source, length, position):
    """Whether the capital sigma at ``position`` ends a word: Final_Sigma of Unicode's table 3-17, as Python has it."""
    k = position
    cased_before = False
    while k > 0:
        k -= 1
        while k > 0 and load_u8(source + k) & 0xC0 == 0x80:
            k -= 1
        code_point, _ = decode(source + k, position - k)
        entry = lookup(scanner, code_point) if code_point != INVALID else 0
        if entry & CASE_IGNORABLE == 0:
            cased_before = entry & CASED != 0
            break
    if not cased_before:
        return False
    k = position + 2
    while k < length:
        code_point, size = decode(source + k, length - k)
        entry = lookup(scanner, code_point) if code_point != INVALID else 0
        if entry & CASE_IGNORABLE == 0:
            return entry & CASED == 0
        k += size
    return True


@piece
def _emit(address, mask, base):
    """Write ``base`` plus the index of each set bit to ``address`` on, `EMITTED` at a time; returns how many are valid.

    Writing more than there are, to overwrite them next time, costs less than a branch that is often foreseen wrongly.
    """
    count = popcount(mask)
    for k in range(EMITTED):
        store_i32(address + k * SPAN_BYTES, base + trailing_zeros(mask))
        mask &= mask - _ONE
    if count > EMITTED:
        for k in range(EMITTED, 2 * EMITTED):
            store_i32(address + k * SPAN_BYTES, base + trailing_zeros(mask))
            mask &= mask - _ONE
        address += 2 * EMITTED * SPAN_BYTES
        while mask != 0:
            store_i32(address, base + trailing_zeros(mask))
            mask &= mask - _ONE
            address += SPAN_BYTES
    return count


@piece
def _append_piece(entry, size, every, tokens, cursor):
    """Take one lowered character of ``size`` bytes, already written, into the spans."""
    out, starts, ends, in_word, in_punctuation, forced = cursor
    inside = in_word | in_punctuation != 0
    if entry & CLASS_SPACE != 0:
        if inside:
            tokens.ends[ends] = out
            ends += 1
        return Cursor(out + size, starts, ends, _ZERO, _ZERO, _ZERO)
    if entry & MARK != 0 and inside:
        return Cursor(out + size, starts, ends, in_word, in_punctuation, forced)
    is_word = _ONE if entry & (CLASS_WORD | MARK) != 0 else _ZERO
    if not inside or every or forced != 0 or is_word != in_word:
        if inside:
            tokens.ends[ends] = out
            ends += 1
        tokens.starts[starts] = out
        starts += 1
    forced = _ONE if entry & ALONE != 0 else _ZERO
    return Cursor(out + size, starts, ends, is_word, _ONE - is_word, forced)


@piece
def _scan_special(source, length, position, scanner, tokens, cursor):
    """Take the one character at ``position`` that the block loop leaves over; returns its length and the cursor."""
    code_point, size = decode(source + position, length - position)
    every = scanner.unit == CHARACTERS
    target = np.int64(tokens.lowered.ctypes.data) + cursor.out
    if code_point == INVALID:
        store_u8(target, load_u8(source + position))
        return 1, _append_piece(0, 1, every, tokens, cursor)
    entry = lookup(scanner, code_point)
    lower = (code_point + entry) & LOWER_MASK
    if code_point == CAPITAL_SIGMA:
        lower = FINAL_SIGMA if _is_final_sigma(scanner, source, length, position) else SMALL_SIGMA
    elif code_point == CAPITAL_I_WITH_DOT:
        lower = np.int64(ord("i"))
        entry = lookup(scanner, lower)
    cursor = _append_piece(entry, encode(target, lower), every, tokens, cursor)
    if code_point == CAPITAL_I_WITH_DOT:
        target = np.int64(tokens.lowered.ctypes.data) + cursor.out
        written = encode(target, COMBINING_DOT_ABOVE)
        cursor = _append_piece(lookup(scanner, COMBINING_DOT_ABOVE), written, every, tokens, cursor)
    return size, cursor


@piece
def _split_bytes(source, length, tokens, out, n_tokens):
    for k in range(length):
        tokens.lowered[out + k] = load_u8(source + k)
        tokens.starts[n_tokens + k] = out + k
        tokens.ends[n_tokens + k] = out + k + 1
    return out + length, n_tokens + length


@kernel
def scan_document(source, length, scanner, tokens, out, n_tokens):
    """Lower a document and list its tokens.

    Parameters
    ----------
    source
        Address of the document's UTF-8 bytes; readable up to ``length + BLOCK``.
    length
        Bytes in the document.
    scanner
        `Scanner`.
    tokens
        `Tokens`; has room for 3/2 ``length`` + `OVERSHOOT` bytes after ``out`` and for
        ``length`` + `SPAN_OVERSHOOT` spans.
    out, n_tokens
        Bytes and tokens already there.

    Returns
    -------
    out, n_tokens : int
        The same after this document.
    """
    if scanner.unit == BYTES:
        return _split_bytes(source, length, tokens, out, n_tokens)
    lowered = np.int64(tokens.lowered.ctypes.data)
    starts_address = np.int64(tokens.starts.ctypes.data)
    ends_address = np.int64(tokens.ends.ctypes.data)
    starts = ends = n_tokens
    every = scanner.unit == CHARACTERS
    # The character before: is it in a word, in punctuation, and must a token start after it?
    in_word = in_punctuation = forced = _ZERO
    position = 0
    while position < length:
        available = length - position
        stop = min(available, BLOCK)
        here = source + position
        target = lowered + out
        wide, word, space, separator = lower_block(target, here)
        live = _ONES >> np.uint64(BLOCK - stop)
        if scanner.separators_are_spaces:
            space |= separator
        word &= live
        wide &= live
        punctuation = ~(word | space | wide) & live
        starting = word | punctuation if every else forced
        forced = _ZERO
        special = False
        while wide != 0:
            at = trailing_zeros(wide)
            code_point, size = decode(here + at, available - at)
            entry = SPECIAL if code_point == INVALID else lookup(scanner, code_point)
            if entry & SPECIAL != 0 or at + size > BLOCK:
                special = entry & SPECIAL != 0
                stop = at
                break
            if entry & CHANGED != 0:
                encode(target + at, (code_point + entry) & LOWER_MASK)
            first = _ONE << np.uint64(at)
            bits = (first << np.uint64(size)) - first
            wide &= ~bits
            if entry & MARK != 0:
                # Of the kind of the character before it, and it takes over the forced start of the one after it.
                before = (punctuation << _ONE | in_punctuation) & first
                if before != 0:
                    punctuation |= bits
                else:
                    word |= bits
                if starting & first != 0:
                    starting = starting & ~first | first << np.uint64(size)
                    if at + size == BLOCK:
                        forced = _ONE
            elif entry & CLASS_SPACE == 0:
                if entry & CLASS_WORD != 0:
                    word |= bits
                else:
                    punctuation |= bits
                if every:
                    starting |= first
                if entry & ALONE != 0:
                    starting |= first | first << np.uint64(size)
                    if at + size == BLOCK:
                        forced = _ONE
        if stop > 0:
            live = _ONES >> np.uint64(BLOCK - stop)
            word &= live
            punctuation &= live
            inside = word | punctuation
            word_before = word << _ONE | in_word
            punctuation_before = punctuation << _ONE | in_punctuation
            begin = word & ~word_before | punctuation & ~punctuation_before | starting & inside
            end = (word_before | punctuation_before) & (begin | ~inside) & live
            starts += _emit(starts_address + starts * SPAN_BYTES, begin, out)
            ends += _emit(ends_address + ends * SPAN_BYTES, end, out)
            last = np.uint64(stop - 1)
            in_word = word >> last & _ONE
            in_punctuation = punctuation >> last & _ONE
            if stop < BLOCK:
                forced = starting >> np.uint64(stop) & _ONE
            position += stop
            out += stop
        else:
            forced = starting & _ONE
        if special:
            cursor = Cursor(out, starts, ends, in_word, in_punctuation, forced)
            size, cursor = _scan_special(source, length, position, scanner, tokens, cursor)
            position += size
            out, starts, ends, in_word, in_punctuation, forced = cursor
    if in_word | in_punctuation != 0:
        tokens.ends[ends] = out
    return out, starts
