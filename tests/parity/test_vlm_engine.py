"""colpali-engine's models, ours against theirs, through files: that library in an environment of
its own (`scripts/peers/env.sh .data colpali`; LATEINT_PEERS names another place than .data/envs).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import lateint.checkpoints
from tests.tiny_vlm import ENGINE

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("LATEINT_PEERS", ROOT / ".data" / "envs")) / "colpali/bin/python"
QUERIES = ["loss goes up after warm-up", "", "Wer schrieb das? 誰が", "x" * 300]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists(), reason=f"{PYTHON} is missing: scripts/peers/env.sh .data colpali"
    ),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """Folder with one subfolder a class, and the pictures that it was asked about."""
    root = tmp_path_factory.mktemp("engine")
    (root / "pictures").mkdir()
    rng = np.random.default_rng(3)
    for i, (width, height) in enumerate(((60, 90), (120, 50), (70, 70), (31, 200))):
        coarse = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(root / "pictures" / f"{i}.png")
    script = ROOT / "scripts" / "peers" / "colpali_peer.py"
    done = subprocess.run(
        [PYTHON, script, root / "pictures", root / "out"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root / "out", sorted((root / "pictures").glob("*.png"))


@pytest.mark.parametrize("what", ["merged", "adapter"])
@pytest.mark.parametrize("name", sorted(ENGINE))
def test_tokens_are_the_peers(said: Any, name: str, what: str, tmp_path: Path) -> None:
    out, pictures = said
    assert not (out / name / "failed").exists(), (out / name / "failed").read_text()
    expected = load_file(out / name / "expected.safetensors")
    ours = lateint.checkpoints.load(out / name / what)
    for role, items, encode in (
        ("page", pictures, ours.encode_documents),
        ("query", QUERIES, ours.encode_queries),
    ):
        rows = encode(items, modality="page" if role == "page" else "text")
        for i, mine in enumerate(rows):
            their = expected[f"{what}.{role}.{i}"]
            assert mine.shape == their.shape
            assert float((mine - their).abs().max()) <= 1e-5
    if name == "ColModernVBert":  # the one whose prompts and positions transformers has too
        lateint.checkpoints.save(ours, tmp_path / "hf", "transformers")
        again = lateint.checkpoints.load(tmp_path / "hf")
        pages = again.encode_documents(pictures, modality="page")
        assert torch.allclose(
            pages.values, ours.encode_documents(pictures, modality="page").values, atol=1e-5
        )
