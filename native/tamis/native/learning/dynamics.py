"""Training dynamics: what a model said of a row each time it saw it, folded into a few numbers a row.

A log holds a visit a line: epoch, row, label, and the model's outputs for all C classes. `measure` turns a block of
visits into five small columns in one pass; the ``fold_`` kernels add such columns, in the order of the log, to a state
of a few bytes a row. So the log streams, whatever its length, and a row's visits may lie in any of its blocks.

With p the probabilities of a visit and y the label (Zheng et al.: Coverage-centric Coreset Selection for High Pruning
Rates, ICLR 2023; Toneva et al.: An Empirical Study of Example Forgetting, ICLR 2019; Paul et al.: Deep Learning on a
Data Diet, NeurIPS 2021): margin p[y] - max p[k], k other than y; correct where y is the argmax, the lowest class where
several are; error ||p - onehot(y)||, the EL2N of a visit; entropy -sum p ln p; loss -ln p[y].
"""

# mypy: disable-error-code="no-untyped-def"

from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.math.elementary import LN2_HIGH, LN2_LOW, exponentials, natural_log

Outputs = Literal["log_probs", "logits", "probabilities"]

SUM_TOLERANCE = 0.05
"""The probabilities of a visit sum to 1 within this; 16-bit log-probabilities are off by less than 0.01."""

NO_EPOCH = -1
"""Before the first visit of a row."""

_KINDS: dict[Outputs, int] = {"log_probs": 0, "logits": 1, "probabilities": 2}
_LOG_PROBS = 0
_LOGITS = 1
_PROBABILITIES = 2

TILE_VALUES = 4096
"""Outputs whose weights are computed at once; 16 bytes each."""

PIECE_VALUES = 8192
"""Outputs widened to float64 at once: few enough to stay in the cache."""


_INVERSE_LN2 = float.fromhex("0x1.71547652b82fep+0")
_ROUNDING = 1.5 * 2.0**52  # a float64 plus this is rounded to a whole number, which its lowest bits hold
_LOWEST = -708.0  # exp of it is the last normal number
_HIGHEST = 1.0  # log-probabilities above are none
_MANTISSA_BITS = 52
_SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)

_HALF_MINUS_INFINITY = np.uint16(0xFC00)
_HALF_REST = np.uint32(0x7FFF)  # all bits but the sign
_HALF_SHIFT = np.uint32(13)  # between the lowest bits of 16 and of 32 bits
_MINUS_HALF_GAP = np.float32(-(2.0**112))  # between the biases of their exponents, and the sign

# 1 / n! for n = 11 to 0: the first term left out of exp r, |r| below ln 2 / 2, is below 2**-47.
_INVERSE_FACTORIALS = (
    1 / 39916800, 1 / 3628800, 1 / 362880, 1 / 40320, 1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0,
)  # fmt: skip


class Visits(NamedTuple):
    """The values of n visits that scores are made of."""

    margin: NDArray[np.float32]  # [n], p[y] - max p[k], k other than y
    error: NDArray[np.float32]  # [n], ||p - onehot(y)||
    entropy: NDArray[np.float32]  # [n], nats
    loss: NDArray[np.float32]  # [n], -ln p[y]; inf where p[y] is 0
    correct: NDArray[np.uint8]  # [n], 1 where y is the argmax


class Failure(NamedTuple):
    """The first visit that can't be measured."""

    visit: int  # inside the block
    of_label: bool  # the label is at fault, not the outputs
    detail: str


# -- the probabilities of a visit


@piece
def exponential(x):
    """Exponential of a number of -708 to 1, within 2**-46 of itself; loops over it become vector instructions."""
    shifted = x * _INVERSE_LN2 + _ROUNDING
    exponent = shifted - _ROUNDING
    r = (x - exponent * LN2_HIGH) - exponent * LN2_LOW
    series = _INVERSE_FACTORIALS[0]
    for coefficient in _INVERSE_FACTORIALS[1:]:
        series = series * r + coefficient
    return np.int64(np.float64(series).view(np.int64) + (np.float64(shifted).view(np.int64) << _MANTISSA_BITS)).view(
        np.float64
    )


@piece
def within(x):
    """Return x within what `exponential` takes; NaN stays."""
    low = _LOWEST if x < _LOWEST else x
    return _HIGHEST if low > _HIGHEST else low


@piece
def _look_up(halves, table, weights, logs):
    """Fill weights, by a table, and logarithms from the bits of 16-bit log-probabilities, none of which is above 0."""
    for k in range(len(halves)):
        weights[k] = table[halves[k]]
    for k in range(len(halves)):
        rest = np.uint32(np.uint32(halves[k]) & _HALF_REST)
        logs[k] = np.uint32(rest << _HALF_SHIFT).view(np.float32) * _MINUS_HALF_GAP


