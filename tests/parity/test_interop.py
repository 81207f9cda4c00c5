"""Models of PyLate, sentence-transformers and colpali-engine give their output to our index, each in an
environment of its own (`scripts/peers/env.sh DATA pylate sbert colpali`; LATEINT_PEERS names DATA/envs
where that is not .data/envs)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import backbone

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENVS = Path(os.environ.get("LATEINT_PEERS", ROOT / ".data" / "envs"))


@pytest.mark.parametrize("peer", ["pylate", "sbert", "colpali"])
def test_what_a_library_returns_is_found_with_its_own_scores(peer: str, tmp_path: Path) -> None:
    python = ENVS / peer / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is missing: scripts/peers/env.sh .data {peer}")
    backbone(tmp_path / "backbone", "bert")
    done = subprocess.run(
        [python, ROOT / "scripts" / "peers" / "interop_peer.py", peer, tmp_path],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    # the index keeps float16
    np.testing.assert_allclose(told["found"], told["scores"], rtol=3e-3, atol=3e-3)
    assert len(told["kinds"]) >= 2, told["kinds"]
