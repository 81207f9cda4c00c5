"""Each query token's largest similarity in each document, in tiles: what MaxSim sums up.

Memory. The similarities (Bq, Bd, Lq, Ld) never exist at once. They are made in tiles of at most
`budget` bytes, each one matmul of query tokens against a chunk of documents, masked in place and
reduced before the next tile overwrites it. What the backward pass keeps is the position of each
maximum, int32 (Bq, Bd, Lq), and it gathers and scatters rows instead of multiplying. Where several
document tokens share the maximum, the first takes the whole gradient (the dense formula through
`Tensor.max(dim)` does the same).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lateint.ragged import Ragged

# A tile that stays in a core's second-level cache makes mask and max nearly free; a GPU wants
# fewer, larger launches.
CPU_BUDGET = 2 * 2**20
GPU_BUDGET = 256 * 2**20


def working_memory(tensor: Tensor, budget: int | None) -> int:
    """Bytes for one tile where `tensor` lies: `budget`, or the default of its device for None.
    ValueError for a budget that is not positive."""
    if budget is None:
        return CPU_BUDGET if tensor.device.type == "cpu" else GPU_BUDGET
    if budget <= 0:
        raise ValueError(f"budget is bytes of working memory and must be positive, got {budget}")
    return budget


def best_matches(
    queries: Tensor, documents: Tensor, mask: Tensor | None, budget: int | None
) -> Tensor:
    """Each query token's best similarity in each document of its group.

    queries (G, R, D), documents (G, n, L, D), mask (G, n, L) -> (G, R, n). One group whose rows are
    the tokens of all queries is "all pairs"; B groups of one query are "pairs". A document without
    a token gives -inf and no gradient."""
    if documents.shape[2] == 0:
        mask = torch.zeros(documents.shape[:3], dtype=torch.bool, device=documents.device)
    if wants_gradient(queries, documents):
        best: Tensor = BestMatches.apply(queries, documents, mask, None, budget)
    else:
        best, _ = maxima_padded(queries, documents, mask, budget, positions=False)
    if mask is None:
        return best
    return best.masked_fill(~mask.any(-1)[:, None], -torch.inf)


class BestMatches(torch.autograd.Function):
    """`maxima_padded` with a gradient that needs only the positions of the maxima; with `offsets`, of
    one group whose documents (N, D) lie end to end, `maxima_ragged`."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        documents: Tensor,
        mask: Tensor | None,
        offsets: Tensor | None,
        budget: int | None,
    ) -> Tensor:
        if offsets is None:
            best, position = maxima_padded(queries, documents, mask, budget, positions=True)
            empty = None if mask is None else ~mask.any(-1)  # (G, n)
            first = torch.arange(documents.shape[0] * documents.shape[1]) * documents.shape[2]
        else:
            ragged = Ragged(documents, offsets)
            best, position = maxima_ragged(queries[0], ragged, budget, positions=True)
            best, position = best[None], None if position is None else position[None]
            empty = (ragged.lengths == 0)[None].to(best.device)
            # an empty document at the end begins after the last row
            first = offsets[:-1].clamp(max=max(0, len(documents) - 1))
        # the first row of each document, where all rows of `documents` lie end to end
        first = first.view(best.shape[0], 1, best.shape[2]).to(best.device)
        ctx.save_for_backward(queries, documents, position, empty, first)
        ctx.budget = budget
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, documents, position, empty, first = ctx.saved_tensors
        dtype = gradient.dtype
        groups, _, count = position.shape
        dim = queries.shape[2]
        rows = documents.reshape(-1, dim)
        for_queries = for_documents = None
        if ctx.needs_input_grad[0]:
            for_queries = torch.zeros_like(queries, dtype=dtype)
        if ctx.needs_input_grad[1]:
            for_documents = torch.zeros_like(rows, dtype=dtype)
        # found, share and their sums are alive together: an eighth of the budget for each
        size = working_memory(queries, ctx.budget) // dtype.itemsize // 8
        nothing = 0 in (*position.shape, len(rows))
        tiles = () if nothing else _tiles(groups, queries.shape[1], count, dim, size)
        for g, r, d in tiles:
            weight = gradient[g, r, d, None]  # (g, r, d, 1)
            matched = (first[g, :, d] + position[g, r, d]).flatten()
            if for_queries is not None:
                found = rows.index_select(0, matched).to(dtype).view(*weight.shape[:3], dim)
                if empty is not None:
                    found.masked_fill_(empty[g, None, d, None], 0)
                for_queries[g, r] += found.mul_(weight).sum(2)
            if for_documents is not None:
                share = queries[g, r, None].to(dtype) * weight  # (g, r, d, D)
                for_documents.index_add_(0, matched, share.flatten(0, 2))
        if for_queries is not None:
            for_queries = for_queries.to(queries.dtype)
        if for_documents is not None:
            for_documents = for_documents.to(documents.dtype).view(documents.shape)
        return for_queries, for_documents, None, None, None