@piece
def _exponentiate(x, weights, logs):
    """Fill weights with exp x, NaN where x is."""
    for k in range(len(x)):
        log_weight = within(x[k])
        weight = exponential(log_weight)
        weights[k] = log_weight if np.isnan(log_weight) else weight
        logs[k] = log_weight


@piece
def _take_logarithms(p, weights, logs):
    """Fill weights with probabilities, NaN where they are negative."""
    for k in range(len(p)):
        weights[k] = np.nan if p[k] < 0.0 else p[k]
        logs[k] = natural_log(np.float64(p[k])) if _SMALLEST_NORMAL <= p[k] < np.inf else 0.0


@piece
def _subtract_top(x, out):
    """Write x less its largest number, which is returned."""
    top = np.float64(-np.inf)
    for k in range(len(x)):
        top = x[k] if x[k] > top else top
    for k in range(len(x)):
        out[k] = x[k] - top
    return top


@piece
def _reduce(weights, logs, label):
    """Sum up a visit's weights.

    Returns
    -------
    tuple
        Sum of the weights, of the weights times their logarithms, and of the squares of those that are not the label's;
        the label's weight, and the largest other.
    """
    total = 0.0
    weighted = 0.0
    squares = 0.0
    other = 0.0
    for k in range(len(weights)):
        weight = weights[k]
        total += weight
        weighted += weight * logs[k]
        rest = 0.0 if k == label else weight
        squares += rest * rest
        other = rest if rest > other else other
    return total, weighted, squares, weights[label], other


@piece
def _is_argmax(weights, label, other):
    """Whether the label's weight is the largest, given the largest other; of equals the lowest class is."""
    own = weights[label]
    first = own >= other
    if own == other:
        for k in range(label):
            first = first and weights[k] != own
    return first


