"""Compilation of kernels is reported, once."""

import numba

from tamis.selectors.jobs.compilation import on_first_compile


def test_compilation_is_reported_once_and_only_where_something_is_compiled() -> None:
    successor = numba.njit(lambda n: n + 1)
    calls: list[str] = []
    with on_first_compile(lambda: calls.append("first")):
        assert (successor(1), successor(1.5)) == (2, 2.5)
    with on_first_compile(lambda: calls.append("again")):
        assert successor(2) == 3
    assert numba.njit(lambda n: n - 1)(3) == 2  # outside the block
    assert calls == ["first"]
