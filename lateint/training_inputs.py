"""What people hand to a trainer, in the one form that it works with: goals, evaluators, data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lateint.card import DataFacts
from lateint.data.sets import TrainingSet, as_training_set
from lateint.data.stream import Stream
from lateint.losses import InfoNCE, Loss
from lateint.model import LateInteractionModel
from lateint.objective import Goal, Objective

Evaluator = Callable[[LateInteractionModel], Mapping[str, float]]


def goals_of(loss: Any, model: LateInteractionModel) -> list[Goal]:
    """A trainer's `loss` as goals; a bare `Loss` goes on the head "multi", or the model's first."""
    if loss is None:
        loss = InfoNCE()
    usual = "multi" if "multi" in model.heads else next(iter(model.heads))
    given = loss if isinstance(loss, (list, tuple)) else [loss]
    goals: list[Goal] = []
    for one in given:
        if not isinstance(one, (Goal, Loss)):
            raise TypeError(
                f"loss must be a Loss (lateint.losses), an Objective or a Distil "
                f"(lateint.objective) or a list of these, got {type(one).__name__}"
            )
        goals.append(one if isinstance(one, Goal) else Objective(one, usual))
    return goals


def goal_name(goal: nn.Module) -> str:
    """What a log calls it: "multi InfoNCE"."""
    if isinstance(goal, Objective):
        return f"{goal.head} {type(goal.loss).__name__}"
    return f"{type(goal).__name__} {' to '.join(goal.heads)}"  # type: ignore[arg-type]


def describe(goal: nn.Module) -> str:
    """A goal in a model card, with the numbers that its loss has learned or was given."""
    parts = [goal_name(goal)]
    if isinstance(goal, Objective):
        parts.append(repr(goal.scorer))
        if goal.dims != (None,):
            parts.append(f"dims {list(goal.dims)}")
        if goal.tokens != (None,):
            parts.append(f"tokens {list(goal.tokens)}")
    if goal.weight != 1:
        parts.append(f"weight {goal.weight}")
    numbers = {**dict(goal.named_parameters()), **dict(goal.named_buffers())}
    parts += [f"{k} {v.item():.4g}" for k, v in numbers.items() if v.numel() == 1]
    return ", ".join(parts)


def evaluators_of(given: Any) -> dict[str, Evaluator]:
    """name -> evaluator; without a name of its own it is ""."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    several = given if isinstance(given, (list, tuple)) else [given]
    for one in several:
        if not callable(one):
            raise TypeError(f"an evaluator is called with the model, got {type(one).__name__}")
    if len(several) == 1:
        return {"": several[0]}

    def all_of(model: LateInteractionModel) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for one in several:
            for key, value in one(model).items():
                if key in numbers:
                    raise ValueError(f"two evaluators give {key!r}: name them in a dict")
                numbers[key] = value
        return numbers

    return {"": all_of}


def sets_of(data: Any) -> dict[str, TrainingSet]:
    """name -> set, of one or of several."""
    if isinstance(data, Mapping):
        if not data:
            raise ValueError("no data set: the mapping is empty")
        return {str(name): as_training_set(one, str(name)) for name, one in data.items()}
    one = as_training_set(data)
    return {one.name or "data": one}


def is_stream(data: Any) -> bool:
    """Whether it is a `datasets.IterableDataset`."""
    return type(data).__name__ == "IterableDataset" and hasattr(data, "take")


def is_scored(train: Any, sets: Mapping[str, TrainingSet]) -> bool:
    """Whether any training data has scores (of a stream: what its columns say)."""
    if isinstance(train, Stream):
        return bool(train.known_columns().scores)
    return any(one.scored for one in sets.values())


def data_facts(train: Any, sets: Mapping[str, TrainingSet]) -> list[DataFacts]:
    """What a model card says of the training data: of a stream, or of each set."""
    if isinstance(train, Stream):
        return [DataFacts(train.name, None, train.licence, train.source_name)]
    found = []
    for name, data in sets.items():
        columns = getattr(getattr(data, "columns", None), "columns", ())
        said = tuple(f"{c.role}: {c.name} ({c.modality})" for c in columns)
        found.append(DataFacts(name, len(data), data.licence, data.source, said))
    return found


def reader_name(encoder: Any) -> str:
    """An encoder in a model card."""
    backbone = getattr(encoder, "backbone", None)
    if backbone is None:
        return str(encoder.name)
    return f"{encoder.name}: {type(backbone).__name__}"
