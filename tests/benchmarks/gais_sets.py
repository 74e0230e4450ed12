"""Sets for ``evidence_gais.py``, built by the recipes of ``../shared/corpora``; run by the peers' own interpreter.

``gais_sets.py RECIPES``; the recipes read DATA_OUT and DATA_CACHE. Two of the design's twelve sets are not among the
recipes' own: R's modeldata has them.
"""

from __future__ import annotations

import sys


def main(recipes: str) -> None:
    """Build all sets."""
    sys.path.insert(0, recipes)
    import load_tabular  # type: ignore[import-not-found, unused-ignore]

    for name in ("sklearn_sets", "keel", "mlbench", "kernlab"):
        load_tabular.SETS[name]()
    for item, unused in (("hpc_data", ["rownames"]), ("cells", ["rownames", "case"])):
        frame = load_tabular.rdatasets("modeldata", item)
        frame = frame.drop(columns=[column for column in unused if column in frame])
        features, names = load_tabular.encode(frame.drop(columns=["class"]))
        load_tabular.tabular(f"modeldata_{item}", features, frame["class"], names)


if __name__ == "__main__":
    main(sys.argv[1])
