"""Training dynamics: measured visits and their folding against loops, bad outputs, the same bits everywhere."""

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.native.naive import dynamics as naive

from tamis.native.learning import dynamics, dynamics_folds
from tamis.native.learning.dynamics import Failure, Outputs, Visits

KINDS: list[Outputs] = ["log_probs", "logits", "probabilities"]


def outputs_of(kind: Outputs, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    p: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return {"logits": logits, "probabilities": p, "log_probs": np.log(p)}[kind]


def measured(values: NDArray[Any], labels: NDArray[np.int64], kind: Outputs) -> Visits:
    found = dynamics.measure(values, labels, kind)
    assert isinstance(found, Visits), found
    return found


def refused(values: NDArray[Any], labels: list[int], kind: Outputs) -> Failure:
    found = dynamics.measure(values, np.array(labels, np.int64), kind)
    assert isinstance(found, Failure)
    return found


def check(values: NDArray[Any], labels: NDArray[np.int64], kind: Outputs, tolerance: float) -> None:
    found = measured(values, labels, kind)
    for k, label in enumerate(labels.tolist()):
        expected = naive.visit(values[k].astype(np.float64).tolist(), label, kind)
        for name in ("margin", "error", "entropy", "loss"):
            value = float(getattr(found, name)[k])
            assert value == pytest.approx(getattr(expected, name), rel=tolerance, abs=tolerance), (k, name)
        assert found.correct[k] == expected.correct, k


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 3, 10, 700])
def test_visits_are_those_of_a_loop(kind: Outputs, dtype: type, classes: int) -> None:
    random = np.random.default_rng(classes)
    n = 500 if classes < 100 else 20
    values: NDArray[Any] = outputs_of(kind, random.normal(0, 3, (n, classes))).astype(dtype)
    if kind == "probabilities" and dtype == np.float16:
        values = np.maximum(values, np.float16(0))
    check(values, random.integers(0, classes, n), kind, 2e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(2, 6), st.sampled_from(KINDS), st.integers(0, 2**32 - 1))
def test_equal_outputs_go_to_the_lowest_class(n: int, classes: int, kind: Outputs, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = outputs_of(kind, random.integers(-1, 2, (n, classes)).astype(np.float64))
    check(values, random.integers(0, classes, n), kind, 2e-6)


def test_more_classes_than_a_tile_holds() -> None:
    random = np.random.default_rng(1)
    classes = dynamics.TILE_VALUES + 3
    for dtype in (np.float16, np.float32):
        logits = random.normal(0, 1, (3, classes)) + 12 * (np.arange(classes) == 4)
        check(outputs_of("log_probs", logits).astype(dtype), np.array([4, classes - 1, 0]), "log_probs", 1e-5)


def test_one_class_of_labels_and_no_visits() -> None:
    values = np.log(np.full((3, 2), 0.5, np.float32))
    assert measured(values, np.zeros(3, np.int64), "log_probs").correct.tolist() == [1, 1, 1]
    assert measured(values, np.ones(3, np.int64), "log_probs").correct.tolist() == [0, 0, 0]
    assert len(measured(values[:0], np.zeros(0, np.int64), "log_probs").margin) == 0
    assert refused(values[:, :1], [0, 0, 0], "log_probs").detail.startswith("There is an output for one class only")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_impossible_classes(dtype: type) -> None:
    values: NDArray[Any] = np.array([[0, -np.inf, -np.inf]] * 3, dtype)
    labels = np.array([0, 1, 2])
    for kind in KINDS[:2]:
        found = measured(values, labels, kind)
        assert found.loss.tolist() == [0, np.inf, np.inf]
        assert found.margin.tolist() == [1, -1, -1]
        assert found.error == pytest.approx([0, math.sqrt(2), math.sqrt(2)])
        assert found.entropy.tolist() == [0, 0, 0]
        assert found.correct.tolist() == [1, 0, 0]
    certain = measured(np.exp(values.astype(np.float64)).astype(dtype), labels, "probabilities")
    assert certain.loss.tolist() == [0, np.inf, np.inf]
    assert dynamics.least_confidence(certain.loss, certain.margin, certain.correct).tolist() == [0, 0, 0]


def test_every_half_is_read_as_its_value() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    low = halves[(halves <= 0) & (halves > -700)]
    with np.errstate(over="ignore"):
        rest = np.log(-np.expm1(low.astype(np.float64)), where=low < 0, out=np.full(len(low), -np.inf))
    wide = np.stack([low.astype(np.float64), rest], axis=1)
    pairs = np.stack([low, wide[:, 1].astype(np.float16)], axis=1)
    labels = np.zeros(len(low), np.int64)
    found, expected = measured(pairs, labels, "log_probs"), measured(pairs.astype(np.float32), labels, "log_probs")
    for name in Visits._fields:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=2e-7, atol=2e-7)
    assert (found.loss == -low.astype(np.float32)).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("log_probs", [np.nan, 0.0], "class 0 is NaN"),
        ("logits", [0.0, np.nan], "class 1 is NaN"),
        ("probabilities", [np.nan, 1.0], "class 0 is NaN"),
        ("logits", [np.inf, 0.0], "no softmax"),
        ("logits", [-np.inf, -np.inf], "no softmax"),
        ("log_probs", [2.5, -1.0], "set outputs to 'logits'"),
        ("log_probs", [np.inf, -1.0], "never above 0"),
        ("log_probs", [-3.0, -4.0], "these sum to 0.0681"),
        ("log_probs", [0.75, 0.25], "set outputs to 'probabilities'"),
        ("log_probs", [-np.inf, -np.inf], "All are -inf"),
        ("probabilities", [-0.6931, -0.6931], "set outputs to 'log_probs'"),
        ("probabilities", [-1.0, 2.0], "never below 0"),
        ("probabilities", [3.0, 4.0], "set outputs to 'logits'"),
        ("probabilities", [np.inf, 0.0], "sum to 1"),
    ],
)
def test_what_is_no_distribution_is_refused(dtype: type, kind: Outputs, values: list[float], said: str) -> None:
    good = outputs_of(kind, np.zeros((600, 2)))
    block: NDArray[Any] = np.concatenate([good, [values], good, [values]]).astype(dtype)
    found = refused(block, [0] * len(block), kind)
    assert (found.visit, found.of_label) == (600, False)
    assert said in found.detail


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_labels_out_of_range_are_refused(label: int) -> None:
    for dtype in (np.float16, np.float32):
        values = np.log(np.full((4, 3), 1 / 3)).astype(dtype)
        found = refused(values, [0, 2, label, 0], "log_probs")
        assert (found.visit, found.of_label) == (2, True)
        assert f"The label is {label}" in found.detail


