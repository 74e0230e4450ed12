"""One block of rows through GAIS: batches, graph, attention network, coverage. Blocks do not depend on each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.native.greedy.class_coverage import FULL, MASS, attention_strengths, cover_batch, own_share, relation_of
from tamis.native.learning import gat
from tamis.native.math import rng
from tamis.native.neighbours import lsh
from tamis.native.sampling.interleave import cumulative_quotas, slices, stratified_order
from tamis.selectors.methods.gais.survey import BLOCK_ROWS, Codes, Ints, Matrix, Scaling, vectors_of
from tamis.selectors.signals.task import UnitReader, unit_task

Floats = npt.NDArray[np.float32]

LEAST_MASS = 1
"""Of `MASS`: what a row counts at least, however much its label is doubted."""

Doubt = Literal["none", "neighbours", "gate", "probability", "attention"]

NEVER = -1.0
"""Keys of unpicked rows lie in [NEVER, 0)."""


@dataclass(frozen=True)
class Settings:
    """The parameters that a block's scores depend on."""

    graph: lsh.Kind
    neighbours: int
    batch_rows: int
    views: int
    passes: int
    relation: str  # "nearest" or "attention"
    doubt: Doubt
    gate: float
    covers: int  # neighbours of its class that may represent a row
    least_gain: float  # coverage ends before a pick that gains less; 0: never
    seed: int

    @property
    def slice_rows(self) -> int:
        """Rows of a slice of the stratified order: what is one graph."""
        return self.batch_rows if self.graph == "minibatch" else BLOCK_ROWS

    def directions(self, dimension: int) -> Floats:
        """Return the views' random directions."""
        views = self.views if self.graph == "lsh_multiview" else 1
        return lsh.directions(rng.stream_key(self.seed, "gais.directions"), views, dimension)


@dataclass(frozen=True)
class Network:
    """A trained network."""

    flat: Floats
    dimension: int
    classes: int

    @cached_property
    def weights(self) -> gat.Weights:
        """Its parameters."""
        return gat.split(self.flat, self.dimension, self.classes)


@dataclass
class Signals:
    """The network's outputs for rows, float32 (n,) each."""

    own: Floats  # probability of the own label
    margin: Floats  # that, less the most probable other class
    same: Floats  # attention received from rows of the same class
    other: Floats  # … of other classes
    paid: Floats  # share of the attention it pays its neighbours that those of its class get

    @staticmethod
    def zeros(n: int) -> Signals:
        return Signals(*(np.zeros(n, np.float32) for _ in range(5)))

    def at(self, rows: Ints, passes: int) -> Signals:
        """Return the means over `passes` passes for some rows."""
        return Signals(*(getattr(self, name)[rows] / np.float32(passes) for name in vars(self)))

    def add(self, rows: Ints, part: Signals) -> None:
        """Add a pass over some rows."""
        for name in vars(self):
            getattr(self, name)[rows] += getattr(part, name)

    def divided(self, passes: int) -> None:
        """Turn sums over passes into means."""
        for name in vars(self):
            getattr(self, name)[:] /= np.float32(passes)


def look(found: lsh.Found, points: Matrix, labels: Codes, network: Network) -> tuple[Signals, gat.Activations]:
    """Run the network over one graph."""
    n, k = found.keys.shape
    graph = lsh.to_graph(found)
    activations = gat.empty_activations(n, k + 1, np.float32)
    gat.forward(points, graph, network.weights, activations)
    signals = Signals.zeros(n)
    gat.class_signals(activations.u, network.weights, labels, signals.own, signals.margin)
    gat.attention_received(
        graph, activations.alpha1, activations.alpha2, labels, signals.same, signals.other, signals.paid
    )
    return signals, activations


@dataclass
class Scored:
    """A block's rows."""

    signals: Signals
    keys: npt.NDArray[np.float64]  # (n,) picks in (0, 1], first ones highest; the others in [NEVER, 0)
    gains: npt.NDArray[np.float64]  # (n,) rows that a pick newly represented; of others a bound


def score_block(
    points: Matrix,
    labels: Codes,
    rows: Ints,
    state: npt.NDArray[np.int8],
    settings: Settings,
    network: Network | None,
    quotas: tuple[Ints, Ints, Ints] | None,
) -> Scored:
    """Score the labelled rows of a block, and pick by coverage.

    Parameters
    ----------
    points : ndarray, shape (n, d), float32
        Standardised.
    labels : ndarray, shape (n,), int32
        Classes, none negative.
    rows : ndarray, shape (n,), int64
        Row numbers over the dataset, ascending.
    state : ndarray, shape (n,), int8
        0: may be picked; 1: is kept already; 2: may not be picked.
    settings : Settings
    network : Network, optional
    quotas : tuple of ndarray, shape (classes,), int64, optional
        Rows to pick of every class in the whole dataset, its rows there, and those in earlier blocks; None: pick none.
    """
    n = len(rows)
    directions = settings.directions(points.shape[1])
    total = Signals.zeros(n)
    scored = Scored(total, np.full(n, NEVER), np.zeros(n))
    if n == 0:  # a block whose rows all lack a label
        return scored
    for number in range(settings.passes - 1, -1, -1):  # the first pass comes last: its graph is the coverage's
        words = rng.random_bits_at(rng.stream_key(settings.seed, f"gais.order.{number}"), rows)
        order = stratified_order(labels, words)
        seen = None if quotas is None else quotas[2].copy()
        for members in _slices(order, settings.slice_rows):
            part, own = points.take(members, axis=0), labels[members]
            found = lsh.find_neighbours(part, settings.neighbours, settings.graph, directions)
            activations = None
            if network is not None:
                signals, activations = look(found, part, own, network)
                total.add(members, signals)
            if quotas is None or seen is None or number > 0:
                continue
            now = seen + np.bincount(own, minlength=len(seen))
            share = cumulative_quotas(quotas[0], quotas[1], now) - cumulative_quotas(quotas[0], quotas[1], seen)
            seen = now
            mass = masses(total.at(members, settings.passes), found, own, settings)
            graph = Slice(members, found, own, mass, activations)
            _cover(scored, graph, share, state[members], settings)
    total.divided(settings.passes)
    return scored


