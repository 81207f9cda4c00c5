"""How bench_encoding.py and one encoder's process talk: lines of JSON on its standard streams, so that
each library can live in an environment of its own. Needs numpy only.

    python encode_<side>.py FOLDER VARIANT THREADS

FOLDER holds checkpoint/ (as PyLate saves it, written by `encode_pylate.py FOLDER make THREADS`) and
texts.json: {"documents": [...], "queries": [...]}. An order {"role", "first", "last", "batch"} encodes
those texts and answers with wall and CPU seconds (of all threads), tokens kept and a digest's worth of
shapes; with "save": name the token matrices go to FOLDER/name.npz too (not timed).
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROLES = {"query": "queries", "document": "documents"}


class Side:
    """What the file of one library fills in."""

    DISTRIBUTION = ""
    BATCHES: tuple[int, ...] = (8, 16, 32, 64)  # sizes that are tried; the fastest is measured
    DEFAULT = 32

    def __init__(self, folder: Path, variant: str) -> None:
        self.folder, self.variant = folder, variant

    def encode(self, texts: list[str], role: str, batch: int) -> Any:
        """What the library returns for these texts, as a user calls it; timed."""
        raise NotImplementedError

    def matrices(self, encoded: Any) -> list[np.ndarray[Any, Any]]:
        """The same as one float32 matrix a text, in order; not timed."""
        return [np.asarray(matrix, np.float32) for matrix in encoded]


def run(kind: type[Side]) -> None:
    """The main program of a side's file."""
    folder, variant, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    import torch

    torch.set_num_threads(threads)
    side = kind(folder, variant)
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    versions = {name: version(name) for name in (side.DISTRIBUTION, "torch", "transformers")}
    _answer(answers, {"versions": versions, "batches": list(side.BATCHES), "default": side.DEFAULT})
    for line in sys.stdin:
        try:
            order = json.loads(line)
            chosen = texts[ROLES[order["role"]]][order["first"] : order["last"]]
            wall, cpu = time.perf_counter(), time.process_time()
            encoded = side.encode(chosen, order["role"], order["batch"])
            spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
            matrices = side.matrices(encoded)
            if "save" in order:
                ends = np.cumsum([0, *map(len, matrices)])
                np.savez(folder / order["save"], values=np.concatenate(matrices), offsets=ends)
            _answer(answers, {**spent, "tokens": sum(map(len, matrices))})
        except Exception as error:
            traceback.print_exc()
            _answer(answers, {"error": f"{type(error).__name__}: {error}"[:300]})


def _answer(answers: Any, line: dict[str, Any]) -> None:
    answers.write(json.dumps(line) + "\n")
    answers.flush()
