"""Weights out of a checkpoint's folder: safetensors, in one file or several, else torch's files
through its weights-only reader. Names, tensors, and errors that name the file; knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lateint.config import ConfigError, read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

SAFE, TORCH = "model.safetensors", "pytorch_model.bin"
_SHOWN = 6  # names in an error


def read_weights(folder: Path, safe: str = SAFE, other: str | None = TORCH) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, on the CPU, in their own dtypes.

    safe, other: names of the two possible files; beside each an index of shards may stand
    (`model.safetensors.index.json`). other=None: safetensors alone.

    Raises ConfigError: no such file, one that is truncated or no weights file, a shard that is
    not there or lies outside the folder, a pickle that holds more than tensors.
    """
    tried = []
    for name, read in ((safe, _safe), (other, _torch)):
        if name is None:
            continue
        if (folder / name).is_file():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index, read)
        tried += [name, index.name]
    raise ConfigError(f"{folder}: no weights: looked for {', '.join(tried)}")


def check_weights(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: Path | str
) -> None:
    """Raises ConfigError unless `given` has exactly the names and shapes of `wanted`. Compares no
    values: tensors of either may be on the meta device."""
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    if missing or extra:
        raise ConfigError(f"{where}: weights missing: {_few(missing)}; unexpected: {_few(extra)}")
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise ConfigError(
                f"{where}: weight {name!r} is {tuple(given[name].shape)}, "
                f"the configuration says {tuple(tensor.shape)}"
            )


def fill(module: nn.Module, given: Mapping[str, Tensor], where: Path | str) -> None:
    """Copies weights into a module, in the module's dtypes; names and shapes as `check_weights`
    has them."""
    check_weights(module.state_dict(), given, where)
    module.load_state_dict(dict(given))


def _safe(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path}: cannot be read (truncated or damaged): {error}") from error


def _torch(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a pickle that is no pickle of tensors raises
        raise ConfigError(
            f"{path}: torch's weights-only reader refuses it ({type(error).__name__}): a file of "
            "tensors alone is wanted; have it saved as safetensors"
        ) from error
    if not isinstance(data, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in data.items()
    ):
        raise ConfigError(f"{path}: wanted a dictionary of tensors by name")
    return data


def _shards(index: Path, read: Any) -> dict[str, Tensor]:
    data = read_json(index)
    names = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise ConfigError(f'{index}: wanted {{"weight_map": {{weight: file}}}}')
    found: dict[str, Tensor] = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name or name in ("", ".", ".."):
            raise ConfigError(f"{index}: {name!r} is no name of a file beside it")
        if not (index.parent / name).is_file():
            raise ConfigError(f"{index}: {name} is missing")
        found.update(read(index.parent / name))
    lost = [name for name in names if name not in found]
    if lost:
        raise ConfigError(f"{index}: weights that no file has: {_few(lost)}")
    return found


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more if names else "none"
