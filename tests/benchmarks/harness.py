"""The harness of all benchmarks and evidence: legs in processes of their own, tables, stored results.

::

    make bench                                       # the default: dsir.speed on the demo's text
    make bench ARGS="--list"                         # every benchmark, its parameters, its legs
    make bench ARGS="kcenter facility.graph --toy"   # a module's, one of them; tiny data
    make bench ARGS="facility.scale rows=100000,200000 selectors=graph_cut"

A *benchmark* is a generator of a table's rows, registered with the sizes of its full and of its toy run. A *leg* is a
function whose keyword arguments and results are JSON; it runs in a process of its own, by its own interpreter if it
measures a peer. A module of legs therefore imports nothing at its top but the standard library and this harness.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":  # run by path: a package named tests among a peer's own must not win over ours
    sys.path[0] = str(ROOT)
    ours = types.ModuleType("tests")
    ours.__path__ = [str(ROOT / "tests")]
    sys.modules["tests"] = ours

from tests.benchmarks.environments import Peer, Unavailable  # noqa: E402
from tests.benchmarks.results import Block, Record, append, markdown, rounded, update_readme  # noqa: E402

DEFAULT = "dsir.speed"
FOLDERS = ("benchmarks", "evidence")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
"""Thread pools of numeric libraries, which read these when they are imported."""

Figures = dict[str, Any]
Row = dict[str, Any]
Yielded = Row | str | Block
"""A row of the current table; a heading (``Block``) that begins another one; or a remark below it."""

T = TypeVar("T")


# -- What a leg measures


def high_water() -> int:
    """Peak resident memory of this process in bytes; getrusage's is that of the parent before exec, where larger."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@dataclass(frozen=True)
class Timed:
    """CPU seconds of all threads, wall seconds, and the last result of timed work."""

    cpu: list[float]
    wall: list[float]
    result: Any

    @property
    def figures(self) -> Figures:
        """Medians, and the least CPU seconds."""
        return {"cpu": statistics.median(self.cpu), "best": min(self.cpu), "wall": statistics.median(self.wall)}


def timed(work: Callable[[], Any], repeat: int = 1) -> Timed:
    """Run `work` `repeat` times and time each run."""
    cpu, wall, result = [], [], None
    for _ in range(repeat):
        start = time.process_time(), time.perf_counter()
        result = work()
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return Timed(cpu, wall, result)


# -- Legs


class LegFailed(RuntimeError):
    """One of our own legs ended with an error."""


@dataclass
class Leg:
    """A function that runs in a process of its own; figures whose names begin with ``_`` are not kept."""

    function: Callable[..., Figures]
    env: Peer | None
    environment: Mapping[str, str]

    @property
    def name(self) -> str:
        """Module and function, as in ``kcenter.mundig``."""
        return f"{self.function.__module__.removeprefix('tests.').removeprefix('benchmarks.')}.{self.function.__name__}"

    def run(
        self, *, processes: int = 1, environment: Mapping[str, str] | None = None, **arguments: Any
    ) -> Figures | None:
        """Run the leg in a number of processes, one after the other.

        Returns
        -------
        dict or None
            Medians of the figures; None if the leg measures a peer that is not there, or that failed.
        """
        try:
            runs = [self._once(environment or {}, arguments) for _ in range(processes)]
        except Unavailable as reason:
            SESSION.skipped[self.name] = str(reason)
            return None
        SESSION.ran.add(self.name)
        return medians(runs)

    def ours(self, *, processes: int = 1, environment: Mapping[str, str] | None = None, **arguments: Any) -> Figures:
        """Run a leg of our own, which is always there."""
        found = self.run(processes=processes, environment=environment, **arguments)
        assert found is not None, self.name
        return found

    def _once(self, environment: Mapping[str, str], arguments: dict[str, Any]) -> Figures:
        python = Path(sys.executable) if self.env is None else self.env.python(build=SESSION.build_peers)
        own = {**os.environ, **self.environment, **environment}
        with tempfile.NamedTemporaryFile("r", suffix=".json") as answer:
            command = [str(python), __file__, "--leg", self.function.__module__, self.function.__name__, answer.name]
            done = subprocess.run([*command, json.dumps(arguments, default=str)], stdout=sys.stderr, env=own)
            if done.returncode != 0:
                failed = Unavailable if self.env is not None else LegFailed
                raise failed(f"{self.name} ended with status {done.returncode}")
            figures: Figures = json.load(answer)
            return figures


