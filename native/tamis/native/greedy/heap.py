"""Binary heaps in an array, the first entry at the top: one pair of sifts, made for an order.

NumPy equivalent: after each step, ``heap[(place - 1) // 2]`` does not come after ``heap[place]``, for every place.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import Any, NamedTuple

from tamis.native.compiled import piece


class Heap(NamedTuple):
    """The sifts of a heap, to be called from kernels."""

    sift_down: Any  # (context, heap, size, place): let the entry at a place down to where it belongs
    sift_up: Any  # (context, heap, place): let the entry at a place up to where it belongs


@piece
def largest_first(keys, one, other):
    """Whether an entry comes before another: by its key, larger first, of equal keys the lower number."""
    return keys[one] > keys[other] or (keys[one] == keys[other] and one < other)


@piece
def _untracked(context, entry, place):
    """Keep no record of where an entry is."""


def make_heap(comes_before: Any, moved: Any = _untracked) -> Heap:
    """Make the sifts of a heap.

    Parameters
    ----------
    comes_before : compiled function of (context, one, other)
        The order of two entries; `context` is what the sifts are called with.
    moved : compiled function of (context, entry, place)
        Called when an entry has taken a place, for heaps that find entries again.
    """

    @piece
    def sift_down(context, heap, size, place):
        entry = heap[place]
        while 2 * place + 1 < size:
            child = 2 * place + 1
            if child + 1 < size and comes_before(context, heap[child + 1], heap[child]):
                child += 1
            if not comes_before(context, heap[child], entry):
                break
            heap[place] = heap[child]
            moved(context, heap[place], place)
            place = child
        heap[place] = entry
        moved(context, entry, place)

    @piece
    def sift_up(context, heap, place):
        entry = heap[place]
        while place > 0 and comes_before(context, entry, heap[(place - 1) // 2]):
            heap[place] = heap[(place - 1) // 2]
            moved(context, heap[place], place)
            place = (place - 1) // 2
        heap[place] = entry
        moved(context, entry, place)

    return Heap(sift_down, sift_up)
