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
    from lateint import maxsim
    from lateint.checkpoints import load
    from lateint.collection import Collection
    from lateint.index import Hit, Index
    from lateint.model import Encoded, LateInteractionModel
    from lateint.ragged import Ragged

__version__ = "0.1.0"

__all__ = [
    "Collection",
    "Encoded",
    "Hit",
    "Index",
    "LateInteractionModel",
    "Ragged",
    "__version__",
    "load",
    "maxsim",
]

# name -> (module, attribute); None: the module itself
_LAZY: dict[str, tuple[str, str | None]] = {
    "Collection": ("lateint.collection", "Collection"),
    "Encoded": ("lateint.model", "Encoded"),
    "Hit": ("lateint.index", "Hit"),
    "Index": ("lateint.index", "Index"),
    "LateInteractionModel": ("lateint.model", "LateInteractionModel"),
    "Ragged": ("lateint.ragged", "Ragged"),
    "load": ("lateint.checkpoints", "load"),
    "maxsim": ("lateint.maxsim", None),
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
