"""Items into batches under a token budget. Knows costs, not what they are the costs of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def batches(cost: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Item numbers in batches whose longest item times their number stays within the budget.

    The longest come first: a batch too large for the device fails at once, not after an hour.

    Args:
        cost: tokens of each item, as its encoder estimates them.
        budget: most padded tokens in a batch, at least 1. Larger: faster on a GPU, more memory. An
            item above it goes alone.
    """
    if budget < 1:
        raise ValueError(f"a token budget is at least 1, got {budget}")
    batch: list[int] = []
    longest = 0
    for i in sorted(range(len(cost)), key=lambda i: -cost[i]):
        if batch and longest * (len(batch) + 1) > budget:
            yield batch
            batch = []
        if not batch:
            longest = max(1, cost[i])
        batch.append(i)
    if batch:
        yield batch
