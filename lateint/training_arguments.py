"""`TrainingArguments`: transformers' own, and what this library's trainer adds to them."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_args

try:
    import accelerate  # noqa: F401
except ImportError as error:
    raise ImportError("training needs accelerate: pip install 'lateint[train]'") from error

import transformers

from lateint.data.batches import Mix

__all__ = ["TrainingArguments", "hf"]

hf: Any = transformers


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """All of transformers.TrainingArguments (the first is output_dir), and:

    budget_tokens: most padded tokens that go through an encoder at once. The step is then cached
        (GradCache): its size is bounded by its vectors, not by its activations. Smaller: less
        memory, more time. None: the step goes through at once.
    mix: how several data sets share steps: "proportional", "round_robin" or "mixed", as of
        `lateint.data.Batches`.
    no_duplicates: no query and no document twice in a step, as far as that can be.
    exclude_duplicates: where one is there twice after all, it is no negative of itself.
    learning_rates: pattern -> rate, for parameters whose name the pattern (a regular expression)
        is found in; the first that fits holds, others have `learning_rate`. Names are the model's:
        "encoders.text.projection.weight"; of losses "goals.0.loss.log_temperature".
    freeze: patterns of parameters that are not trained.

    The batch is of queries; `per_device_train_batch_size` of each process. One process uses one
    device: for several, start it with torchrun or `accelerate launch`.
    """

    budget_tokens: int | None = None
    mix: str = "proportional"
    no_duplicates: bool = False
    exclude_duplicates: bool = True
    learning_rates: dict[str, float] = field(default_factory=dict)
    freeze: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # before transformers fills in what it works out by itself
        self.given: dict[str, Any] = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.init and getattr(self, one.name) != _default(one)
        }
        super().__post_init__()
        if self.mix not in get_args(Mix):
            raise ValueError(f"mix must be one of {get_args(Mix)}, got {self.mix!r}")
        if self.budget_tokens is not None and self.budget_tokens < 1:
            raise ValueError(f"budget_tokens is at least 1, got {self.budget_tokens}")
        for pattern, rate in self.learning_rates.items():
            if not isinstance(rate, (int, float)) or rate < 0:
                raise ValueError(f"learning_rates: {pattern!r}: wanted a rate, got {rate!r}")
        if self.label_smoothing_factor:
            raise ValueError("label_smoothing_factor is for classes; these losses have none")

    @property
    def n_gpu(self) -> int:
        """At most one: a step is no tensor that DataParallel could split."""
        count: Any = super().n_gpu
        return min(1, count)


def _default(one: Any) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()