def masses(signals: Signals, found: lsh.Found, labels: Codes, settings: Settings) -> Codes:
    """Return how much it counts that each row is represented: `MASS` in full, less where its label is doubted."""
    if settings.doubt == "none":
        return np.full(len(signals.own), MASS, np.int32)
    if settings.doubt == "gate":
        return np.where(signals.margin < -settings.gate, LEAST_MASS, MASS).astype(np.int32)
    trust = signals.paid
    if settings.doubt == "neighbours":
        trust = np.empty(len(labels), np.float32)
        own_share(found.keys, labels, trust)
    if settings.doubt == "probability":  # of the own label, as a share of the most probable one's
        largest = np.maximum(signals.own, signals.own - signals.margin)
        trust = signals.own / np.maximum(largest, np.finfo(np.float32).tiny)
    mass: Codes = np.maximum(trust * np.float32(MASS), LEAST_MASS).astype(np.int32)
    return mass


def _slices(order: Ints, rows: int) -> Iterator[Ints]:
    bounds = slices(len(order), rows)
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        yield order[begin:end]


class Slice(NamedTuple):
    """The rows of one graph of a block."""

    members: Ints  # (n,) places in the block
    found: lsh.Found  # their neighbours
    labels: Codes  # (n,)
    mass: Codes  # (n,) what each row counts
    activations: gat.Activations | None  # of the network, where there is one


def _cover(scored: Scored, part: Slice, quotas: Ints, state: npt.NDArray[np.int8], settings: Settings) -> None:
    """Pick rows of one slice; the key of the t-th of q picks is 1 - t / q, so that prefixes keep every share."""
    members, found, labels, mass, activations = part
    ties = np.full(found.keys.shape, FULL, np.int32)
    if settings.relation == "attention" and activations is not None:
        attention_strengths(activations.alpha1, activations.alpha2, ties)
    relation = relation_of(found.keys, ties, labels, settings.covers)
    least = int(np.ceil(settings.least_gain * MASS * FULL))
    cover = cover_batch(relation, labels, quotas, mass, state, least)
    gains = cover.gains / (MASS * FULL)
    picked = cover.order >= 0
    keys = NEVER / (1.0 + gains)
    keys[picked] = 1.0 - cover.order[picked] / quotas[labels[picked]]
    scored.keys[members] = keys
    scored.gains[members] = gains


@unit_task("gais.score_units", revision=1, roles=("embedding", "label"), numbered=True)
def score_units(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Score the block that starts with this unit: columns key, gain float64, own, margin, same, other float32.

    Rows without a label have zeros and the key NEVER.
    """
    settings = Settings(**params["settings"])
    blocks = shared["blocks"]
    at = blocks.column("first").to_pylist().index(reader.unit.index)
    last = blocks.column("last")[at].as_py()
    names = shared["classes"].column("name").to_pylist()
    points, labels = _read(reader, last, Scaling.from_table(shared["scaling"]), names)
    labelled = np.flatnonzero(labels >= 0)
    n = len(labels)
    rows = reader.first_row + labelled
    quotas = None
    if "quotas" in shared:
        table = shared["quotas"]
        seen = np.array(table.column("seen")[at].as_py(), np.int64)
        quotas = (np.array(table.column("quota")[0].as_py()), np.array(table.column("total")[0].as_py()), seen)
    network = None
    if "network" in shared:
        flat = (
            shared["network"].column("parameter").to_numpy().copy()
        )  # a copy: kernels are compiled for arrays of one kind
        network = Network(flat, points.shape[1], len(names))
    states = np.zeros(n, np.int8)
    for name, state in (("kept", 1), ("barred", 2)):
        listed = shared[name].column("row").to_numpy() if name in shared else np.empty(0, np.int64)
        inside = slice(*np.searchsorted(listed, [reader.first_row, reader.first_row + n]).tolist())
        states[listed[inside] - reader.first_row] = state
    used = points if len(labelled) == n else points[labelled]
    scored = score_block(used, labels[labelled], rows, states[labelled], settings, network, quotas)
    columns: dict[str, npt.NDArray[Any]] = {"key": np.full(n, NEVER), "gain": np.zeros(n)}
    columns["key"][labelled] = scored.keys
    columns["gain"][labelled] = scored.gains
    if network is not None:
        for name, values in vars(scored.signals).items():
            columns[name] = np.zeros(n, np.float32)
            columns[name][labelled] = values
    return pa.table(columns)


def _read(reader: UnitReader, last: int, scaling: Scaling, names: list[str]) -> tuple[Matrix, Codes]:
    """Read the units from the reader's to `last`: standardised features, and classes, -1 without a label."""
    units = [unit.rows or 0 for unit in reader.dataset.units[reader.unit.index : last]]
    points = np.empty((sum(units), len(scaling.columns)), np.float32)
    codes = np.empty(len(points), np.int32)
    number = {name: code for code, name in enumerate(names)}
    start = 0
    for unit in range(reader.unit.index, last):
        other = reader.of(unit)
        for batch in other.batches():
            stop = start + batch.rows
            scaling.apply(vectors_of(other, batch), points[start:stop])
            own, found = batch.categories("label")
            codes[start:stop] = np.array([number[name] for name in found] + [-1], np.int32)[own]
            start = stop
    return points, codes
