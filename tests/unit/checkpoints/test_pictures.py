"""Folders of open_clip and of timm through `lateint.load`: what opens, what goes back, what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_clip import write_open_clip, write_parts

from lateint import checkpoints
from lateint.checkpoints import sniff
from lateint.config import ConfigError
from lateint.model import LateInteractionModel
from modalities.clip import OpenClip
from modalities.image import TimmImage
from modalities.naflex import NaFlexImage

PICTURES = [Image.new("RGB", (40, 60), colour) for colour in ("red", "olive")]
TEXTS = ["a dog", "two dogs run"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder)
    return folder


@pytest.fixture(scope="module")
def saved(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "saved"
    write_open_clip("clip", parts, folder)
    return folder


def same(one: LateInteractionModel, two: LateInteractionModel) -> None:
    for head in ("multi", "single"):
        for modality, items in (("image", PICTURES), ("text", TEXTS)):
            a = one.encode_documents(items, modality=modality, head=head)
            b = two.encode_documents(items, modality=modality, head=head)
            assert torch.equal(a.offsets, b.offsets)
            torch.testing.assert_close(a.values, b.values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["clip", "siglip", "coca", "transformers"])
def test_open_clip_and_back(kind: str, parts: Path, tmp_path: Path) -> None:
    """Load theirs, save as theirs, open with theirs and with ours; save as ours: equal."""
    import open_clip

    model, tokenizer = write_open_clip(kind, parts, tmp_path / "theirs")
    assert sniff(tmp_path / "theirs").name == "open_clip"
    ours = checkpoints.load(tmp_path / "theirs")
    assert set(ours.encoders) == {"image", "text"}
    assert ours.encoder("image") is ours.encoder("text")
    checkpoints.save(ours, tmp_path / "back", "open_clip")
    source = f"local-dir:{tmp_path / 'back'}"
    again = open_clip.create_model(source, require_pretrained=True)
    assert open_clip.get_model_preprocess_cfg(again)["mean"] == [0.48, 0.46, 0.41]
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert torch.equal(open_clip.get_tokenizer(source)(TEXTS), tokenizer(TEXTS))
    same(ours, checkpoints.load(tmp_path / "back"))
    ours.save(tmp_path / "ours")
    assert sorted(p.name for p in (tmp_path / "ours").iterdir() if p.is_dir()) == ["image"]
    loaded = checkpoints.load(tmp_path / "ours")
    assert loaded.encoder("image") is loaded.encoder("text")
    same(ours, loaded)


def test_another_width_and_dtype_are_asked_for(saved: Path, tmp_path: Path) -> None:
    model = checkpoints.load(saved, dim=8, dtype="bfloat16")
    assert model.dim == 8 and model.encoder("text").dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="no place for the projection from 24 to 8"):
        checkpoints.save(model, tmp_path / "x", "open_clip")
    with pytest.raises(ConfigError, match="holds one OpenClip encoder"):
        checkpoints.save(timm_model(tmp_path / "t"), tmp_path / "x", "open_clip")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "cannot load it"),
        ("missing", "Missing key"),
        ("extra", "Unexpected key"),
        ("shape", "size mismatch|do not belong"),
        ("no weights", "no file of weights"),
        ("code", "tokenizer_kwargs may have"),
        ("bomb", "no open_clip|must be JSON|not JSON"),
        ("huge", "at most"),
        ("pickle", "cannot load it"),
    ],
)
def test_hostile_open_clip_folders(saved: Path, tmp_path: Path, damage: str, message: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    weights, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    values: dict[str, Any] = json.loads(config.read_text())
    state = load_file(weights)
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "missing":
        del state["ln_final.weight"]
        save_file(state, weights)
    elif damage == "extra":
        save_file({**state, "more": torch.zeros(3)}, weights)
    elif damage == "shape":
        values["model_cfg"]["text_cfg"]["width"] = 64
    elif damage == "no weights":
        weights.unlink()
    elif damage == "code":
        values["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    elif damage == "huge":
        values["model_cfg"]["vision_cfg"]["width"] = 10**8
    elif damage == "pickle":
        weights.unlink()
        with (folder / "open_clip_pytorch_model.bin").open("wb") as file:
            pickle.dump({"a": Trap(tmp_path / "ran"), "b": b"x" * 2_000_000}, file)
    config.write_text("[" * 100_000 if damage == "bomb" else json.dumps(values))
    with pytest.raises(ConfigError, match=message):
        checkpoints.load(folder, layout="open_clip")
    assert not (tmp_path / "ran").exists()


class Trap:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def write_timm(folder: Path, name: str = "test_vit", **arguments: Any) -> Any:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model(name, **arguments).eval()
    save_for_hf(model, str(folder), safe_serialization=True)
    return model


def timm_model(folder: Path, name: str = "test_vit", **arguments: Any) -> LateInteractionModel:
    write_timm(folder, name, **arguments)
    return checkpoints.load(folder, dim=8)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_vit", {"num_classes": 10, "img_size": 64}),
        ("test_vit3", {"global_pool": "avg"}),
        ("test_convnext", {}),
        ("test_efficientnet", {}),
        ("naflexvit_base_patch16_siglip", {"embed_dim": 32, "depth": 2, "num_heads": 2}),
    ],
)
def test_timm_folders(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    theirs = write_timm(tmp_path / "theirs", name, **arguments)
    assert sniff(tmp_path / "theirs").name == "timm"
    model = checkpoints.load(tmp_path / "theirs", dim=8)
    encoder = model.encoder("image")
    assert isinstance(encoder, NaFlexImage if "naflex" in name else TimmImage)
    state = theirs.state_dict()
    for key, tensor in encoder.backbone.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    if name == "test_vit":
        assert encoder.lattice == (4, 4)
        with torch.inference_mode():
            batch = encoder.prepare(PICTURES, "document")
            pixels = (batch.inputs["pixels"].float() / 255 - 0.5) / 0.5
            expected = encoder.projection(theirs.forward_features(pixels)[:, 1:])
            torch.testing.assert_close(encoder(batch).tokens, expected, atol=1e-5, rtol=1e-5)
    model.save(tmp_path / "ours")
    again = checkpoints.load(tmp_path / "ours")
    a, b = (m.encode_documents(PICTURES, modality="image") for m in (model, again))
    assert torch.equal(a.values, b.values)


def test_a_bare_backbone_is_never_silently_a_model(tmp_path: Path) -> None:
    write_timm(tmp_path)
    with pytest.raises(ConfigError, match=r"bare timm backbone.*Give dim=128"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "test_vitt"}, "timm has no model"),
        ({"architecture": "test_convnext", "model_args": {}}, "weights missing"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "may not have 'checkpoint_path'"),
        ({"model_args": {"embed_dim": 10**6 - 64, "num_heads": 2}}, "the configuration says"),
        ({"model_args": {"depth": 10**6}}, "at most"),
        ({"model_args": [1]}, "must be objects"),
    ],
)
def test_hostile_timm_folders(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_timm(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=message):
        checkpoints.load(tmp_path, dim=8)


def test_clip_stands_under_both_modalities(saved: Path) -> None:
    model = checkpoints.load(saved)
    assert isinstance(model.encoder("text"), OpenClip)
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in model.encoder("image").parameters())


def test_from_backbones_takes_clip(saved: Path) -> None:
    model = LateInteractionModel.from_backbones(clip=str(saved), dim=8)
    assert model.dim == 8 and model.encoder("image") is model.encoder("text")
    assert model.encode_queries(TEXTS).dim == 8
    random = LateInteractionModel.from_backbones(
        clip="ViT-S-32-alt", pretrained=False, dim=256, heads=("single",)
    )
    assert random.encode_documents(PICTURES[:1], modality="image", head="single").dim == 256
    with pytest.raises(ValueError, match="without text and image"):
        LateInteractionModel.from_backbones(clip=str(saved), image="test_vit")
    with pytest.raises(ValueError, match="say which weights"):
        LateInteractionModel.from_backbones(clip="ViT-S-32-alt")


def test_from_backbones_chooses_the_image_encoder_by_its_backbone() -> None:
    model = LateInteractionModel.from_backbones(image="test_vit", pretrained=False, dim=8)
    assert isinstance(model.encoder("image"), TimmImage)
