"""Tables of what ``evidence_gais.py`` measured, and how far the goals of GAIS hold, as Markdown."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

DESIGN = (
    "sklearn_digits",
    "sklearn_breast_cancer",
    "mlbench_vowel",
    "keel_vehicle",
    "mlbench_pimaindiansdiabetes",
    "mlbench_satellite",
    "kernlab_spam",
    "modeldata_hpc_data",
    "modeldata_cells",
    "mlbench_dna",
    "mlbench_letterrecognition",
    "mlbench_shuttle",
)
"""The twelve sets of the design's prototypes; parameters were tuned on some of them."""

FRESH = (
    "keel_penbased",
    "keel_texture",
    "keel_optdigits",
    "keel_twonorm",
    "keel_ring",
    "keel_banana",
    "keel_magic",
    "keel_contraceptive",
    "keel_splice",
    "keel_chess",
)
"""KEEL sets that nothing was tuned on."""

GROUPS: Mapping[str, Sequence[str]] = {"design": DESIGN, "KEEL": FRESH}
RANDOM = "random, stratified"
DEFAULT = "GAIS (default)"
GATED = "coverage, gate 0.8"
PLAIN = "coverage, no doubt"
NEIGHBOURS = "coverage, doubt by neighbours"
PROTOTYPES = "k-means prototypes"
DOUBTS = ((DEFAULT, PLAIN), (NEIGHBOURS, PLAIN), (GATED, PLAIN), (DEFAULT, NEIGHBOURS))
"""What is compared with what, to tell what doubting labels is worth."""
WITHOUT_BUDGET = ("all rows", "ENN", "CNN")
AT = 0.96
"""The reduction that the goals are stated for."""
FLOOR = 0.78
FLOOR_SET = -0.005
WINS = 11

Record = dict[str, Any]
ByFold = dict[int, NDArray[np.float64]]
Table = dict[str, dict[str, ByFold]]
"""Accuracies of the classifiers by method, set and fold."""


class Apart(NamedTuple):
    """How far one method lies above another: means over the classifiers, on the sets and folds that both have."""

    sets: dict[str, float]
    folds: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean over the sets."""
        return float(np.mean(list(self.sets.values())))

    @property
    def wins(self) -> int:
        """Sets on which the first is above."""
        return sum(value > 0 for value in self.sets.values())

    @property
    def error(self) -> float:
        """Standard error of the mean, as if sets and folds were draws."""
        return float(self.folds.std(ddof=1) / np.sqrt(len(self.folds)))

    @property
    def shown(self) -> bool:
        """Whether the mean lies above 0 by two standard errors."""
        return self.mean > 2 * self.error

    def told(self) -> str:
        """Tell mean, the standard error over sets and folds, and the sets won."""
        return f"{self.mean:+.4f} (standard error {self.error:.4f}), above on {self.wins} of {len(self.sets)} sets"


def table_of(records: Sequence[Record], noise: float, reduction: float, names: Sequence[str], measure: str) -> Table:
    """Pick out one case; what has no budget was measured once, and serves every reduction, on the folds that it has."""
    table: Table = defaultdict(lambda: defaultdict(dict))
    own = [record for record in records if record["noise"] == noise and record["set"] in names]
    there = {(r["set"], r["fold"]) for r in own if r["reduction"] == reduction}
    for record in own:
        serves = record["method"] in WITHOUT_BUDGET and (record["set"], record["fold"]) in there
        if record["reduction"] == reduction or serves:
            table[record["method"]][record["set"]][record["fold"]] = np.array(record[measure])
    return table


def apart(table: Table, method: str, other: str) -> Apart:
    """Compare two methods, fold by fold."""
    sets: dict[str, float] = {}
    folds: list[float] = []
    for name, own in table[method].items():
        both = own.keys() & table[other].get(name, {}).keys()
        if both:
            values = [float(own[fold].mean() - table[other][name][fold].mean()) for fold in sorted(both)]
            sets[name] = float(np.mean(values))
            folds += values
    return Apart(sets, np.array(folds))


def mean_of(table: Table, method: str) -> NDArray[np.float64]:
    """Return each classifier's mean over the sets."""
    means: NDArray[np.float64] = np.mean(
        [np.mean(list(folds.values()), axis=0) for folds in table[method].values()], axis=0
    )
    return means


