"""`lateint`: multimodal late interaction retrieval, from files to ranked hits.

Only names live here. Each is imported on first use (PEP 562), so that `import lateint` costs
milliseconds and a search process never pays for torch. Submodules (`lateint.maxsim`,
`lateint.config`, ...) are attributes too; a function never shares a name with a submodule, because
importing the one would silently replace the other.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lateint import data, evaluation, losses, maxsim, objective
    from lateint.checkpoints import load
    from lateint.collection import Collection
    from lateint.encoded import Encoded
    from lateint.index import Hit, Index
    from lateint.model import LateInteractionModel
    from lateint.ragged import Ragged
    from lateint.trainer import Trainer
    from lateint.training_arguments import TrainingArguments

__version__ = "0.1.0"

__all__ = [
    "Collection",
    "Encoded",
    "Hit",
    "Index",
    "LateInteractionModel",
    "Ragged",
    "Trainer",
    "TrainingArguments",
    "__version__",
    "data",
    "evaluation",
    "load",
    "losses",
    "maxsim",
    "objective",
]

# name -> (module, attribute); None: the module itself
_LAZY: dict[str, tuple[str, str | None]] = {
    "Collection": ("lateint.collection", "Collection"),
    "Encoded": ("lateint.encoded", "Encoded"),
    "Hit": ("lateint.index", "Hit"),
    "Index": ("lateint.index", "Index"),
    "LateInteractionModel": ("lateint.model", "LateInteractionModel"),
    "Ragged": ("lateint.ragged", "Ragged"),
    "Trainer": ("lateint.trainer", "Trainer"),
    "TrainingArguments": ("lateint.training_arguments", "TrainingArguments"),
    "data": ("lateint.data", None),
    "evaluation": ("lateint.evaluation", None),
    "load": ("lateint.checkpoints", "load"),
    "losses": ("lateint.losses", None),
    "maxsim": ("lateint.maxsim", None),
    "objective": ("lateint.objective", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'lateint' has no attribute {name!r}")
    module_name, attribute = _LAZY[name]
    module = import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
