"""Retry strategies."""

from __future__ import annotations

from tamis.selectors.errors import StorageError
from tamis.service.retry import TRANSIENT_CODES, Backoff, GiveUp, JobRetry, RetryAfter
from tamis.service.worker.attempt import JobProcessDied
from tamis.service.worker.job_process import OutOfMemory


def test_pauses_end_or_repeat() -> None:
    ends, repeats = Backoff((1.0, 5.0)), Backoff((1.0, 5.0), endless=True)
    assert [ends.decide(failures) for failures in (1, 2, 3)] == [RetryAfter(1.0), RetryAfter(5.0), GiveUp()]
    assert [repeats.decide(failures) for failures in (1, 2, 3, 99)] == [RetryAfter(1.0), *[RetryAfter(5.0)] * 3]


def test_jitter_stays_within_its_fraction() -> None:
    decisions = [Backoff((100.0,), jitter=0.1).decide(1) for _ in range(100)]
    pauses = [decision.seconds for decision in decisions if isinstance(decision, RetryAfter)]
    assert len(pauses) == 100 and 90.0 <= min(pauses) < max(pauses) <= 110.0


def test_jobs_are_tried_again_after_transient_failures_only() -> None:
    strategy = JobRetry()
    assert strategy.decide("storage", 1, 3) == RetryAfter(1.0)
    assert strategy.decide("storage", 2, 3) == RetryAfter(5.0)
    assert strategy.decide("storage", 3, 3) == GiveUp()
    assert strategy.decide("storage", 9, 10) == RetryAfter(30.0)
    assert strategy.decide("bad-data", 1, 3) == GiveUp()


def test_the_transient_codes_are_those_of_errors() -> None:
    assert {error.code for error in (StorageError, OutOfMemory, JobProcessDied)} == TRANSIENT_CODES
