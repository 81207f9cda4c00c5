"""`import modalities` costs nothing, and its tables point at what is there."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import modalities
from modalities import ENCODERS, load_encoder
from modalities.encoder import Encoder, read_facts


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, modalities, modalities.media; modalities.open_image; "
        "print(*{'torch', 'transformers', 'timm', 'PIL', 'pypdfium2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_public_names_are_there() -> None:
    for name in modalities.__all__:
        assert getattr(modalities, name) is not None
        assert name in dir(modalities)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = modalities.nothing


@pytest.mark.parametrize("name", ENCODERS)
def test_every_row_is_an_encoder_of_that_name(name: str) -> None:
    module, kind = ENCODERS[name]
    encoder = getattr(import_module(module), kind)
    assert issubclass(encoder, Encoder)
    assert encoder.name == name
    assert encoder.modality in ("text", "page", "image", "audio")


def test_unknown_encoder_names_the_known(tmp_path: Path) -> None:
    facts = {"encoder": "timm-imag", "config": {}}
    (tmp_path / "encoder.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"did you mean 'timm-image'.*page-text"):
        load_encoder(tmp_path)


def test_a_folder_without_encoder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"encoder\.json is missing"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"encoder": "page"}',
        '{"encoder": 3, "config": {}}',
        '{"encoder": "page", "config": []}',
        "[" * 200_000,
        " " * 1_000_001,
    ],
)
def test_broken_encoder_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "encoder.json").write_text(text)
    with pytest.raises(ValueError, match=r"encoder\.json"):
        read_facts(tmp_path)
