"""The share that CCS cuts off, chosen on a validation split: a small model is trained on the coreset of every share.

The paper picks beta on a grid by the accuracy of the model it is for, trained anew each time. That costs more than a
selection may; here the proxy is a multinomial logistic regression on embeddings. Coresets that are larger than
`PROXY_ROWS` train it by their first rows, which are the smaller coreset.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from tamis.selectors.errors import Infeasible, Invalid
from tamis.selectors.features.embeddings import Matrix, matrix_bytes, read_matrix
from tamis.selectors.methods.ccs.strata import REASONS, Held
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.schema.request import Role
from tamis.selectors.schema.response import Notice

Floats = npt.NDArray[np.float64]
Names = npt.NDArray[np.object_]

ROLES: tuple[Role, ...] = ("embedding", "label")

GRID = tuple(step / 10 for step in range(10))
"""Shares that are tried (paper: steps of 10%)."""

DRAWS = 3
"""Coresets drawn for each share: how far the accuracy depends on the draw."""

PROXY_ROWS = 20_000
"""Rows of a coreset that train the proxy, at most."""

BLOCK_ROWS = 8192
"""Rows that are standardised at a time, where they need not be held."""

LABEL_BYTES = 24
"""Bytes a row takes for its label, its code and what the proxy says of it."""

PROXY = "multinomial logistic regression on standardised embeddings"
MAX_ITERATIONS = 200
TOLERANCE = 1e-3
REGULARIZATION = 1.0
"""C: inverse strength of the L2 penalty."""

ITERATIONS_EXPECTED = 40
FLOPS_PER_SECOND = 4e9
CLASSES_GUESSED = 10


@dataclass(frozen=True)
class Sweep:
    """The betas that were tried and their accuracies."""

    betas: list[float]
    accuracies: Floats  # (betas, DRAWS)
    validation_rows: int
    rows_trained: int
    infeasible: list[float]
    converged: bool

    @property
    def means(self) -> Floats:
        """Accuracy of each share, over the draws."""
        means: Floats = self.accuracies.mean(axis=1)
        return means

    @property
    def best(self) -> int:
        """Place of the best share; of equal ones the smallest."""
        return int(np.argmax(np.round(self.means, 12)))

    @property
    def beta(self) -> float:
        return self.betas[self.best]

    @property
    def errors(self) -> Floats:
        """Standard error of each mean: of the validation rows, which all draws share, and of the draws."""
        means = self.means
        rows = means * (1 - means) / self.validation_rows
        errors: Floats = np.sqrt(rows + self.accuracies.var(axis=1, ddof=1) / DRAWS)
        return errors

    @property
    def notices(self) -> list[Notice]:
        """Return a note on how clear the choice is."""
        found = []
        means, errors = self.means, self.errors
        near = [
            beta
            for place, beta in enumerate(self.betas)
            if place != self.best and means[self.best] - means[place] < errors[self.best]
        ]
        if near:
            listed = ", ".join(f"{beta:g}" for beta in near)
            detail = (
                f"beta = {self.beta:g} did best in the sweep (accuracy {means[self.best]:.4f}, standard error "
                f"{errors[self.best]:.4f}), but {listed} came within the error: the choice is not clear."
            )
            found.append(Notice(code="beta-not-clear", detail=detail))
        if not self.converged:
            detail = f"A proxy model of the sweep was stopped after {MAX_ITERATIONS} iterations."
            found.append(Notice(code="proxy-not-converged", detail=detail))
        return found

    def curve(self) -> JsonValue:
        """Return the sweep as JSON values."""
        return {
            "proxy": PROXY,
            "rows_trained": self.rows_trained,
            "validation_rows": self.validation_rows,
            "draws": DRAWS,
            "chosen": self.beta,
            "infeasible": list(self.infeasible),
            "curve": [
                {"beta": beta, "accuracy": float(mean), "standard_error": float(error), "by_draw": by_draw.tolist()}
                for beta, mean, error, by_draw in zip(self.betas, self.means, self.errors, self.accuracies, strict=True)
            ],
        }


def check(job: Job) -> None:
    """Refuse a target that is no validation split of the candidates, as far as metadata tells.

    Raises
    ------
    Invalid
        When it is a fitted model, or its vectors have another length than the candidates'.
    """
    if job.spec.target is not None and job.spec.target.model is not None:
        raise Invalid("A sweep takes a validation split as its target, not a fitted model.", pointer="/target/model")
    own = job.candidates.dimension("embedding")
    for target in job.targets:
        length = target.dimension("embedding")
        if 0 < length != own > 0:  # 0: there are no rows, which counting tells
            raise Invalid(
                f"The embeddings of the target have {length} values, those of the candidates {own}: both must come "
                "from the same model.",
                pointer=f"{target.pointer}/columns/embedding",
            )


def cost(job: Job) -> tuple[int, int, float]:
    """Return units, bytes and CPU-seconds of a sweep."""
    datasets = [job.candidates, *job.targets]
    size = sum(matrix_bytes(dataset, "embedding") for dataset in datasets)
    dimension, rows = job.candidates.dimension("embedding"), job.candidates.rows or 0
    trained = min(PROXY_ROWS, rows)
    flops = 6.0 * trained * dimension * CLASSES_GUESSED * ITERATIONS_EXPECTED * len(GRID) * DRAWS
    held = 2e-6 * rows * len(GRID) * DRAWS
    return sum(len(dataset.units) for dataset in datasets), size, flops / FLOPS_PER_SECOND + size / 1e9 + held


def memory(job: Job) -> int:
    """Bytes of the vectors and labels, of what the proxy is trained on, and of the blocks it predicts."""
    datasets = [job.candidates, *job.targets]
    vectors = sum(matrix_bytes(dataset, "embedding") for dataset in datasets)
    labels = LABEL_BYTES * sum(dataset.rows or 0 for dataset in datasets)
    dimension = job.candidates.dimension("embedding")
    trained = 4 * 8 * min(PROXY_ROWS, job.candidates.rows or 0) * dimension
    return vectors + labels + trained + 3 * 8 * BLOCK_ROWS * dimension


def sweep(run: Run, ordered: Callable[[float, int], Held]) -> Sweep:
    """Try every share of `GRID` that leaves enough rows.

    Parameters
    ----------
    run : Run
        Its target is the validation split.
    ordered : callable
        Given a share and the number of a draw, the ranking of all rows.

    Raises
    ------
    Infeasible
        When no share leaves enough rows.
    Invalid
        When a part of the validation split has no rows.
    """
    for target in run.targets:
        if not target.rows:
            raise Invalid("The target has no rows.", pointer=f"{target.pointer}/shards")
    vectors, labels = read_matrix(run, run.candidates, "embedding"), _labels(run, run.candidates)
    validation = [read_matrix(run, target, "embedding") for target in run.targets]
    wanted = np.concatenate([_labels(run, target) for target in run.targets])
    scaling = _scaling(vectors)

    betas: list[float] = []
    infeasible: list[float] = []
    accuracies: list[list[float]] = []
    converged, trained, refusal = True, 0, None
    for beta in GRID:
        found: list[float] = []
        for draw in range(DRAWS):
            run.check_cancelled()
            try:
                choice = run.choose(ordered(beta, draw), REASONS)
            except Infeasible as error:
                refusal = error
                break
            assert choice.ranks is not None
            rows = choice.rows[np.argsort(choice.ranks)[:PROXY_ROWS]]
            trained = max(trained, len(rows))
            accuracy, whole = _accuracy(vectors[rows], labels[rows], validation, wanted, scaling)
            found.append(accuracy)
            converged = converged and whole
        if len(found) == DRAWS:
            betas.append(beta)
            accuracies.append(found)
        else:
            infeasible.append(beta)
    if not betas:
        assert refusal is not None
        raise refusal
    return Sweep(betas, np.array(accuracies), len(wanted), trained, infeasible, converged)


def _labels(run: Run, dataset: Any) -> Names:
    names, codes = run.names(dataset, "label")
    flat = np.concatenate([np.empty(0, np.int32), *(codes[unit] for unit in range(len(codes)))])
    labels: Names = np.array(names, dtype=object)[flat]
    return labels


class Scaling(NamedTuple):
    """Mean and standard deviation of every column of the candidates; 1 where it is constant."""

    means: Floats
    scale: Floats

    def __call__(self, vectors: Matrix) -> Floats:
        """Standardise rows."""
        standardised: Floats = vectors - self.means
        standardised /= self.scale
        return standardised


def _blocks(vectors: Matrix) -> Iterator[Matrix]:
    for start in range(0, len(vectors), BLOCK_ROWS):
        yield vectors[start : start + BLOCK_ROWS]


def _scaling(vectors: Matrix) -> Scaling:
    means: Floats = vectors.mean(axis=0, dtype=np.float64)
    squares = np.zeros(vectors.shape[1])
    for block in _blocks(vectors):  # as a whole it would be a float64 copy
        squares += np.square(block - means).sum(axis=0)
    spread = np.sqrt(squares / max(len(vectors), 1))
    return Scaling(means, np.where(spread > 0, spread, 1.0))


def _accuracy(
    vectors: Matrix, labels: Names, validation: Sequence[Matrix], wanted: Names, scaling: Scaling
) -> tuple[float, bool]:
    """Train the proxy, return its accuracy on the validation rows and whether it was trained to the end."""
    from sklearn.exceptions import ConvergenceWarning  # slow to import, and most jobs do not sweep
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if len(set(labels.tolist())) < 2:  # nothing to learn: it says the only class there is
        return float(np.mean(wanted == labels[0])), True
    model = LogisticRegression(C=REGULARIZATION, tol=TOLERANCE, max_iter=MAX_ITERATIONS)
    with threadpool_limits(1), warnings.catch_warnings():  # sums in BLAS depend on the number of its threads
        warnings.simplefilter("ignore", ConvergenceWarning)  # told by a notice
        model.fit(scaling(vectors), labels)
        said = [model.predict(scaling(block)) for matrix in validation for block in _blocks(matrix)]
        accuracy = float(np.mean(np.concatenate(said) == wanted))
    return accuracy, int(model.n_iter_[0]) < MAX_ITERATIONS
