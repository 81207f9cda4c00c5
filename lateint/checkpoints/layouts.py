"""The table of checkpoint layouts: how each is told from the others, who reads and who writes it.

A row tells by the names of files and by small JSON files in them; it opens no weights and imports
no library. A new layout is a row here and a loader; rows are tried in order, so a layout that is a
special case of another stands before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lateint.config import ConfigError, read_json
from modalities.vlm_families import FAMILIES

PAGE_MODELS = frozenset(row.retrieval for row in FAMILIES.values() if row.retrieval)
ENGINE_MODELS = frozenset(row.engine for row in FAMILIES.values() if row.engine)
AUDIO_MODELS = frozenset({"audio-spectrogram-transformer", "clap", "hubert", "wav2vec2", "whisper"})


@dataclass(frozen=True)
class LoadOptions:
    """What a caller of `lateint.load` may choose; a loader ignores what does not concern it.

    dtype: of the weights once loaded, whatever they were saved in.
    revision: branch, tag or commit on the hub; None: its main branch.
    remote_code: run Python code that comes with the checkpoint. Only for one you trust.
    drop: modules of a sentence-transformers checkpoint to leave out, by the names of their
        classes, e.g. ("HierarchicalTokenPooling",): the model is another one then.
    dim: width of a fresh projection, for checkpoints that bring none; None: none is made, and a
        bare backbone, whose tokens would be random without training, is an error.
    base: folder or hub name of the model that an adapter stands on; None: as the adapter says.
    source: what the caller gave as path; set by `load`.
    """

    dtype: str = "float32"
    revision: str | None = None
    remote_code: bool = False
    drop: tuple[str, ...] = ()
    dim: int | None = None
    base: str | None = None
    source: str = ""


class SmallFiles:
    """A checkpoint's folder, for predicates: which files it has, and its small JSON files (read
    once, within the limits of `lateint.config.read_json`; a broken one is a ConfigError)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Any] = {}

    def has(self, name: str) -> bool:
        """`name` may be a pattern: "*.safetensors"."""
        if "*" in name:
            return any(path.is_file() for path in self.folder.glob(name))
        return (self.folder / name).is_file()

    def json(self, name: str) -> Any:
        """The contents of a JSON file; None where it is not there."""
        if name not in self._read:
            self._read[name] = read_json(self.folder / name) if self.has(name) else None
        return self._read[name]

    def object(self, name: str) -> Mapping[str, Any]:
        """The contents of a JSON file that must hold an object; {} where it is not there."""
        data = self.json(name)
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise ConfigError(f"{self.folder / name}: wanted an object, got {type(data).__name__}")
        return data

    @property
    def model_type(self) -> str:
        """`model_type` of config.json, "" where there is none."""
        return str(self.object("config.json").get("model_type", ""))

    @property
    def architectures(self) -> tuple[str, ...]:
        """`architectures` of config.json."""
        found = self.object("config.json").get("architectures") or ()
        return tuple(map(str, found)) if isinstance(found, list) else ()

    @property
    def modules(self) -> tuple[str, ...]:
        """Last names of the classes in modules.json ("Transformer", "Dense"), in order."""
        data = self.json("modules.json")
        if not isinstance(data, list):
            return ()
        kinds = [str(row.get("type", "")) if isinstance(row, dict) else "" for row in data]
        return tuple(kind.rsplit(".", 1)[-1] for kind in kinds)


