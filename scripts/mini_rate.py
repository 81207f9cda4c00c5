"""From a folder to a committed index: pages a second and bytes a page: a section of `bench_mini.py`.

rate: the installation guide in English, as a user has it: rendered, read, indexed by `Collection.add`,
with the threads that torch has here. bytes: all pages of `bench_pages.py`, as read, in an index with the
defaults of `Index` and of the model that ships (so many pages are compressed, as the guide alone is not);
of what its folder holds, divided by pages.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import page_data
import torch
from development import english_read
from mini_pages import GUIDE

import lateint
from lateint.model import PAGE_MERGE
from lateint.pooling import merged
from lateint.ragged import Ragged
from modalities import pdf
from modalities.layout import DIM, geometry
from modalities.page import PageText


def measure(data: Path) -> dict[str, Any]:
    """All numbers of this section, as JSON values."""
    return {"rate": rate(data), "bytes": kept(data)}


def rate(data: Path) -> dict[str, Any]:
    """Of `Collection.add` on a PDF."""
    page_data.unpack(data / "pkg" / "installation-guide-amd64")
    path = data / "pkg" / GUIDE / "en" / "install.en.pdf"
    pages = pdf.page_count(path)
    with tempfile.TemporaryDirectory() as name:
        began, spent = time.perf_counter(), time.process_time()
        with lateint.Collection.create(Path(name) / "rate.lateint") as collection:
            collection.add(path)
        took, cpu = time.perf_counter() - began, time.process_time() - spent
    return {
        "pages": pages,
        "threads": torch.get_num_threads(),
        "pages_a_second": round(pages / took, 2),
        "cpu_seconds_a_page": round(cpu / pages, 3),
    }


@torch.inference_mode()
def kept(data: Path) -> dict[str, Any]:
    """Of an index of the development pages."""
    layout = PageText.shipped().layout
    rows = []
    for vectors, boxes in english_read(data)[1]:
        mask = torch.ones(1, len(vectors), dtype=torch.bool)
        seen = layout(vectors[None].float(), geometry(boxes)[None], mask).tokens[0]
        rows.append(merged(Ragged.from_list([seen]), PAGE_MERGE)[0].values)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "pages.index"
        names = [str(i) for i in range(len(rows))]
        with lateint.Index.build(folder, [(names, Ragged.from_list(rows))], DIM) as index:
            info = index.info()
        taken = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {
        "pages": len(rows),
        "kind": info.kind,
        "nbits": info.nbits,
        "tokens_a_page": round(info.tokens / len(rows), 1),
        "bytes_a_page": round(taken / len(rows)),
    }
