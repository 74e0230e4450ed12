"""Environments of their own for what Tamis is measured against: nothing of it is a dependency of the project."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def peer_python(name: str, *packages: str) -> Path:
    """Return the interpreter of the environment `name`, made with `packages` when it is not there."""
    folder = ROOT / ".venv" / name
    python, installed = folder / "bin" / "python", folder / "installed"
    if not installed.exists():
        print(f"Installing {', '.join(packages)} into {folder.relative_to(ROOT)}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        installed.touch()
    return python
