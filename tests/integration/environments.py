"""Environments with nothing in them but a wheel of ours and what it needs."""

import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def python_with(wheel_of: Path, needs: Sequence[str], folder: Path) -> Path:
    """The interpreter of a new environment in `folder`, with the distribution made anew.

    What it needs is taken from the lock, so that a test installs nothing that was not checked."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=wheel_of, check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    requirements = folder / "requirements.txt"
    requirements.write_text(_locked(needs))
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, "--require-hashes", "-r", requirements], check=True)
    subprocess.run([*install, "--no-deps", wheel], check=True)
    return python


def _locked(names: Sequence[str]) -> str:
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text())
    return "\n".join(entry for entry in entries if entry.split("==")[0] in names)
