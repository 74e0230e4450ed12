"""Retry strategies: from a failure to a decision. They compute; waiting and trying again is the caller's."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Decision to try again."""

    seconds: float  # pause before the next attempt


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Decision not to try again."""


RetryDecision: TypeAlias = RetryAfter | GiveUp


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses by the number of failures.

    Attributes
    ----------
    pauses : sequence of float
        Seconds after the first failure, the second, and so on.
    endless : bool
        Repeat the last pause after every further failure; give up after the last pause when False.
    jitter : float
        Largest random change of a pause, as a fraction of it: callers that failed together do not return together.
    """

    pauses: Sequence[float]
    endless: bool = False
    jitter: float = 0.0

    def decide(self, failures: int) -> RetryDecision:
        """Decide after a number of failures, 1 or more."""
        if failures > len(self.pauses) and not self.endless:
            return GiveUp()
        pause = self.pauses[min(failures, len(self.pauses)) - 1]
        return RetryAfter(pause * random.uniform(1 - self.jitter, 1 + self.jitter))


TRANSIENT_CODES: Final = frozenset({"job-process-died", "out-of-memory", "storage"})
"""Codes of problems that may not come again when the same job runs again; others lie in the request or the data."""


@dataclass(frozen=True, slots=True)
class JobRetry:
    """Retry strategy of jobs: transient failures only, as long as the job has attempts left.

    Attributes
    ----------
    backoff : Backoff
        Pauses between attempts.
    transient_codes : frozenset of str
        Codes of the problems after which the job is tried again.
    """

    backoff: Backoff = Backoff((1.0, 5.0, 30.0), endless=True)
    transient_codes: frozenset[str] = TRANSIENT_CODES

    def decide(self, code: str, attempts: int, attempts_limit: int) -> RetryDecision:
        """Decide after a failed attempt.

        Parameters
        ----------
        code : str
            Code of the problem that ended the attempt.
        attempts : int
            Attempts so far, this one included.
        attempts_limit : int
            Attempts that the job may have.
        """
        if code not in self.transient_codes or attempts >= attempts_limit:
            return GiveUp()
        return self.backoff.decide(attempts)
