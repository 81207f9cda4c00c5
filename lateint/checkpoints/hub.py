"""A checkpoint from the hub of transformers: its files in the hub's own cache on this machine.

Knows names and files only; what is in them is for the loaders.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from lateint.config import ConfigError

WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.metadata", "*.pt", "*.bin", "*.jinja")
"""Files that loaders read; exports to other runtimes in the same repository are not fetched."""
UNWANTED = ("onnx/*", "openvino/*", "*.onnx", "training_args.bin", "optimizer*", "rng_state*")


def snapshot(name: str, revision: str | None = None) -> Path:
    """Folder of the files of "owner/name". Raises ConfigError where it cannot be had."""
    if not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", name) or ".." in name:
        raise ConfigError(f"{name}: no such folder, and no name on the hub (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        found = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
            local_files_only=offline,
        )
    except LocalEntryNotFoundError as error:
        why = (
            "HF_HUB_OFFLINE is set, so the hub is not asked: unset it"
            if offline
            else f"the hub cannot be reached ({error.__cause__ or error})"
        )
        raise ConfigError(
            f"{name}: no such folder, and no such model in the hub's cache; {why}, "
            "or give the folder of a copy"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConfigError(f"{name}: no such folder; the hub says: {error}") from error
    return Path(found)
