"""Virtual environments of the peers that Tamis is measured against: none of them is a dependency of the project."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Unavailable(Exception):
    """A peer is not installed, cannot be, or failed."""


@dataclass(frozen=True)
class Peer:
    """Packages, in an environment that all legs with the same packages share."""

    packages: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Its place, named for the first package and for all of them."""
        digest = hashlib.sha256("\n".join(self.packages).encode()).hexdigest()[:8]
        return ROOT / ".venv" / "peers" / f"{self.packages[0].partition('=')[0]}-{digest}"

    def python(self, *, build: bool) -> Path:
        """Return its interpreter, built if it is not there and may be.

        Raises
        ------
        Unavailable
            It is not there, and may not or cannot be built.
        """
        python, installed = self.folder / "bin" / "python", self.folder / "installed"
        if not installed.exists():
            if not build:
                raise Unavailable(f"{', '.join(self.packages)} not installed")
            print(f"Installing {', '.join(self.packages)} into {self.folder.relative_to(ROOT)}", file=sys.stderr)
            venv.create(self.folder, with_pip=True, clear=True)
            command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *self.packages]
            if subprocess.run(command, stdout=sys.stderr).returncode != 0:
                raise Unavailable(f"pip could not install {', '.join(self.packages)}")
            installed.touch()
        return python


def peer(*packages: str) -> Peer:
    """Name a peer by the packages, pinned, that its legs need; the first one is the peer itself."""
    return Peer(packages)
