"""Who watches a job is told that kernels are compiled, when they are."""

import numba

from tamis.selectors.jobs.compilation import telling


def test_compilation_is_told_once_and_only_where_something_is_compiled() -> None:
    successor = numba.njit(lambda n: n + 1)
    told: list[str] = []
    with telling(lambda: told.append("first")):
        assert (successor(1), successor(1.5)) == (2, 2.5)
    with telling(lambda: told.append("again")):
        assert successor(2) == 3
    assert numba.njit(lambda n: n - 1)(3) == 2  # nobody watches any more
    assert told == ["first"]