@dataclass(frozen=True)
class Layout:
    """One row.

    name: how `load(layout=...)` and `save(layout=...)` call it.
    files: must be there (patterns allowed); a folder without one is not of this layout.
    looks_for: what `fits` looks for, in words, for the error that lists all layouts.
    fits: the rest of the test, over small JSON files.
    loader: "module:function", (folder: Path, options: LoadOptions) -> LateInteractionModel.
    writer: "module:function", (model, folder: Path) -> None; None: read only.
    """

    name: str
    files: tuple[str, ...]
    looks_for: str
    fits: Callable[[SmallFiles], bool]
    loader: str
    writer: str | None = None


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="lateint",
        files=("config.json",),
        looks_for='"format": "lateint-model" in it',
        fits=lambda files: files.object("config.json").get("format") == "lateint-model",
        loader="lateint.checkpoints.native:load",
        writer="lateint.checkpoints.native:save",
    ),
    Layout(
        name="pylate",
        files=("modules.json", "config_sentence_transformers.json"),
        looks_for='"model_type": "ColBERT" in the latter, or a module pylate.models...',
        fits=lambda files: _told(files) == "ColBERT" or _of_pylate(files),
        loader="lateint.checkpoints.pylate:load",
        writer="lateint.checkpoints.pylate:save",
    ),
    Layout(
        name="sentence-transformers",
        files=("modules.json",),
        looks_for='"model_type": "MultiVectorEncoder", or a module MultiVectorMask',
        fits=lambda files: (
            _told(files) == "MultiVectorEncoder" or "MultiVectorMask" in files.modules
        ),
        loader="lateint.checkpoints.sbert:load",
        writer="lateint.checkpoints.sbert:save",
    ),
    Layout(
        name="bge-m3",
        files=("config.json", "colbert_linear.pt"),
        looks_for="a transformers backbone beside it",
        fits=lambda files: bool(files.model_type),
        loader="lateint.checkpoints.bge_m3:load",
    ),
    Layout(
        name="sentence-transformers-single",
        files=("modules.json",),
        looks_for="a module Pooling after a Transformer",
        fits=lambda files: files.modules[:1] == ("Transformer",) and "Pooling" in files.modules,
        loader="lateint.checkpoints.single:load",
    ),
    Layout(
        name="stanford",
        files=("config.json",),
        looks_for="architectures of HF_ColBERT in it, or artifact.metadata beside it",
        fits=lambda files: "HF_ColBERT" in files.architectures or files.has("artifact.metadata"),
        loader="lateint.checkpoints.stanford:load",
        writer="lateint.checkpoints.stanford:save",
    ),
    Layout(
        name="transformers",
        files=("config.json",),
        looks_for="model_type colpali, colqwen2, colmodernvbert or neomme in it, *ForRetrieval",
        fits=lambda files: files.model_type in PAGE_MODELS,
        loader="lateint.checkpoints.retrieval:load",
        writer="lateint.checkpoints.retrieval:save",
    ),
    Layout(
        name="colpali-engine",
        files=("config.json",),
        looks_for="architectures of a Col... class in it (ColPali, ColQwen2 ...)",
        fits=lambda files: bool(ENGINE_MODELS.intersection(files.architectures)),
        loader="lateint.checkpoints.colpali:load",
    ),
    Layout(
        name="colpali-engine-adapter",
        files=("adapter_config.json",),
        looks_for='"peft_type": "LORA" in it',
        fits=lambda files: files.object("adapter_config.json").get("peft_type") == "LORA",
        loader="lateint.checkpoints.colpali:load_adapter",
    ),
    Layout(
        name="open_clip",
        files=("open_clip_config.json",),
        looks_for='"model_cfg" in it',
        fits=lambda files: "model_cfg" in files.object("open_clip_config.json"),
        loader="lateint.checkpoints.open_clip:load",
        writer="lateint.checkpoints.open_clip:save",
    ),
    Layout(
        name="timm",
        files=("config.json",),
        looks_for='"architecture" in it, a name of timm',
        fits=lambda files: isinstance(files.object("config.json").get("architecture"), str),
        loader="lateint.checkpoints.timm:load",
    ),
    Layout(
        name="transformers-audio",
        files=("config.json",),
        looks_for=f"a model_type of {', '.join(sorted(AUDIO_MODELS))} in it",
        fits=lambda files: files.model_type in AUDIO_MODELS,
        loader="lateint.checkpoints.audio:load",
    ),
)


def _told(files: SmallFiles) -> str:
    return str(files.object("config_sentence_transformers.json").get("model_type", ""))


def _of_pylate(files: SmallFiles) -> bool:
    data = files.json("modules.json")
    kinds = [row.get("type") for row in data if isinstance(row, dict)] if data else []
    return any(str(kind).startswith("pylate.") for kind in kinds)
