"""Batches of any size in bounded memory: encode in chunks, keep vectors only, encode again later.

GradCache (Gao et al. 2021, arXiv:2101.06983): a contrastive loss needs the vectors of the whole
batch at once, but the activations of no more than one chunk. So the batch is encoded in chunks that
keep nothing but their vectors; the loss gives each vector its gradient; then each chunk is encoded
again, this time with its activations, and takes its part of the gradient backwards.

    vectors = cached(encode, costs, budget_tokens=8192)   # encode(places) -> Ragged, or by head
    loss = objective(queries, vectors, targets)
    loss.backward()                                       # encodes again, a chunk at a time

Here a chunk is a stretch of the autograd graph that is computed again when the backward pass
reaches it (`torch.utils.checkpoint` around the encoder as a whole). The result is an ordinary
tensor with an ordinary gradient: it may meet any loss, gradient scaling, accumulation,
`DistributedDataParallel` and the gather of `lateint.distributed`, as if nothing was cached. The
second encoding starts from the state of the random generators that the first one started from, and
under the same autocast, so dropout drops the same and the gradients are those of the uncached step
with the same chunks, to rounding.

Costs one more forward pass of the encoder. Layers that change when they are run (the running means
of a batch norm in training mode) see each chunk twice; and a batch norm knows its chunk only, so
freeze it in eval mode. This module knows no model and no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from lateint.batching import batches
from lateint.ragged import Ragged

Chunk = TypeVar("Chunk")
Vectors = Ragged | dict[str, Ragged]


def cached(
    encode: Callable[[Sequence[int]], Ragged | Mapping[str, Ragged]],
    cost: Sequence[int],
    budget_tokens: int | None,
    *,
    device: torch.device | str = "cpu",
) -> Any:
    """Vectors of n items, in their order, through chunks of similar length.

    Args:
        encode: the places of a chunk (numbers below n, the longest item first) -> the vectors of
            those items in that order, as one Ragged or as Ragged by head; of any modality. Must do
            the same when called again.
        cost: tokens of each of the n items, as `Encoder.cost` estimates them.
        budget_tokens: most padded tokens of a chunk. Smaller: less memory, more and smaller passes.
            None: no cache, one pass over all items in their order.
        device: where the encoder computes: its random generator is played back too.

    Returns:
        What `encode` returns, for all items. n = 0 calls `encode([])` once.
    """
    if budget_tokens is None or not cost:
        return _plain(encode(range(len(cost))))
    plan = list(batches(cost, budget_tokens))
    parts = cached_chunks(encode, plan, device=device)
    order = torch.tensor([place for chunk in plan for place in chunk])
    back = order.argsort()
    first = parts[0]
    if isinstance(first, Ragged):
        return Ragged.concat(parts).take(back)
    return {head: Ragged.concat([part[head] for part in parts]).take(back) for head in first}


def cached_chunks(
    encode: Callable[[Chunk], Ragged | Mapping[str, Ragged]],
    chunks: Sequence[Chunk],
    *,
    device: torch.device | str = "cpu",
) -> list[Any]:
    """`encode` of each chunk, keeping the vectors and none of the activations.

    Args:
        encode, device: as in `cached`.
        chunks: anything `encode` takes; kept until the backward pass, so on the CPU and small.

    Returns:
        The result of each, in order. Without gradients (`torch.no_grad`) simply that.
    """
    if not torch.is_grad_enabled():
        return [_plain(encode(chunk)) for chunk in chunks]
    # checkpoint plays back the generators of the devices that it sees tensors of; a chunk on the
    # CPU would hide that its encoder draws on a GPU
    where = torch.empty(0, device=device)

    def run(chunk: Chunk, _: torch.Tensor) -> Vectors:
        return _plain(encode(chunk))

    return [checkpoint(run, chunk, where, use_reentrant=False) for chunk in chunks]


def _plain(vectors: Ragged | Mapping[str, Ragged]) -> Vectors:
    return vectors if isinstance(vectors, Ragged) else dict(vectors)