def medians(runs: list[Figures]) -> Figures:
    """Return the median of every number over the runs; of anything else, the last run's."""

    def number(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    return {
        key: statistics.median(run[key] for run in runs) if number(value) and len(runs) > 1 else value
        for key, value in runs[-1].items()
    }


def ratio(theirs: Figures | None, ours: Figures, name: str = "cpu") -> float | None:
    """Return how many times as much of a figure a peer takes; None without the peer."""
    return None if theirs is None else theirs[name] / ours[name]


def figure(found: Figures | None, name: str, unit: float = 1) -> Any:
    """Return one figure in `unit`; None without the leg."""
    return None if found is None else found[name] / unit


LEGS: dict[str, Leg] = {}


def leg(*, env: Peer | None = None, one_thread: bool = False) -> Callable[[Callable[..., Figures]], Leg]:
    """Register a leg.

    Parameters
    ----------
    env : Peer, optional
        What the leg measures if not Tamis; its environment is built when the leg first runs.
    one_thread : bool
        Whether the numeric libraries of the leg's process get one thread.
    """

    def register(function: Callable[..., Figures]) -> Leg:
        made = Leg(function, env, ONE_THREAD if one_thread else {})
        LEGS[made.name] = made
        return made

    return register


def _be_leg(module: str, function: str, answer: str, arguments: str) -> None:
    importlib.import_module(module)
    name = f"{module.removeprefix('tests.').removeprefix('benchmarks.')}.{function}"
    figures = LEGS[name].function(**json.loads(arguments))
    figures.setdefault("peak_rss", high_water())
    Path(answer).write_text(json.dumps(figures), encoding="utf-8")


# -- Benchmarks


@dataclass
class Benchmark:
    """A generator of a table's rows, with the arguments of its full and of its toy run."""

    function: Callable[..., Iterable[Yielded]]
    full: dict[str, Any]
    toy: dict[str, Any]

    @property
    def module(self) -> str:
        """Its module, as in ``kcenter`` or ``evidence.ccs``."""
        return self.function.__module__.removeprefix("tests.").removeprefix("benchmarks.")

    @property
    def name(self) -> str:
        """Module and function, as in ``kcenter.peers``; an experiment has the name of its module."""
        return self.module if self.function.__name__ == "experiment" else f"{self.module}.{self.function.__name__}"

    def run(self, given: Mapping[str, Any] | None = None, *, toy: bool = False, build_peers: bool = False) -> Record:
        """Run it; `given` arguments replace those of its size."""
        arguments = {**self.full, **(self.toy if toy else {}), **(given or {})}
        SESSION.build_peers, before = build_peers, dict(SESSION.skipped)
        blocks: list[Block] = [Block("")]
        for item in self.function(**arguments):
            if isinstance(item, Block):
                blocks.append(item)
            elif isinstance(item, str):
                blocks[-1].remarks.append(item)
            else:
                blocks[-1].rows.append(rounded(item))
                print(json.dumps(blocks[-1].rows[-1]), file=sys.stderr, flush=True)
        skipped = {name: reason for name, reason in SESSION.skipped.items() if name not in before}
        return Record.now(self.name, arguments, [block for block in blocks if block.rows or block.remarks], skipped)


BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(
    *, full: dict[str, Any], toy: dict[str, Any]
) -> Callable[[Callable[..., Iterator[Yielded]]], Callable[..., Iterator[Yielded]]]:
    """Register a benchmark with the arguments of its full run, and those that differ in the toy run."""

    def register(function: Callable[..., Iterator[Yielded]]) -> Callable[..., Iterator[Yielded]]:
        made = Benchmark(function, full, toy)
        BENCHMARKS[made.name] = made
        return function

    return register


@dataclass
class Session:
    """One process's run: whether it builds peers' environments, and the legs that ran or were skipped."""

    build_peers: bool = False
    ran: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)


