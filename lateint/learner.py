"""`Learner`: a model with its goals, as the one module that a trainer runs, wraps and syncs.

    Step -> chunks through their encoders -> heads -> vectors, in order -> gather -> goals -> loss

All that has gradients is in here, so that a single `forward` is what DistributedDataParallel,
autocast and gradient scaling see. Knows no optimizer, no loop and no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lateint.data.collate import Chunk, Step
from lateint.distributed import gather_rows, joint, spans_processes
from lateint.gradcache import cached_chunks
from lateint.losses import Targets, duplicates
from lateint.model import LateInteractionModel
from lateint.objective import Goal
from lateint.ragged import Ragged
from modalities.encoder import Role


class Learner(nn.Module):
    """A model and what it is to learn.

    Args:
        model: trained in place.
        goals: `Objective`s and `Distil`s; their sum is the loss. Losses with parameters are trained
            too.
        cached: keep no activations but those of one chunk (`lateint.gradcache`).
        exclude_duplicates: a document that is the query's positive again, or the positive of the
            same query, is no negative.

    Raises ValueError: no goal, or a goal on a head that the model does not have.
    """

    accepts_loss_kwargs = False  # the loss is a mean over the step: transformers.Trainer divides it

    def __init__(
        self,
        model: LateInteractionModel,
        goals: Sequence[Goal],
        *,
        cached: bool = False,
        exclude_duplicates: bool = True,
    ) -> None:
        super().__init__()
        if not goals:
            raise ValueError("nothing to learn: give a loss or a list of objectives")
        self.model = model
        self.goals = nn.ModuleList(goals)
        self.heads = tuple(dict.fromkeys(head for goal in goals for head in goal.heads))
        for head in self.heads:
            model.head(head)
        self.cached = cached
        self.exclude_duplicates = exclude_duplicates

    def forward(self, step: Step) -> dict[str, Tensor]:
        """loss: scalar with gradients. parts: (goals,), what each gave, without."""
        queries = self._vectors(step.queries, "query")
        documents = self._vectors(step.documents, "document")
        device = next(iter(queries.values())).device
        targets, weight = step.targets.to(device), 1.0
        keys = step.query_keys.to(device), step.document_keys.to(device)
        goals: list[Goal] = list(self.goals)  # type: ignore[arg-type]
        if spans_processes() and any(goal.needs_all_documents for goal in goals):
            all_queries = any(goal.needs_all_queries for goal in goals)
            together = joint(queries, documents, targets, all_queries=all_queries)
            queries, documents = together.queries, together.documents
            targets, weight = together.targets, together.weight
            keys = (gather_rows(keys[0]) if all_queries else keys[0]), gather_rows(keys[1])
        if self.exclude_duplicates:
            targets = _excluding(targets, *keys)
        taught = _has_teacher(targets)
        losses = [
            goal(queries, documents, targets).float()
            if taught or not goal.needs_teacher
            else _nothing(queries, documents)
            for goal in goals
        ]
        parts = torch.stack(losses) * weight
        return {"loss": parts.sum(), "parts": parts.detach()}

    def _vectors(self, chunks: Sequence[Chunk], role: Role) -> dict[str, Ragged]:
        """head -> Ragged of all items of the chunks, in the order of their places."""

        def encode(chunk: Chunk) -> Mapping[str, Ragged]:
            grid = self.model.encoder(chunk.modality)(chunk.batch)
            return {head: self.model.head(head)(grid, role) for head in self.heads}

        device = self.model.encoder(chunks[0].modality).device
        if self.cached:
            parts = cached_chunks(encode, chunks, device=device)
        else:
            parts = [encode(chunk) for chunk in chunks]
        back = torch.tensor([place for chunk in chunks for place in chunk.places]).argsort()
        return {
            head: Ragged.concat([_same(part[head], parts[0][head]) for part in parts]).take(back)
            for head in self.heads
        }

    def train(self, mode: bool = True) -> Learner:
        """Training mode, but for what is frozen as a whole: an encoder that does not learn does not
        drop out, and a frozen batch norm keeps its means."""
        super().train(mode)
        if mode:
            for module in self.modules():
                parameters = list(module.parameters())
                if parameters and not any(p.requires_grad for p in parameters):
                    module.eval()
        return self

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Keeps no activations inside of backbones (transformers' and timm's) but computes them
        again: less memory, a forward pass more."""
        options = {name: value for name, value in options.items() if value}
        kwargs = options.get("activation_checkpointing_kwargs") or {}
        found = 0
        for encoder in dict.fromkeys(self.model.encoders.values()):
            for part in encoder.modules():
                module: Any = part
                if hasattr(module, "activation_checkpointing_enable"):
                    module.activation_checkpointing_enable({"use_reentrant": False, **kwargs})
                elif hasattr(module, "gradient_checkpointing_enable"):
                    module.gradient_checkpointing_enable({"use_reentrant": False, **kwargs})
                elif hasattr(module, "set_grad_checkpointing"):
                    module.set_grad_checkpointing(True)
                else:
                    continue
                found += 1
                break
        if not found:
            raise ValueError("no encoder of this model has a backbone that can checkpoint")

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """The name that transformers before 5.20 calls."""
        self.activation_checkpointing_enable(
            activation_checkpointing_kwargs=gradient_checkpointing_kwargs
        )

    def named_trainable(self) -> dict[str, nn.Parameter]:
        """What the optimizer sees, by the names that patterns are matched against: those of the
        model ("encoders.text.backbone...", "heads.multi..."), and "goals.0...." of losses."""
        return {
            name.removeprefix("model."): parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def freeze(self, patterns: Sequence[str]) -> int:
        """No gradients for parameters whose name a pattern (a regular expression, found anywhere in
        it) matches; returns how many numbers. ValueError for a pattern that matches nothing."""
        names = self.named_trainable()
        frozen = 0
        for pattern in patterns:
            found = [name for name in names if re.search(pattern, name)]
            if not found:
                raise ValueError(no_match(pattern, names))
            for name in found:
                frozen += names[name].numel() if names[name].requires_grad else 0
                names[name].requires_grad_(False)
        return frozen


def no_match(pattern: str, names: Mapping[str, Any]) -> str:
    """What to say of a pattern without a parameter."""
    tops = sorted({".".join(name.split(".")[:3]) for name in names})
    return f"no trainable parameter matches {pattern!r}; they begin with {', '.join(tops)}"


def _same(part: Ragged, first: Ragged) -> Ragged:
    """On the device and in the dtype of the others: encoders may lie apart."""
    return part.to(first.device, first.dtype)


def _has_teacher(targets: Targets) -> bool:
    """Whether a query has two candidates with a teacher's score: something to compare."""
    teacher = targets.teacher
    return teacher is not None and bool(((~teacher.isnan()).sum(1) >= 2).any())


def _nothing(*vectors: Mapping[str, Ragged]) -> Tensor:
    """0, as a goal gives that has nothing to do; with a graph, so that backward can be called."""
    total = [ragged.values.sum() * 0 for side in vectors for ragged in side.values()]
    return torch.stack([part.float() for part in total]).sum()


def _excluding(targets: Targets, query_keys: Tensor, document_keys: Tensor) -> Targets:
    twice = duplicates(query_keys, document_keys, targets.positives)
    if targets.excluded is not None:
        twice |= targets.excluded
    return Targets(targets.positives, targets.candidates, targets.teacher, twice)
