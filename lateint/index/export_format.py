"""What an export is made of (export.py): names, limits and checksums, for writing and reading alike."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

FORMAT, VERSION = "lateint-export", 1
FACTS, DOCUMENTS = "export.json", "documents.jsonl"
CHUNK = 1 << 20


def beside(target: Path) -> Path:
    """A name in the same folder, so that renaming is atomic."""
    return target.absolute().with_name(f".{target.name}.{os.getpid()}.new")


def digest(path: Path) -> str:
    state = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            state.update(block)
    return state.hexdigest()


def facts_digest(facts: dict[str, Any]) -> str:
    """Of everything in export.json but the checksum itself."""
    plain = {name: value for name, value in facts.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