INTERPRETED = """
import hashlib, numpy as np
from tamis.native.learning import dynamics, dynamics_folds
for kind, dtype in (("logits", np.float64), ("log_probs", np.float16), ("probabilities", np.float64)):
    logits = np.random.default_rng(3).integers(-640, 640, (60, 10)) / 64
    exact = {"logits": logits, "log_probs": np.full((60, 10), -2.302), "probabilities": np.full((60, 10), 0.1)}[kind]
    found = dynamics.measure(exact.astype(dtype), np.arange(60) % 10, kind)
    print(hashlib.sha256(b"".join(column.tobytes() for column in found)).hexdigest())
"""


def test_they_are_the_same_bits_without_a_compiler() -> None:
    """Python's floats are plain IEEE: nothing was fused, and no sum was taken in another order."""
    printed = []
    for disabled in ("0", "1"):
        run = [sys.executable, "-W", "ignore", "-c", INTERPRETED]
        environment = os.environ | {"NUMBA_DISABLE_JIT": disabled}
        printed.append(subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout)
    assert printed[0] == printed[1]
    assert len(set(printed[0].split())) == 3


# -- folding


class State:
    """All that is folded, over blocks of visits."""

    def __init__(self, rows: int, end: int) -> None:
        self.end = end
        self.latest, self.counts = np.full(rows, dynamics.NO_EPOCH, np.int32), np.zeros(rows, np.int32)
        self.aum, self.el2n, self.sums, self.squares = np.zeros((4, rows))
        self.last, self.learned, self.forgotten = np.zeros(rows, np.uint8), np.zeros(rows, np.int32), self.counts.copy()
        self.loss = np.zeros(rows, np.float32)

    def add(self, rows: NDArray[np.uint32], epochs: NDArray[np.int32], visits: Visits) -> int:
        for column in (rows, epochs, *visits):
            column.setflags(write=False)
        failed: int = dynamics_folds.fold_visits(rows, epochs, self.latest, self.counts)
        if failed >= 0:
            return failed
        dynamics_folds.fold_sum(rows, epochs, visits.margin, 2**31 - 1, self.aum)
        dynamics_folds.fold_sum(rows, epochs, visits.error, self.end, self.el2n)
        dynamics_folds.fold_confidence(rows, visits.loss, self.sums, self.squares)
        dynamics_folds.fold_correct(rows, visits.correct, self.last, self.learned, self.forgotten)
        dynamics_folds.fold_latest(rows, visits.loss, self.loss)
        return -1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 40), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_folding_follows_every_row(n: int, visits: int, blocks: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, epochs = random.integers(0, n, visits), np.sort(random.integers(0, 6, visits))
    values = outputs_of("log_probs", random.normal(0, 2, (visits, 3)))
    labels = random.integers(0, 3, visits)
    expected = [naive.Row() for _ in range(n)]
    for row, epoch, value, label in zip(rows.tolist(), epochs.tolist(), values.tolist(), labels.tolist(), strict=True):
        expected[row].visits.append((epoch, naive.visit(value, label, "log_probs")))
    state = State(n, 3)
    for part in np.array_split(np.arange(visits), blocks):
        block = measured(values[part], labels[part], "log_probs")
        assert state.add(rows[part].astype(np.uint32), epochs[part].astype(np.int32), block) == -1
    assert state.counts.tolist() == [len(row.visits) for row in expected]
    assert state.learned.tolist() == [row.learned() for row in expected]
    assert state.forgotten.tolist() == [row.forgotten() for row in expected]
    assert state.last.tolist() == [row.visits[-1][1].correct if row.visits else 0 for row in expected]
    assert state.aum == pytest.approx([row.aum() for row in expected], abs=1e-5)
    assert state.el2n == pytest.approx([row.el2n(3) for row in expected], abs=1e-5)
    assert state.sums == pytest.approx([math.fsum(row.confidences()) for row in expected], abs=1e-5)
    assert state.squares == pytest.approx([math.fsum(p * p for p in row.confidences()) for row in expected], abs=1e-5)
    assert state.loss == pytest.approx([row.visits[-1][1].loss if row.visits else 0 for row in expected], abs=1e-5)


def test_epochs_that_go_back_are_found() -> None:
    state = State(2, 10)
    block = measured(np.log(np.full((4, 2), 0.5)), np.zeros(4, np.int64), "log_probs")
    rows = np.array([0, 1, 0, 1], np.uint32)
    assert state.add(rows, np.array([1, 4, 1, 4], np.int32), block) == -1
    assert state.add(rows, np.array([2, 4, 3, 3], np.int32), block) == 3
