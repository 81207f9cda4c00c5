"""From a folder to a committed index: pages a second and bytes a page: a section of `bench_mini.py`.

The installation guide in English, as a user has it: rendered, read, indexed by `Collection.add`, with
the threads that torch has here. Bytes: of the index alone, all that its folder holds; page pictures and
the ledger of words' boxes, which a collection keeps beside it, are told apart.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import page_data
import torch
from mini_pages import GUIDE

import lateint
from modalities import pdf


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure(data: Path) -> dict[str, Any]:
    """All numbers of this section, as JSON values."""
    page_data.unpack(data / "pkg" / "installation-guide-amd64")
    path = data / "pkg" / GUIDE / "en" / "install.en.pdf"
    pages = pdf.page_count(path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "rate.lateint"
        began, spent = time.perf_counter(), time.process_time()
        with lateint.Collection.create(folder) as collection:
            collection.add(path)
        took, cpu = time.perf_counter() - began, time.process_time() - spent
        index = next(f for f in folder.iterdir() if f.is_dir() and list(f.glob("*.sqlite")))
        with lateint.Index.open(index) as opened:
            info = opened.info()
        return {
            "pages": pages,
            "threads": torch.get_num_threads(),
            "pages_a_second": round(pages / took, 2),
            "cpu_seconds_a_page": round(cpu / pages, 3),
            "tokens_a_page": round(info.tokens / pages, 1),
            "nbits": info.nbits,
            "index_bytes_a_page": round(size(index) / pages),
            "collection_bytes_a_page": round(size(folder) / pages),
        }
