"""Configurations: frozen dataclasses <-> JSON, strictly.

An unknown key, a missing one or a value of another type is an error that says where it stands,
because a misspelt option that is silently ignored costs a training run. This module knows no
configuration in particular and nothing of models; it reads JSON only (never pickle, never code).
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

MAX_CONFIG_BYTES = 1_000_000  # a configuration is some kilobytes; more is not a configuration

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration cannot be used; the message says which file or key and what was wanted."""


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values: nested dataclasses become objects, tuples lists, paths
    strings. `from_json` of the result gives an equal dataclass."""
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"to_json wants a dataclass instance, got {type(config).__name__}")
    return {field.name: _plain(getattr(config, field.name)) for field in fields(config)}


def from_json(cls: type[T], data: Any, where: str | None = None) -> T:
    """A dataclass of type `cls` from JSON values.

    Args:
        cls: a dataclass whose fields are annotated with bool, int, float, str, Path, None,
            Literal, list, tuple, dict with str keys, a dataclass, or a union of these.
        data: what `json.load` gave for it: an object.
        where: how errors call this place, e.g. a file's name; None: the class's name.

    Raises:
        ConfigError: not an object, a key unknown (the nearest known one is named) or missing, or
            a value of another type. ValueErrors of the class's own checks are passed on as this.
    """
    where = where or cls.__name__
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: wanted an object with keys, got {_shown(data)}")
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    check_keys(data, known, where)
    needed = [
        name
        for name, field in known.items()
        if field.default is MISSING and field.default_factory is MISSING
    ]
    missing = [name for name in needed if name not in data]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(map(repr, missing))}")
    hints = get_type_hints(cls)
    values = {key: _read(hints[key], value, f"{where}: {key}") for key, value in data.items()}
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def check_keys(data: Iterable[str], known: Iterable[str], where: str) -> None:
    """Every key of `data` is known; else a ConfigError that names the nearest known key."""
    names = sorted(known)
    for key in data:
        if key not in names:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), names)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an "unknown name" message: the nearest known name, or all where none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f", did you mean {close[0]!r}?"
    return f"; known: {', '.join(map(repr, names)) or 'none'}"


def read_json(path: Path | str) -> Any:
    """The JSON in a small file; ConfigError names the file if it is absent, large or broken."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, not a configuration")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not JSON: {error}") from error


def write_json(path: Path | str, data: Any) -> None:
    """Writes `data` (plain values or a dataclass) as indented JSON; NaN and infinity are errors."""
    text = json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a configuration cannot hold a {type(value).__name__}: {value!r}")


def _read(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotation `hint` wants it, or ConfigError."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Union or origin is types.UnionType:
        objects = [option for option in arguments if is_dataclass(option)]
        if len(objects) == 1 and isinstance(value, Mapping):
            return _read(objects[0], value, where)  # so that its errors say which key
        for option in arguments:
            try:
                return _read(option, value, where)
            except ConfigError:
                continue
        raise _wrong(where, " or ".join(map(_name, arguments)), value)
    if origin is Literal:
        if any(value == known and type(value) is type(known) for known in arguments):
            return value
        raise _wrong(where, "one of " + ", ".join(map(repr, arguments)), value)
    if is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value, where)
    container = origin or hint
    if container is list and isinstance(value, list):
        inner = arguments[0] if arguments else Any
        return [_read(inner, item, f"{where}[{i}]") for i, item in enumerate(value)]
    if container is tuple and isinstance(value, (list, tuple)):
        return _read_tuple(arguments, value, where)
    if container is dict and isinstance(value, Mapping):
        inner = arguments[1] if arguments else Any
        return {str(key): _read(inner, item, f"{where}.{key}") for key, item in value.items()}
    if hint is None or hint is type(None):
        if value is None:
            return None
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint in (bool, int, str) and type(value) is hint:
        return value
    raise _wrong(where, _name(hint), value)


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not arguments:
        return tuple(value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise _wrong(where, f"{len(arguments)} values", value)
    return tuple(
        _read(inner, item, f"{where}[{i}]")
        for i, (inner, item) in enumerate(zip(arguments, value, strict=True))
    )


def _wrong(where: str, wanted: str, value: Any) -> ConfigError:
    return ConfigError(f"{where}: wanted {wanted}, got {_shown(value)}")


def _name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
