from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from lateint.config import (
    MAX_CONFIG_BYTES,
    ConfigError,
    from_json,
    nearest,
    read_json,
    to_json,
    write_json,
)


@dataclass(frozen=True)
class Inner:
    width: int
    name: str = "a"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be positive, got {self.width}")


@dataclass(frozen=True)
class Outer:
    inner: Inner
    kind: Literal["unit", "weighted"] = "unit"
    rate: float = 0.5
    dim: int | None = None
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (1, "x")
    names: list[str] = field(default_factory=list)
    table: dict[str, Inner] = field(default_factory=dict)
    path: Path | None = None
    flag: bool = False


FULL = Outer(
    Inner(3), "weighted", 0.25, 7, (4,), (2, "y"), ["b"], {"k": Inner(1)}, Path("a/b"), True
)


@pytest.mark.parametrize("config", [Outer(Inner(3)), FULL])
def test_round_trip_through_a_file(config: Outer, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, config)
    assert from_json(Outer, read_json(path)) == config
    assert from_json(Outer, to_json(config)) == config


def test_whole_numbers_are_floats_too() -> None:
    rate = from_json(Outer, {"inner": {"width": 1}, "rate": 1}).rate
    assert rate == 1.0 and isinstance(rate, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"iner": {}}, "unknown key 'iner', did you mean 'inner'?"),
        ({"inner": {"width": 1, "nam": "b"}}, "inner: unknown key 'nam', did you mean 'name'?"),
        ({"inner": {"width": 1}, "zzzzzz": 1}, "unknown key 'zzzzzz'; known: 'dim', 'flag'"),
        ({}, "missing 'inner'"),
        ({"inner": {"width": "1"}}, "inner: width: wanted int, got str '1'"),
        ({"inner": {"width": True}}, "wanted int, got bool"),
        ({"inner": {"width": 0}}, "inner: width must be positive"),
        ({"inner": {"width": 1}, "kind": "units"}, "kind: wanted one of 'unit', 'weighted'"),
        ({"inner": {"width": 1}, "dim": 1.5}, "dim: wanted int or null"),
        ({"inner": {"width": 1}, "rate": None}, "rate: wanted float"),
        ({"inner": {"width": 1}, "sizes": [1, "2"]}, r"sizes[1]: wanted int"),
        ({"inner": {"width": 1}, "pair": [1]}, "pair: wanted 2 values"),
        ({"inner": {"width": 1}, "table": {"k": {}}}, "table.k: missing 'width'"),
        ({"inner": {"width": 1}, "flag": 1}, "flag: wanted bool"),
        ([1], "wanted an object with keys, got list [1]"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(data: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_json(Outer, data, "c.json")
    assert str(caught.value).startswith("c.json: ")
    assert message in str(caught.value)


def test_only_what_json_can_say_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold a set"):
        write_json(tmp_path / "a.json", {"a": {1}})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    with pytest.raises(TypeError, match="dataclass instance"):
        to_json(Inner)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b" " * (MAX_CONFIG_BYTES + 1), "larger than"),
        (None, "no such file"),
    ],
)
def test_files_that_cannot_be_read_are_named(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json(tmp_path)


def test_nearest() -> None:
    assert nearest("mutli", ["multi", "single"]) == ", did you mean 'multi'?"
    assert nearest("xyz", ["multi", "single"]) == "; known: 'multi', 'single'"
    assert nearest("xyz", []) == "; known: none"
