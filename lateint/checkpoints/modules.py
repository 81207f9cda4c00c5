"""`modules.json`: the modules of a sentence-transformers or PyLate checkpoint, in order, with their
configurations. Reads small files within limits; opens no weights and imports nothing they name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lateint.checkpoints.weights import read_weights
from lateint.config import ConfigError, read_json
from modalities.dense import ACTIVATIONS, DenseConfig

if TYPE_CHECKING:
    from torch import Tensor

MAX_MODULES = 32
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in "bert roberta distilbert camembert albert xlm-roberta xlnet".split()
)
"""names that sentence-transformers has given to a Transformer module's configuration"""


@dataclass(frozen=True)
class Module:
    """kind: the last name of its class ("Dense"); folder: where its files lie; config: its
    config.json (of a Transformer: sentence_bert_config.json), {} where it has none."""

    kind: str
    folder: Path
    config: Mapping[str, Any]


def read_modules(folder: Path, drop: tuple[str, ...] = ()) -> list[Module]:
    """Modules in order, those of kinds in `drop` left out. ConfigError: no list of modules, too
    many, a path out of the folder, no Transformer at its start or more than one."""
    path = folder / "modules.json"
    data = read_json(path)
    if not isinstance(data, list) or not 1 <= len(data) <= MAX_MODULES:
        raise ConfigError(f"{path}: wanted a list of 1 to {MAX_MODULES} modules")
    found = [module for row in data if (module := _module(folder, row, path)).kind not in drop]
    kinds = [module.kind for module in found]
    if kinds[:1] != ["Transformer"] or "Transformer" in kinds[1:]:
        raise ConfigError(f"{path}: wanted one Transformer, at the start; got {kinds}")
    return found


def object_of(path: Path) -> dict[str, Any]:
    """The object in a small JSON file; {} where there is no file."""
    if not path.is_file():
        return {}
    data = read_json(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: wanted an object, got {type(data).__name__}")
    return data


def read_dense(modules: list[Module], input_name: str | None = None) -> tuple[DenseConfig, ...]:
    """The Dense modules' layers. input_name: what each must read ("token_embeddings"), where its
    configuration says what it reads."""
    layers = []
    for module in modules:
        where, config = module.folder / "config.json", module.config
        reads = config.get("module_input_name", input_name)
        if input_name is not None and reads != input_name:
            raise ConfigError(f"{where}: this Dense reads {reads!r}, wanted {input_name!r}")
        writes = config.get("module_output_name")
        if writes is not None and writes != reads and reads is not None:
            raise ConfigError(f"{where}: this Dense writes {writes!r}, wanted {reads!r}")
        known = {"in_features", "out_features", "bias", "activation_function", "use_residual"}
        if extra := sorted(config.keys() - known - {"module_input_name", "module_output_name"}):
            raise ConfigError(f"{where}: unknown keys {extra}")
        # what the libraries take where a key is absent: bias, and Tanh
        full = str(config.get("activation_function") or "torch.nn.modules.activation.Tanh")
        name = full.rsplit(".", 1)[-1]
        if not full.startswith("torch.nn.") or name not in ACTIVATIONS:
            raise ConfigError(
                f"{where}: activation {full!r} is not run; known are torch.nn's {sorted(ACTIVATIONS)}"
            )
        try:
            layers.append(
                DenseConfig(
                    config["in_features"],
                    config["out_features"],
                    _flag(config, "bias", True, where),
                    name,
                    _flag(config, "use_residual", False, where),
                )
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"{where}: {error!r}") from error
    return tuple(layers)


def dense_weights(modules: list[Module]) -> dict[str, Tensor]:
    """Weights of Dense modules under the names that `modalities.dense.chain` gives them."""
    weights = {}
    for i, module in enumerate(modules):
        weights.update({f"{i}.{name}": w for name, w in read_weights(module.folder).items()})
    return weights


def prompts_of(config: Mapping[str, Any], where: Path) -> tuple[str, str]:
    """What is put before queries and before documents: the prompts of these names, else the
    default prompt."""
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(
        isinstance(p, str | None) for p in prompts.values()
    ):
        raise ConfigError(f"{where}: prompts must be an object of strings")
    default = config.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ConfigError(f"{where}: default_prompt_name {default!r} is not among the prompts")
    rest = prompts.get(default) or "" if default is not None else ""
    query, document = (
        next((prompts[name] for name in names if name in prompts), rest) or ""
        for names in (("query",), ("document", "passage", "corpus"))
    )
    return query, document


def _flag(config: Mapping[str, Any], key: str, default: bool, where: Path) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {key} must be true or false, not {value!r}")
    return value


def _module(folder: Path, row: Any, where: Path) -> Module:
    if not isinstance(row, dict) or not isinstance(row.get("type"), str):
        raise ConfigError(f'{where}: each module must be an object with a "type", got {row!r:.80}')
    path = row.get("path", "")
    # "..", an absolute path or a drive would lead out of the folder
    if not isinstance(path, str) or not re.fullmatch(r"([\w-][\w.-]*)?", path):
        raise ConfigError(f"{where}: {path!r:.80} is no name of a folder beside it")
    kind = row["type"].rsplit(".", 1)[-1]
    own = folder / path if path else folder
    if kind != "Transformer":
        return Module(kind, own, object_of(own / "config.json"))
    for name in TRANSFORMER_CONFIGS:
        if (own / name).is_file():
            return Module(kind, own, object_of(own / name))
    return Module(kind, own, {})