SESSION = Session()


def scripts() -> list[str]:
    """Name the modules of both folders that may register benchmarks: all but tests and the harness itself."""
    own = {"harness", "environments", "results"}
    return [
        f"tests.{folder}.{path.stem}"
        for folder in FOLDERS
        for path in sorted((ROOT / "tests" / folder).glob("*.py"))
        if path.stem not in own and not path.stem.startswith("test_")
    ]


# -- The command line


def load() -> None:
    """Import all scripts, which registers their benchmarks and legs."""
    for script in scripts():
        importlib.import_module(script)


def share_kernels() -> None:
    """Have legs find the kernels that earlier ones compiled, unless the environment says where they lie."""
    from tamis.native import source_digest

    home = Path(os.environ.setdefault("TAMIS_HOME", str(ROOT / ".venv" / "bench-home")))
    os.environ.setdefault("NUMBA_CACHE_DIR", str(home / "cache" / f"numba-{source_digest()}"))


def _chosen(names: list[str]) -> list[Benchmark]:
    chosen = []
    for name in names or [DEFAULT]:
        own = [one for one in BENCHMARKS.values() if name in (one.name, one.module)]
        if not own:
            raise SystemExit(f"There is no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}.")
        chosen += own
    return chosen


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _arguments(settings: list[str], chosen: list[Benchmark]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        owners = [one for one in chosen if name in one.full]
        if not owners:
            known = sorted({name for one in chosen for name in one.full})
            raise SystemExit(f"There is no parameter {name!r}; there are: {', '.join(known)}.")
        several = isinstance(owners[0].full[name], list) and not value.startswith("[")
        given[name] = [_parsed(part) for part in value.split(",")] if several else _parsed(value)
    return given


def main() -> None:
    """Run the benchmarks named on the command line, and print their tables as Markdown."""
    if sys.argv[1:2] == ["--leg"]:
        return _be_leg(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"benchmarks, and parameters as name=value (default: {DEFAULT})")
    parser.add_argument("--toy", action="store_true", help="tiny data: does it run at all?")
    parser.add_argument("--record", action="store_true", help="keep the results and put their tables into the README")
    parser.add_argument("--no-peers", action="store_true", help="build no environments of peers; those there are used")
    parser.add_argument("--list", action="store_true", help="list benchmarks, parameters and legs")
    parser.add_argument("--readme", action="store_true", help="only put the tables of the kept results into the README")
    options = parser.parse_args()
    load()
    if options.list:
        for name, one in BENCHMARKS.items():
            about = (one.function.__doc__ or "").splitlines()[0]
            print(f"{name}: {about}\n    {' '.join(f'{key}={json.dumps(value)}' for key, value in one.full.items())}")
        print("\nlegs: " + ", ".join(LEGS))
        return None
    if options.readme:
        return update_readme()
    share_kernels()
    chosen = _chosen([word for word in options.what if "=" not in word])
    given = _arguments([word for word in options.what if "=" in word], chosen)
    for one in chosen:
        own = {name: value for name, value in given.items() if name in one.full}
        record = one.run(own, toy=options.toy, build_peers=not options.no_peers)
        print(f"\n## {one.name}\n\n{markdown(record)}", flush=True)
        if options.record and not options.toy:
            append(record)
    return update_readme() if options.record and not options.toy else None


if __name__ == "__main__":
    from tests.benchmarks import harness

    harness.main()
