"""A step over several processes, as if one process had the joint batch.

Each process encodes its own queries and documents. `joint` gives it the documents of all of them,
positives and hard negatives, with gradients that find their way back: a document's gradient is the
sum of what every process's loss says about it. With one process, or without a process group,
everything is handed back as it came. Knows `torch.distributed`, Ragged and Targets; no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lateint.losses import Targets
from lateint.losses.scores import ABSENT
from lateint.ragged import Ragged


@dataclass(frozen=True)
class Joint:
    """A step's vectors after the gather.

    queries, documents: head -> Ragged. targets: of these queries, with columns of these documents.
    weight: what this process's loss (a mean over its queries) counts in the mean over processes
        that DistributedDataParallel takes: multiply the loss by it. 1.0 where all processes have
        as many queries.
    """

    queries: dict[str, Ragged]
    documents: dict[str, Ragged]
    targets: Targets
    weight: float


def joint(
    queries: Mapping[str, Ragged],
    documents: Mapping[str, Ragged],
    targets: Targets,
    *,
    all_queries: bool = False,
) -> Joint:
    """This process's queries against the documents of all processes.

    The mean of `weight * loss` over processes is the loss of one process that has all queries and
    documents, and the mean of its gradients over processes (which DistributedDataParallel takes)
    is that process's gradient. Every process of the group must call this, with the same heads.

    Args:
        queries, documents: head -> Ragged of this process's Q queries and N documents; all on one
            device that the group's backend can send from.
        targets: this process's, columns numbered 0..N-1.
        all_queries: gather the queries too, and let every process compute the whole joint loss;
            for losses that compare documents over queries (`Loss.both_ways`), more work for each.

    Documents come in the order of the processes' ranks, and so do queries.
    """
    if not spans_processes():
        return Joint(dict(queries), dict(documents), targets, 1.0)
    device = targets.positives.device
    found = {head: gather(documents[head]) for head in documents}
    asked = dict(queries)
    counts = _counts([len(targets.positives), _items(documents)], device)  # (R, 2)
    rank = dist.get_rank()
    first, total = int(counts[:rank, 1].sum()), int(counts[:, 1].sum())
    moved = _moved(targets, first, total)
    own, everyone = int(counts[rank, 0]), int(counts[:, 0].sum())
    if all_queries:
        asked = {head: gather(queries[head]) for head in queries}
        return Joint(asked, found, _gather_targets(moved), 1.0)
    return Joint(asked, found, moved, own * len(counts) / everyone)


def gather(ragged: Ragged) -> Ragged:
    """The items of all processes, in the order of their ranks, on every process.

    The gradient of this process's rows is the sum of the gradients that the processes have for
    them. Item and row counts may differ. Every process of the group must call this, and the
    backward pass must reach it on every process. Without a process group: `ragged` itself.
    """
    if not spans_processes():
        return ragged
    lengths = gather_rows(ragged.lengths.to(ragged.device)).cpu()
    values = gather_rows(ragged.values)
    return Ragged(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (n, ...) of all processes end to end; n may differ. Gradients as in `gather`."""
    if not spans_processes():
        return rows
    if rows.is_floating_point() and torch.is_grad_enabled():
        # also where this process's rows want no gradient: others' may, and backward is a
        # meeting that all must come to
        result: Tensor = _Gather.apply(
            rows if rows.requires_grad else rows.detach().requires_grad_()
        )
        return result
    return _all_rows(rows)[0]


def spans_processes() -> bool:
    """Whether there is a process group with more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        everything, counts = _all_rows(rows)
        rank = dist.get_rank()
        ctx.first, ctx.count = sum(counts[:rank]), counts[rank]
        return everything

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # gloo has no reduce_scatter of uneven parts: the sum of all, of which one part is ours
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=_group())
        return total[ctx.first : ctx.first + ctx.count]


def _all_rows(rows: Tensor) -> tuple[Tensor, list[int]]:
    """Every process's rows end to end, and how many each has."""
    counts = _counts([len(rows)], rows.device)[:, 0].tolist()
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=_group())
    return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)]), counts


_GROUPS: dict[Any, Any] = {}  # the default group -> the one made for gathers


def _group() -> Any:
    """A process group for gathers alone. DistributedDataParallel sends gradients over the default
    one as soon as a bucket of them is there, which is earlier in a process whose part of a step
    has no item of some encoder; and the collectives of one group must come in one order."""
    default = dist.group.WORLD
    if default not in _GROUPS:
        _GROUPS.clear()
        _GROUPS[default] = dist.new_group()
    return _GROUPS[default]


def _counts(own: list[int], device: torch.device) -> Tensor:
    """(R, len(own)) int64 on the CPU: each process's numbers."""
    mine = torch.tensor(own, dtype=torch.int64, device=device)
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine, group=_group())
    return torch.stack(parts).cpu()


def _items(documents: Mapping[str, Ragged]) -> int:
    counts = {head: len(vectors) for head, vectors in documents.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"heads must have vectors of the same documents, got counts {counts}")
    return next(iter(counts.values()))


def _moved(targets: Targets, first: int, total: int) -> Targets:
    """The same targets where this process's documents stand at `first` of `total` columns."""
    ids, excluded = targets.candidates, targets.excluded
    if ids is not None:
        ids = torch.where(ids == ABSENT, ids, ids + first)
    if excluded is not None:
        wide = excluded.new_zeros(len(excluded), total)
        wide[:, first : first + excluded.shape[1]] = excluded
        excluded = wide
    return Targets(targets.positives + first, ids, targets.teacher, excluded)


def _gather_targets(targets: Targets) -> Targets:
    """The targets of all processes' queries; those with fewer candidates are filled with -1."""
    device = targets.positives.device
    ids, teacher, excluded = targets.candidates, targets.teacher, targets.excluded
    has = [int(part is not None) for part in (ids, teacher, excluded)]
    widths = _counts([*has, 0 if ids is None else ids.shape[1]], device)
    if bool((widths[:, :3] != widths[0, :3]).any()):
        raise ValueError(
            "some processes have candidates, teacher scores or exclusions and others none: "
            "every process must give the same kinds of targets"
        )
    wide = int(widths[:, 3].max())
    with torch.no_grad():
        if ids is not None:
            pad = (0, wide - ids.shape[1])
            ids = gather_rows(torch.nn.functional.pad(ids, pad, value=ABSENT))
            if teacher is not None:
                filled = torch.nn.functional.pad(teacher, pad, value=torch.nan)
                teacher = gather_rows(filled)
        if excluded is not None:
            excluded = gather_rows(excluded.byte()).bool()
    return Targets(gather_rows(targets.positives), ids, teacher, excluded)
