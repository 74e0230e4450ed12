"""The package as a whole: what importing it costs, and its tables."""

import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from tamis import native
from tamis.native.text import unicode_tables


def test_naming_the_cache_loads_neither_numba_nor_numpy() -> None:
    script = (
        "import sys, tamis.native as native; print(native.source_digest()); "
        "sys.exit(any(name in sys.modules for name in ('numba', 'numpy', 'pyarrow')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == native.source_digest()
    assert re.fullmatch(r"[0-9a-f]{16}", done.stdout.strip())


def test_warm_up_runs() -> None:
    native.warmup()


@pytest.mark.parametrize("engine", ["re", "regex"])
def test_tables_say_what_the_engine_says(engine: str) -> None:
    tables = unicode_tables.character_tables(engine)
    module = __import__(engine)
    code_points = np.arange(unicode_tables.CODE_POINTS)
    page = tables.pages[code_points >> unicode_tables.PAGE_BITS].astype(np.int64)
    entries = tables.entries[page << unicode_tables.PAGE_BITS | code_points & 127].astype(np.int64)
    random = np.random.default_rng(0)
    for c in [*range(0x3000), *random.integers(0x3000, 0x110000, 5000).tolist()]:
        if c in (unicode_tables.CAPITAL_I_WITH_DOT, unicode_tables.CAPITAL_SIGMA):
            continue
        lower = chr(c).lower()
        assert chr((c + entries[c]) & unicode_tables.LOWER_MASK) == lower
        assert bool(entries[c] & unicode_tables.CLASS_WORD) == bool(module.match(r"\w", lower))
        assert bool(entries[c] & unicode_tables.CLASS_SPACE) == bool(module.match(r"\s", lower))


def test_versions() -> None:
    assert unicode_tables.unicode_version() == unicodedata.unidata_version == unicode_tables.engine_version("re")
    assert "regex" in unicode_tables.engine_version("regex")
    with pytest.raises(ValueError, match="unknown engine"):
        unicode_tables.character_tables("pcre")
