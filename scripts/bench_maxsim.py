"""A training step through MaxSim against the dense formula: quality, time, peak memory.

    python scripts/bench_maxsim.py [--queries 32 --documents 32 --query-tokens 32 ...]

The physics. B queries of Lq tokens against B documents of Ld tokens of width D are 2 B B Lq Ld D
flops forward (8.6 Gflop at 32, 32, 1024, 128). The dense formula holds the similarities, 4 B B Lq
Ld bytes (128 MiB), several times over: the products, the masked copy, their gradients; and
multiplies twice more backward. Ours holds a tile (2 MiB), the positions of the maxima (128 KiB)
and the gradients of the inputs, which both must make (16.5 MiB: the floor of ours), and gathers
backward. Both run the same step: masked documents of uneven length, in-batch cross-entropy,
gradients of queries and documents.

Each side runs in a process of its own on one thread. Memory is the growth of the peak resident
size over the resident size with inputs made and libraries warm. The peak is VmHWM where there is
/proc, since Linux hands ru_maxrss down from the parent process (a large parent would hide
everything); else ru_maxrss. Prints one JSON line and appends it to
scripts/results/bench_maxsim.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDES = ("ours", "dense")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--query-tokens", type=int, default=32)
    parser.add_argument("--document-tokens", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5, help="timed steps; the fastest counts")
    parser.add_argument("--no-record", action="store_true", help="print only")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options)))
        return
    line = compare(sys.argv[1:])
    if not options.no_record:
        from results import record

        line = record("bench_maxsim", **line)
    print(json.dumps(line))


def compare(arguments: list[str]) -> dict[str, Any]:
    """Both sides, each in its own process, and what they say of each other."""
    import numpy as np
    from safetensors.numpy import load_file

    sides: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            out = str(Path(folder) / f"{side}.safetensors")
            command = [sys.executable, __file__, *arguments, "--side", side, "--out", out]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            sides[side] = json.loads(done.stdout)
        ours, dense = (load_file(str(Path(folder) / f"{side}.safetensors")) for side in SIDES)
    difference = {
        name: float(np.abs(ours[name] - dense[name]).max())
        for name in ("scores", "query_gradient", "document_gradient")
    }
    line = {
        "shape": sides["ours"].pop("shape"),
        "max_abs_difference": difference,
        "largest_score": float(np.abs(dense["scores"]).max()),
        "ours": sides["ours"],
        "dense": {k: v for k, v in sides["dense"].items() if k != "shape"},
    }
    for name, number in (("memory_ratio", "peak_mib"), ("time_ratio", "step_ms")):
        if number in sides["ours"]:  # --repeat 0 times nothing
            line[name] = round(sides["dense"][number] / sides["ours"][number], 2)
    return line


def measure(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """One side, in this process: the peak of the first full step, then the time of some more."""
    import torch

    from lateint.maxsim import maxsim

    torch.set_num_threads(1)
    formula = maxsim if side == "ours" else dense_maxsim
    # libraries, the autograd thread and the allocator are set up by a step of another size
    step(formula, *inputs(2, 3, 4, 5, options.dim))
    shape = {
        "queries": options.queries,
        "documents": options.documents,
        "query_tokens": options.query_tokens,
        "document_tokens": options.document_tokens,
        "dim": options.dim,
    }
    given = inputs(*shape.values())
    reset_peak()
    before = resident_mib()
    scores = step(formula, *given)
    peak = peak_mib() - before
    if options.out:
        save(options.out, scores, given[0].grad, given[1].grad)
    times = []
    for _ in range(options.repeat):
        given[0].grad = given[1].grad = None
        start = time.perf_counter()
        step(formula, *given)
        times.append(time.perf_counter() - start)
    fastest = {"step_ms": round(1000 * min(times), 2)} if times else {}
    return {"shape": shape, "peak_mib": round(peak, 2), **fastest}


def inputs(queries: int, documents: int, lq: int, ld: int, dim: int) -> tuple[Any, Any, Any]:
    """Unit rows and a mask of documents between half and full length, the same on each call."""
    import torch

    make = torch.Generator().manual_seed(7)
    rows = [
        torch.nn.functional.normalize(torch.randn(*shape, dim, generator=make), dim=-1)
        for shape in ((queries, lq), (documents, ld))
    ]
    lengths = torch.randint(ld // 2, ld + 1, (documents, 1), generator=make)
    lengths[0] = ld
    return rows[0].requires_grad_(), rows[1].requires_grad_(), torch.arange(ld) < lengths


def step(formula: Callable[..., Any], queries: Any, documents: Any, mask: Any) -> Any:
    """Forward and backward of an in-batch loss; returns the scores."""
    import torch

    scores = formula(queries, documents, None, mask)  # (Bq, Bd)
    target = torch.arange(len(queries)) % len(documents)
    torch.nn.functional.cross_entropy(scores, target).backward()
    return scores.detach()


def dense_maxsim(queries: Any, documents: Any, _: Any, mask: Any) -> Any:
    """The formula as it is written, through (Bq, Bd, Lq, Ld)."""
    import torch

    similarity = torch.einsum("qid,kjd->qkij", queries, documents)
    lowest = torch.finfo(similarity.dtype).min
    return similarity.masked_fill(~mask[None, :, None], lowest).max(-1).values.sum(-1)


def save(path: str, scores: Any, query_gradient: Any, document_gradient: Any) -> None:
    from safetensors.torch import save_file

    tensors = {
        "scores": scores,
        "query_gradient": query_gradient,
        "document_gradient": document_gradient,
    }
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)


def reset_peak() -> None:
    """Sets this process's peak back to what it holds now (Linux; elsewhere nothing happens, and a
    peak left from starting up makes the numbers larger, never smaller)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    status = _proc_status()
    if "VmHWM" in status:
        return status["VmHWM"]
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def resident_mib() -> float:
    return _proc_status().get("VmRSS") or peak_mib()


def _proc_status() -> dict[str, float]:
    """The kB lines of /proc/self/status in MiB; empty where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) / 1024 for name, value in pairs}


if __name__ == "__main__":
    main()
