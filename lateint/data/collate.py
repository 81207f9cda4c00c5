"""Examples -> a `Step`: raw items of each modality and role through their encoder's `prepare`.

This is the CPU work of a step, and runs in the loader's workers where there are any. Items come in
chunks under a token budget, so that a step of any size fits into memory (`lateint.gradcache`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lateint.batching import batches
from lateint.data.columns import DataError, Example, Item
from lateint.losses.scores import ABSENT, Targets
from modalities.encoder import Batch, Encoder, Role

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Chunk:
    """Items that go through an encoder together. places: which of the step's queries or documents
    they are."""

    modality: str
    batch: Batch
    places: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """What a training step reads.

    queries, documents: chunks that hold each of the Q queries and N documents once, in the order of
    `places`. targets: which belong together. query_keys (Q,), document_keys (N,): int64, equal for
    equal items.
    """

    queries: tuple[Chunk, ...]
    documents: tuple[Chunk, ...]
    targets: Targets
    query_keys: Tensor
    document_keys: Tensor

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.query_keys)


class Collate:
    """Makes steps.

    Args:
        encoders: by modality, those of the model.
        budget_tokens: most padded tokens of a chunk; None: one chunk for each modality.
        candidates, scored: give candidates, and teacher scores (NaN where there are none), in steps
            too whose examples have none, so that all steps and processes have the same kinds.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        budget_tokens: int | None = None,
        *,
        candidates: bool = False,
        scored: bool = False,
    ) -> None:
        if budget_tokens is not None and budget_tokens < 1:
            raise ValueError(f"a token budget is at least 1, got {budget_tokens}")
        self.encoders = dict(encoders)
        self.budget_tokens = budget_tokens
        self.candidates = candidates
        self.scored = scored

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """{"step": Step}: what the trainer hands to its module."""
        queries = [example.query for example in examples]
        documents = [item for example in examples for item in example.documents]
        return {
            "step": Step(
                tuple(self._chunks(queries, "query", examples)),
                tuple(self._chunks(documents, "document", examples)),
                targets(examples, candidates=self.candidates, scored=self.scored),
                torch.tensor([item.key for item in queries], dtype=torch.int64),
                torch.tensor([item.key for item in documents], dtype=torch.int64),
            )
        }

    def _chunks(
        self, items: Sequence[Item], role: Role, examples: Sequence[Example]
    ) -> Iterator[Chunk]:
        for modality in dict.fromkeys(item.modality for item in items):
            if modality not in self.encoders:
                raise DataError(
                    f"{examples[0].where}: a {role} of modality {modality!r}, but the model reads "
                    f"{', '.join(map(repr, self.encoders))}"
                )
            encoder = self.encoders[modality]
            places = [i for i, item in enumerate(items) if item.modality == modality]
            raw = [items[i].opened() for i in places]
            plan: Any = [list(range(len(raw)))]
            if self.budget_tokens is not None:
                plan = batches(encoder.cost(raw, role), self.budget_tokens)
            for chosen in plan:
                batch = encoder.prepare([raw[i] for i in chosen], role)
                yield Chunk(modality, batch, tuple(places[i] for i in chosen))


def targets(
    examples: Sequence[Example], *, candidates: bool = False, scored: bool = False
) -> Targets:
    """Where the documents of the examples, end to end, are columns: positives, candidates and
    teacher scores; those only where an example has hard negatives or scores, or where wanted."""
    counts = [len(example.documents) for example in examples]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    positives = torch.tensor(starts, dtype=torch.int64)
    width = max(counts, default=1)
    scored = scored or any(example.scores is not None for example in examples)
    if width == 1 and not scored and not candidates:
        return Targets(positives)
    ids = torch.full((len(examples), width), ABSENT, dtype=torch.int64)
    teacher = torch.full((len(examples), width), torch.nan) if scored else None
    for row, (example, start, count) in enumerate(zip(examples, starts, counts, strict=True)):
        ids[row, :count] = torch.arange(start, start + count)
        if teacher is not None and example.scores is not None:
            teacher[row, :count] = torch.tensor(example.scores)
    return Targets(positives, ids, teacher)