@kernel
def _measure_halves(halves, table, labels, out):
    """Measure 16-bit log-probabilities; returns the first visit that can't be measured, or -1."""
    classes = halves.shape[1]
    tile = max(1, TILE_VALUES // classes)
    weights, logs = np.empty((tile, classes)), np.empty((tile, classes))
    for first in range(0, len(halves), tile):
        here = halves[first : first + tile]
        _look_up(here.reshape(-1), table, weights.reshape(-1), logs.reshape(-1))
        for v in range(len(here)):
            visit = first + v
            label = labels[visit]
            if not 0 <= label < classes:
                return visit
            total, weighted, squares, own, other = _reduce(weights[v], logs[v], label)
            if not abs(total - 1.0) <= SUM_TOLERANCE:
                return visit
            out.margin[visit] = own - other
            out.error[visit] = np.sqrt(squares + (1.0 - own) * (1.0 - own))
            out.entropy[visit] = max(0.0 - weighted, 0.0)
            out.loss[visit] = np.inf if here[v, label] == _HALF_MINUS_INFINITY else 0.0 - logs[v, label]
            out.correct[visit] = _is_argmax(weights[v], label, other)
    return -1


@kernel
def _measure_floats(values, kind, labels, out):
    """Measure outputs of a kind of `_KINDS`; returns the first visit that can't be measured, or -1."""
    classes = values.shape[1]
    tile = max(1, TILE_VALUES // classes)
    weights, logs = np.empty((tile, classes)), np.empty((tile, classes))
    tops = np.zeros(tile)
    for first in range(0, len(values), tile):
        here = values[first : first + tile]
        if kind == _PROBABILITIES:
            _take_logarithms(here.reshape(-1), weights.reshape(-1), logs.reshape(-1))
        elif kind == _LOGITS:
            for v in range(len(here)):
                tops[v] = _subtract_top(here[v], logs[v])
            _exponentiate(logs[: len(here)].reshape(-1), weights.reshape(-1), logs.reshape(-1))
        else:
            _exponentiate(here.reshape(-1), weights.reshape(-1), logs.reshape(-1))
        for v in range(len(here)):
            visit = first + v
            label = labels[visit]
            if not 0 <= label < classes:
                return visit
            total, weighted, squares, own, other = _reduce(weights[v], logs[v], label)
            out.correct[visit] = _is_argmax(weights[v], label, other)
            loss = tops[v] - here[v, label]
            if kind == _PROBABILITIES:
                loss = 0.0 - logs[v, label] if own >= _SMALLEST_NORMAL else np.inf
            if kind == _LOGITS and total >= 1.0:  # no NaN: the top's weight is 1
                log_total = natural_log(total)
                loss += log_total
                weighted = weighted / total - log_total
                own, other, squares, total = own / total, other / total, squares / (total * total), 1.0
            if not abs(total - 1.0) <= SUM_TOLERANCE:
                return visit
            out.margin[visit] = own - other
            out.error[visit] = np.sqrt(squares + (1.0 - own) * (1.0 - own))
            out.entropy[visit] = max(0.0 - weighted, 0.0)
            out.loss[visit] = loss
    return -1


@cache
def _half_table() -> NDArray[np.float32]:
    """Exponentials of every 16-bit float, by its bits: float32 [65536]; of what is above `_HIGHEST`, of that."""
    x = _widened(np.arange(1 << 16, dtype=np.uint16).view(np.float16))
    p = exponentials(np.clip(np.nan_to_num(x, nan=0.0), _LOWEST, _HIGHEST))
    table = np.where(np.isnan(x), np.nan, p).astype(np.float32)
    table.setflags(write=False)
    return table


def _widened(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # NaN of the signalling kind
        return values.astype(np.float64)


def measure(values: NDArray[np.floating[Any]], labels: NDArray[np.int64], outputs: Outputs) -> Visits | Failure:
    """Measure a block of visits.

    Parameters
    ----------
    values : float16, float32 or float64 [n, C]
        What the model gave for each class: log-probabilities, logits or probabilities.
    labels : int64 [n]
        Of 0 to C - 1.
    outputs
        What ``values`` are. Logits go through a softmax of their own in float64; -inf is a class that can't be.

    Returns
    -------
    Visits or Failure
        The failure, when there is one, is the first: NaN, a label out of range, log-probabilities or probabilities that
        do not sum to 1 within `SUM_TOLERANCE`.

    Notes
    -----
    The authors' entropy is -sum p ln(p + 1e-10); without the 1e-10, as here, it differs by at most C times that.
    """
    if values.ndim != 2 or len(values) != len(labels):
        raise ValueError(f"{len(labels)} labels for outputs of shape {values.shape}")
    n = len(values)
    margin, error, entropy, loss = (np.empty(n, np.float32) for _ in range(4))
    out = Visits(margin, error, entropy, loss, np.empty(n, np.uint8))
    wanted = _read_only(labels, np.int64)
    if n and values.shape[1] < 2:
        return Failure(0, False, "There is an output for one class only; a margin needs two.")
    if values.dtype == np.float16 and outputs == "log_probs":
        bits = np.ascontiguousarray(values).view(np.uint16)
        failed = _measure_halves(_read_only(bits, np.uint16), _half_table(), wanted, out)
    else:
        failed = -1
        step = max(1, PIECE_VALUES // values.shape[1])
        for start in range(0, n, step):
            part = slice(start, start + step)
            wide = _read_only(_widened(values[part]), np.float64)
            here = Visits(margin[part], error[part], entropy[part], loss[part], out.correct[part])
            failed = _measure_floats(wide, _KINDS[outputs], wanted[part], here)
            if failed >= 0:
                failed += start
                break
    if failed < 0:
        return out
    if not 0 <= (label := int(labels[failed])) < values.shape[1]:
        return Failure(
            failed, True, f"The label is {label}, but there are outputs for the classes 0 to {values.shape[1] - 1}."
        )
    return Failure(failed, False, _why(_widened(values[failed]), outputs))


def _read_only(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    view = np.ascontiguousarray(array, dtype=dtype).view()
    view.setflags(write=False)
    return view


def _why(values: NDArray[np.float64], outputs: Outputs) -> str:
    """Return a sentence about the fault of a visit's outputs, with advice."""
    if np.isnan(values).any():
        return f"The output for class {int(np.argmax(np.isnan(values)))} is NaN."
    if outputs == "logits":
        return "A logit is infinite, or all are -inf: they have no softmax."
    total = float(values.sum())
    exponentials_total = float(np.exp(np.clip(values, _LOWEST, _HIGHEST)).sum())
    if outputs == "log_probs" and values.max() > 0:
        found = f"One is {values.max():.6g}, but log-probabilities are never above 0."
    elif outputs == "log_probs":
        found = f"The exponentials of log-probabilities sum to 1; these sum to {exponentials_total:.6g}."
    elif values.min() < 0:
        found = f"One is {values.min():.6g}, but probabilities are never below 0."
    else:
        found = f"Probabilities sum to 1; these sum to {total:.6g}."
    if values.max() == -np.inf:
        return f"{found} All are -inf."
    seen: Outputs = "logits"
    if values.min() >= 0 and abs(total - 1.0) <= SUM_TOLERANCE:
        seen = "probabilities"
    elif values.max() <= 0 and abs(exponentials_total - 1.0) <= SUM_TOLERANCE:
        seen = "log_probs"
    return f"{found} They look like {seen}: set outputs to '{seen}', or log what outputs says."


def least_confidence(
    losses: NDArray[np.float32], margins: NDArray[np.float32], correct: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """1 less the largest probability, float32 [n], of measured visits: it is p[y], or p[y] less the margin."""
    own = exponentials(-losses.astype(np.float64))
    top = np.where(correct != 0, own, own - margins)
    return np.maximum(1.0 - top, 0.0).astype(np.float32)


# -- folding visits, in the order of the log, into a state by row