def maxima_padded(
    queries: Tensor, documents: Tensor, mask: Tensor | None, budget: int | None, *, positions: bool
) -> tuple[Tensor, Tensor | None]:
    """Maxima over each document's tokens, tile by tile; with `positions`, where they stand.

    Returns (G, R, n) maxima and (G, R, n) int32 positions; a document without a token gives the
    dtype's minimum at some position."""
    groups, count, length, dim = documents.shape
    n_rows = queries.shape[1]
    dtype = _accumulator(queries, documents)
    best = queries.new_empty((groups, n_rows, count), dtype=dtype)
    position = torch.empty_like(best, dtype=torch.int32) if positions else None
    if 0 in (groups, n_rows, count, length):
        best.fill_(torch.finfo(dtype).min)
        return best, None if position is None else position.zero_()
    extents = None if mask is None else _extents(mask)
    size = working_memory(queries, budget) // dtype.itemsize
    buffer: Tensor | None = None
    # `floor`: a copy of a tile's documents (cast, or cut to the longest) stays in size too.
    for g, r, d in _tiles(groups, n_rows, count, length, size, floor=dim):
        longest, masked = length, False
        if extents is not None:
            extent, dense = extents[0][g, d], extents[1][g, d]
            longest = max(1, int(extent.max()))
            masked = not bool((dense & (extent == longest)).all())
        left = queries[g, r].to(dtype)  # (g, r, D)
        right = documents[g, d, :longest].to(dtype).flatten(1, 2)  # (g, d * l, D)
        shape = (len(left), left.shape[1], right.shape[1])
        need = shape[0] * shape[1] * shape[2]
        if buffer is None or buffer.numel() < need:
            buffer = left.new_empty(need)
        flat = buffer[:need].view(shape)
        torch.bmm(left, right.mT, out=flat)  # autocast leaves `out=` alone
        if masked and mask is not None:
            _mask_(flat, mask[g, d, :longest].flatten(1))
        similarity = flat.unflatten(2, (-1, longest))  # (g, r, d, l)
        if position is None:
            best[g, r, d] = similarity.amax(-1)
        else:
            best[g, r, d], position[g, r, d] = similarity.max(-1)
    return best, position


def maxima_ragged(
    rows: Tensor, documents: Ragged, budget: int | None, *, positions: bool
) -> tuple[Tensor, Tensor | None]:
    """(Nq, D) query tokens against Ragged documents: (Nq, Bd) maxima, -inf for a document without
    a token; with `positions`, where in their document they stand, int32.

    One matmul takes the tokens of as many neighbouring documents as the budget allows, where they
    lie: nothing is padded, sorted or masked."""
    dtype = _accumulator(rows, documents.values)
    rows = rows.to(dtype)
    best = rows.new_full((len(rows), len(documents)), -torch.inf)
    position = torch.zeros_like(best, dtype=torch.int32) if positions else None
    if 0 in best.shape:
        return best, position
    size = working_memory(rows, budget) // dtype.itemsize
    offsets = documents.offsets.tolist()
    with torch.autocast(rows.device.type, enabled=False):
        for start, stop in _windows(offsets, max(1, size // max(rows.shape))):
            tokens = documents.values[offsets[start] : offsets[stop]].to(dtype)
            step = max(1, size // max(1, len(tokens)))  # rows; all unless one document is too long
            for k in range(0, len(rows), step):
                similarity = rows[k : k + step] @ tokens.T  # (r, window tokens)
                for i in range(start, stop):
                    first, last = offsets[i] - offsets[start], offsets[i + 1] - offsets[start]
                    if first == last:
                        continue
                    if position is None:
                        best[k : k + step, i] = similarity[:, first:last].amax(1)
                    else:
                        found = similarity[:, first:last].max(1)
                        best[k : k + step, i], position[k : k + step, i] = found
    return best, position


def _windows(offsets: list[int], tokens: int) -> Iterator[tuple[int, int]]:
    """Cuts documents into runs of at most `tokens` tokens, or of one document."""
    start = 0
    for i in range(1, len(offsets) - 1):
        if offsets[i + 1] - offsets[start] > tokens:
            yield start, i
            start = i
    yield start, len(offsets) - 1


def _tiles(
    groups: int, rows: int, count: int, width: int, size: int, floor: int = 1
) -> Iterator[tuple[slice, slice, slice]]:
    """Cuts (groups, rows, count) into blocks of at most `size` numbers, `width` of them for each
    row and document. Rows count as `floor` at least. Whole rows come first, then documents, then
    groups, because one matmul shares the rows."""
    r = min(rows, max(1, size // width))
    d = min(count, max(1, size // (max(r, floor) * width)))
    whole = r == rows and d == count
    g = min(groups, max(1, size // (max(r, floor) * d * width))) if whole else 1
    for i in range(0, groups, g):
        for j in range(0, count, d):
            for k in range(0, rows, r):
                yield slice(i, i + g), slice(k, k + r), slice(j, j + d)


def _extents(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(G, n) on the CPU: one past the last real token of each document, and whether all before it
    are real too (so that a tile cut there needs no mask)."""
    trailing = mask.flip(-1).view(torch.uint8).argmax(-1)
    extent = torch.where(mask.any(-1), mask.shape[-1] - trailing, 0)
    return extent.cpu(), (mask.sum(-1) == extent).cpu()


def _mask_(similarity: Tensor, mask: Tensor) -> None:
    """The mask rule, in place: similarity (G, R, N), mask (G, N), masked columns to the minimum."""
    lowest = torch.finfo(similarity.dtype).min
    if len(mask) == 1 and mask.device.type == "cpu":
        # touches the masked columns only: a broadcast masked_fill_ costs half a matmul here
        similarity[0].index_fill_(1, (~mask[0]).nonzero().squeeze(1), lowest)
    else:
        similarity.masked_fill_(~mask[:, None], lowest)


def _accumulator(*tensors: Tensor) -> torch.dtype:
    """The dtype that products are summed in: float64 where an input has it, else float32."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if double else torch.float32


def wants_gradient(queries: Tensor, documents: Tensor) -> bool:
    return torch.is_grad_enabled() and (queries.requires_grad or documents.requires_grad)
