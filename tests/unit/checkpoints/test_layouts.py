"""Sniffing, and what loading says when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_checkpoints import backbone, put, pylate, stanford
from toy_model import toy_model

import lateint
from lateint.checkpoints import LAYOUTS, load, save, sniff
from lateint.config import ConfigError


def test_each_layout_is_told_by_its_files(tmp_path: Path) -> None:
    pylate(tmp_path / "pylate", "bert")
    stanford(tmp_path / "stanford", "bert")
    put(tmp_path / "multi" / "modules.json", [{"type": "a.Transformer", "path": ""}])
    put(
        tmp_path / "multi" / "config_sentence_transformers.json",
        {"model_type": "MultiVectorEncoder"},
    )
    rows = [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}]
    put(tmp_path / "single" / "modules.json", rows)
    put(tmp_path / "bge" / "modules.json", rows)  # BGE-M3 has these files besides
    put(tmp_path / "bge" / "config.json", {"model_type": "xlm-roberta"})
    (tmp_path / "bge" / "colbert_linear.pt").write_bytes(b"")
    toy_model().save(tmp_path / "ours")
    found = {p.name: sniff(p).name for p in tmp_path.iterdir()}
    assert found == {
        "pylate": "pylate",
        "stanford": "stanford",
        "multi": "sentence-transformers",
        "single": "sentence-transformers-single",
        "bge": "bge-m3",
        "ours": "lateint",
    }


def test_an_unknown_folder_is_told_what_was_looked_for(tmp_path: Path) -> None:
    put(tmp_path / "notes.json", {})
    with pytest.raises(ConfigError) as raised:
        load(tmp_path)
    message = str(raised.value)
    assert "notes.json" in message
    for row in LAYOUTS:
        assert f"{row.name}: {', '.join(row.files)}" in message


def test_names_and_files_that_are_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        load("nobody/nothing-of-the-kind")
    with pytest.raises(ConfigError, match="no name on the hub"):
        load(tmp_path / "absent" / "deep" / "er")
    for name in ("../x", "a/../b", "a//b", "x" * 200):
        with pytest.raises(ConfigError, match="no such folder"):
            load(name)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        load(tmp_path / "file")


def test_options_and_layouts_are_checked(tmp_path: Path) -> None:
    pylate(tmp_path, "bert")
    with pytest.raises(ConfigError, match="did you mean 'dtype'"):
        load(tmp_path, dtyp="float16")
    with pytest.raises(ConfigError, match="unknown dtype"):
        load(tmp_path, dtype="float99")
    with pytest.raises(ConfigError, match="did you mean 'pylate'"):
        load(tmp_path, layout="pylat")
    with pytest.raises(ConfigError, match=r"bge-m3.*can be read, not written"):
        save(load(tmp_path), tmp_path / "new", "bge-m3")
    with pytest.raises(FileExistsError, match="not empty"):
        save(load(tmp_path), tmp_path, "pylate")


def test_a_layout_may_be_named(tmp_path: Path) -> None:
    """PyLate's folder has a transformers config.json too, so another reader may be asked for it."""
    pylate(tmp_path, "bert")
    assert load(tmp_path, layout="pylate").encoder("text").dim == 8
    with pytest.raises(ConfigError, match=r"linear\.weight"):
        load(tmp_path, layout="stanford")


def test_the_model_that_ships() -> None:
    assert set(load().encoders) == {"page", "text", "image", "audio"}


def test_a_bare_backbone_is_no_checkpoint(tmp_path: Path) -> None:
    backbone(tmp_path, "bert")
    with pytest.raises(ConfigError, match="no known layout"):
        lateint.load(tmp_path)
