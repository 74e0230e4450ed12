"""Where a gradient column comes from, as its schema's metadata tells, and whether two can be compared at all.

A gradient of another model, another order of the parameters or another projection is a vector of the same length that
means something else. What made the column can say so in its metadata: on the column ``model``, ``checkpoint``,
``parameter_order``, ``projector``, ``projector_seed``, ``reduction``, ``preconditioning``, ``normalized``; or on the
schema the same with the prefix ``gradient.``, for all columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from tamis.selectors.datasets import Dataset
from tamis.selectors.errors import Invalid
from tamis.selectors.schema.response import Notice

FACTS = (
    "model",
    "checkpoint",
    "parameter_order",
    "projector",
    "projector_seed",
    "reduction",
    "preconditioning",
    "normalized",
)

_PREFIX = "gradient."
_KNOWN = 6
"""Facts named in a sentence; there are not many."""

Origin = dict[tuple[int, str], str]


def origin(dataset: Dataset) -> Origin:
    """Return what the metadata tells of each gradient column, by its place in the manifest and the fact's name.

    Raises
    ------
    Invalid
        When two shards tell different things of one column.
    """
    found: Origin = {}
    first: dict[tuple[int, str], str] = {}
    for shard in dataset.shards:
        if shard.schema is None:
            continue
        general = _texts(shard.schema.metadata)
        for place, column in enumerate(dataset.columns["gradient"].columns_read()):
            own = _texts(shard.schema.field(column).metadata)
            for fact in FACTS:
                value = own.get(fact, general.get(_PREFIX + fact))
                if value is None:
                    continue
                key = (place, fact)
                if found.setdefault(key, value) != value:
                    raise Invalid(
                        f"The shards' gradients do not go together: the {fact} of the column '{column}' is "
                        f"'{found[key]}' in {first[key]} and '{value}' in {shard.file.uri}, as their metadata tell.",
                        pointer=f"{dataset.pointer}/columns/gradient",
                        shard=shard.file.uri,
                        column=column,
                    )
                first.setdefault(key, shard.file.uri)
    return found


def check_origins(candidates: Dataset, targets: Sequence[Dataset], *, ignored: Collection[str] = ()) -> None:
    """Refuse targets whose gradients are not those of the candidates.

    Parameters
    ----------
    candidates, targets
        Datasets with the role gradient.
    ignored : collection of str
        Facts that may differ.

    Raises
    ------
    Invalid
        When both tell a fact and it differs, or one has more checkpoints than the other.
    """
    ours = origin(candidates)
    columns = candidates.columns["gradient"].columns_read()
    for target in targets:
        pointer = f"{target.pointer}/columns/gradient"
        theirs = origin(target)
        others = target.columns["gradient"].columns_read()
        if len(others) != len(columns):
            raise Invalid(
                f"The candidates' gradients are of {len(columns)} checkpoints, the target's of {len(others)}: name "
                "the same, in the same order.",
                pointer=pointer,
            )
        wrong = [
            f"{fact} of '{columns[place]}' is '{ours[place, fact]}', of the target's '{others[place]}' "
            f"'{theirs[place, fact]}'"
            for place, fact in ours
            if fact not in ignored and (place, fact) in theirs and theirs[place, fact] != ours[place, fact]
        ]
        if wrong:
            more = f" and {len(wrong) - _KNOWN} more" if len(wrong) > _KNOWN else ""
            raise Invalid(
                f"The gradients can't be compared, as their metadata tell: {'; '.join(wrong[:_KNOWN])}{more}. Compute "
                "both with the same model and projection.",
                pointer=pointer,
            )
        _check_shares(candidates, target, pointer)


def _check_shares(candidates: Dataset, target: Dataset, pointer: str) -> None:
    ours, theirs = candidates.columns["gradient"].source, target.columns["gradient"].source
    shares = [None if isinstance(source, str) else source.key().get("shares") for source in (ours, theirs)]
    if len(candidates.columns["gradient"].columns_read()) > 1 and shares[0] != shares[1]:
        raise Invalid("The checkpoints of candidates and target must have the same weights.", pointer=pointer)


def notices(candidates: Dataset, targets: Sequence[Dataset]) -> Iterator[Notice]:
    """Return a warning that names the facts which only one side states, so that they can't be compared."""
    ours = {fact for _, fact in origin(candidates)}
    theirs = {fact for target in targets for _, fact in origin(target)}
    if not ours and not theirs:
        yield Notice(
            code="gradients-of-unknown-origin",
            detail="Neither the candidates' nor the target's schema tells which model, checkpoint and projection made "
            "the gradients: that they are the same can't be checked.",
        )
    elif odd := sorted(ours ^ theirs):
        yield Notice(
            code="gradients-of-unknown-origin",
            detail=f"Only one of candidates and target tells in its metadata: {', '.join(odd)}. Whether they agree "
            "there can't be checked.",
        )


def _texts(metadata: dict[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in (metadata or {}).items()}