def show(records: Sequence[Record]) -> None:
    """Print a table for every reduction, then how far the goals hold."""
    noises = sorted({record["noise"] for record in records})
    for reduction in sorted({record["reduction"] for record in records}):
        seen = {(record["noise"], record["set"]) for record in records}
        cases = [
            (noise, title) for noise in noises for title in GROUPS if any((noise, n) in seen for n in GROUPS[title])
        ]
        tables = [table_of(records, noise, reduction, GROUPS[title], "accuracy") for noise, title in cases]
        recalls = [table_of(records, noise, reduction, GROUPS[title], "recall") for noise, title in cases]
        there = dict.fromkeys(method for table in tables for method in table)
        methods = sorted(there, key=lambda method: method in WITHOUT_BUDGET)
        print(f"\n**{reduction:.0%} reduction**: mean accuracy of the three classifiers (mean recall of the classes)\n")
        heads = [f"{title}{f', {noise:.0%} noise' if noise else ''} | above" for noise, title in cases]
        print(f"| | {' | '.join(heads)} |\n|---|{'---|' * (2 * len(cases))}")
        for method in methods:
            cells = [_cell(table, recall, method) for table, recall in zip(tables, recalls, strict=True)]
            print(f"| {method}{_kept(records, method)} | {' | '.join(cells)} |")
        folds = [
            f"{title}{f', {noise:.0%} noise' if noise else ''}: " + _folds(tables[at], methods)
            for at, (noise, title) in enumerate(cases)
        ]
        print(f"\nFolds: {'; '.join(folds)}.")
    for title, names in GROUPS.items():
        _goals(records, title, names)
    _doubt(records)


def _folds(table: Table, methods: Iterable[str]) -> str:
    """Tell how many folds there are; of a method with fewer, those too."""
    counts = {method: len({fold for own in table[method].values() for fold in own}) for method in methods}
    most = max(counts.values())
    return ", ".join([str(most), *(f"{method} {count}" for method, count in counts.items() if count < most)])


def _kept(records: Sequence[Record], method: str) -> str:
    kept = [record["kept"] for record in records if record["method"] == method]
    return f" ({np.mean(kept):.0%} kept)" if method in ("CNN", "ENN") else ""


def _cell(table: Table, recalls: Table, method: str) -> str:
    """Tell mean accuracy and recall, and the sets on which the random draw is beaten."""
    if not table[method]:
        return " | "
    told = f"{mean_of(table, method).mean():.3f} ({mean_of(recalls, method).mean():.3f}) | "
    if method == RANDOM:
        return told
    beside = apart(table, method, RANDOM)
    return f"{told}{beside.wins} of {len(beside.sets)}"


def _goals(records: Sequence[Record], title: str, names: Sequence[str]) -> None:
    """Say of every goal whether it holds on a group of sets."""
    clean, noisy = (table_of(records, noise, AT, names, "accuracy") for noise in (0.0, 0.1))
    if DEFAULT not in clean or PLAIN not in clean or PROTOTYPES not in clean:
        return
    random = apart(clean, DEFAULT, RANDOM)
    wanted = WINS * len(random.sets) // len(DESIGN)
    print(f"\nGoals at {AT:.0%} reduction, {title} sets:\n\n| goal | measured | holds |\n|---|---|---|")
    holds = "yes" if random.wins >= wanted else "**no**"
    print(f"| default above random on {wanted} of {len(random.sets)} sets | {random.told()} | {holds} |")
    worst = min(random.sets, key=lambda name: random.sets[name])
    holds = "yes" if random.sets[worst] >= FLOOR_SET else "**no**"
    print(f"| on no set more than 0.5 point below random | least: {worst} {random.sets[worst]:+.4f} | {holds} |")
    if names is DESIGN:
        mean = mean_of(clean, DEFAULT).mean()
        print(f"| mean of the three classifiers at least {FLOOR} | {mean:.3f} | {_yes(mean >= FLOOR)} |")
    for noise, table in ((0.0, clean), (0.1, noisy)):
        if DEFAULT not in table:
            continue
        beside = apart(table, DEFAULT, PROTOTYPES)
        print(
            f"| default not below k-means prototypes on average, {noise:.0%} noise | {beside.told()} "
            f"| {_yes(beside.mean >= 0)} |"
        )


def _doubt(records: Sequence[Record]) -> None:
    """Say what doubting labels adds to coverage, and what of it the network adds to looking at neighbours' labels."""
    print("\nWhat doubt adds to coverage, all sets:\n")
    print("| | reduction | noise | difference | shown |\n|---|---|---|---|---|")
    names = [*DESIGN, *FRESH]
    cases = sorted({(record["reduction"], record["noise"]) for record in records})
    for (first, second), (reduction, noise) in itertools.product(DOUBTS, cases):
        table = table_of(records, noise, reduction, names, "accuracy")
        if first in table and second in table:
            beside = apart(table, first, second)
            difference = f"{reduction:.0%} | {noise:.0%} | {beside.told()} | {_yes(beside.shown)}"
            print(f"| {first} less {second} | {difference} |")


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"
