"""LoRA (Hu et al. 2021, arXiv:2106.09685) on a model's backbones, through peft.

    W x  ->  W x + (alpha / rank) B A x        A: (rank, in), B: (out, rank), learned; W frozen

Adapters live inside the encoders while they train and are merged into W afterwards, so that a saved
model is an ordinary one. Projections and heads are trained in full.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from lateint.model import LateInteractionModel


@dataclass(frozen=True)
class Lora:
    """rank: of the update. Larger: more can be learned, more memory. alpha: the update is scaled
    by alpha / rank. dropout: before A. targets: ends of the names of the linear layers that are
    adapted ("query", "q_proj"), or "all-linear". modalities: encoders; None: all that have a
    backbone."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    modalities: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise ValueError(f"wanted rank >= 1, alpha > 0 and 0 <= dropout < 1, got {self}")


def inject(model: LateInteractionModel, lora: Lora) -> list[nn.Parameter]:
    """Puts adapters into the backbones; all else of a backbone is frozen. Returns what was not
    before, for `merge`. ValueError: an encoder without a backbone, or one without a layer that
    `targets` names."""
    peft = _peft()
    learning = [p for p in model.parameters() if p.requires_grad]
    wanted = lora.modalities
    names = tuple(model.encoders) if wanted is None else wanted
    for encoder in dict.fromkeys(model.encoder(name) for name in names):
        backbone = getattr(encoder, "backbone", None)
        if not isinstance(backbone, nn.Module):
            if wanted is None:
                continue
            raise ValueError(f"{encoder.name} has no backbone that takes adapters")
        ends = _linear(backbone) if lora.targets == "all-linear" else lora.targets
        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=[ends] if isinstance(ends, str) else list(ends),
        )
        peft.inject_adapter_in_model(config, backbone)
    if not has_adapters(model):
        raise ValueError("no encoder of this model has a backbone that takes adapters")
    return [p for p in learning if not p.requires_grad]


def merge(module: nn.Module, frozen: Iterable[nn.Parameter] = ()) -> None:
    """Adds the updates to the weights and takes the adapters out, in place; what `inject` has
    `frozen` learns again."""
    for parent, name, layer in list(_adapted(module)):
        layer.merge()
        setattr(parent, name, layer.get_base_layer())
    for part in module.modules():
        if "peft_config" in vars(part):
            del part.peft_config
    for parameter in frozen:
        parameter.requires_grad_(True)


def merged(model: LateInteractionModel) -> LateInteractionModel:
    """A copy without adapters, for saving in the middle of training; the model stays as it is
    (adding an update and subtracting it again would round)."""
    again = copy.deepcopy(model)
    merge(again)
    return again


def has_adapters(module: nn.Module) -> bool:
    """Whether there are adapters in it."""
    return any(True for _ in _adapted(module))


def _adapted(module: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """(parent, name in it, layer with an adapter)."""
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError:
        return
    for parent in module.modules():
        for name, child in parent.named_children():
            if isinstance(child, BaseTunerLayer):
                yield parent, name, child


def _linear(backbone: nn.Module) -> tuple[str, ...]:
    """Names of all linear layers of a backbone."""
    found = tuple(name for name, part in backbone.named_modules() if isinstance(part, nn.Linear))
    if not found:
        raise ValueError(f"{type(backbone).__name__} has no linear layer to adapt")
    return found


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'lateint[train]'") from error
    return cast(Any, peft)
