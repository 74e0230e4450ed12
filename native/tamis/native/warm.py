"""Every kernel once, on tiny inputs: each package compiles its own, and a job waits for those of its selector only."""

from tamis.native import greedy, learning, math, neighbours, sampling, text, transport


def compile_common() -> None:
    """Compile the kernels that every job runs, and those that read text; or load them from the cache."""
    math.warm_common()
    sampling.warm_common()
    text.warm()


def compile_all() -> None:
    """Compile every kernel, or load it from the cache."""
    compile_common()
    for package in (math, neighbours, sampling, learning, greedy, transport):
        package.warm()
