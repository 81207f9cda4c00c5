"""What a training run writes: a checkpoint is a model of this library, and what it needs to go on.

    config.json, encoders, heads.safetensors    the model, as `LateInteractionModel.save` writes it
    training.safetensors                        parameters of losses; with LoRA, all that learns
    README.md, training_arguments.json          the card, the arguments
    optimizer.pt, scheduler.pt, rng_state.pth, trainer_state.json    as transformers writes them

Files that transformers would pickle (training_args.bin) are not written.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from lateint import adapters
from lateint.config import write_json
from lateint.learner import Learner
from lateint.model import LateInteractionModel
from lateint.model_files import CONFIG

STATE = "training.safetensors"
ARGUMENTS = "training_arguments.json"
CARD = "README.md"
PARTIAL = ".model.partial"

logger = logging.getLogger(__name__)


def save(folder: Path, learner: Learner, card: str, arguments: dict[str, Any]) -> None:
    """Writes a checkpoint's model into `folder`, which may hold other things.

    It is written beside an old one and moved over it, config.json last, so that a run that is
    killed here leaves no folder that loads and is wrong. Adapters are merged into what is saved.
    """
    from safetensors.torch import save_file

    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    adapted = adapters.has_adapters(learner.model)
    model = adapters.merged(learner.model) if adapted else learner.model
    model.save(partial)
    if state := _state(learner, adapted):
        save_file(state, str(partial / STATE))
    (partial / CARD).write_text(card, encoding="utf-8")
    write_json(partial / ARGUMENTS, arguments)
    (folder / CONFIG).unlink(missing_ok=True)
    (folder / STATE).unlink(missing_ok=True)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == CONFIG):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    partial.rmdir()


def load(folder: Path, learner: Learner) -> None:
    """A checkpoint's weights into a learner. ValueError where they do not fit."""
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    if (folder / STATE).is_file():
        state = load_file(str(folder / STATE))
    if not adapters.has_adapters(learner.model):
        saved = LateInteractionModel.load(folder).state_dict()
        state |= {f"model.{name}": value for name, value in saved.items()}
    try:
        result = learner.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{folder} is of another model: {error}") from error
    learning = {name for name, p in learner.named_parameters() if p.requires_grad}
    if missing := sorted(learning & set(result.missing_keys)):
        raise ValueError(f"{folder}: no weights for {missing[:3]}: it is of another run")
    if result.unexpected_keys:
        raise ValueError(f"{folder}: unexpected weights {result.unexpected_keys[:3]}")


def last_checkpoint(folder: str | Path) -> Path:
    """The newest checkpoint below `folder` that is whole. ValueError where there is none."""
    found = [p for p in Path(folder).glob("checkpoint-*") if p.name.split("-")[-1].isdecimal()]
    for path in sorted(found, key=lambda p: -int(p.name.split("-")[-1])):
        try:
            # the model's config.json is moved in when its weights are there; this comes last
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            if (path / CONFIG).is_file():
                return path
        except (OSError, ValueError):
            pass
        logger.warning("%s is not whole and is passed over", path)
    raise ValueError(f"{folder}: no whole checkpoint to go on from")


def _state(learner: Learner, adapted: bool) -> dict[str, Tensor]:
    """What the model's own folder does not hold: the goals, and with adapters all that learns (the
    folder has them merged, which cannot be undone without rounding)."""
    state = {f"goals.{name}": value for name, value in learner.goals.state_dict().items()}
    if adapted:
        learning = {name for name, p in learner.named_parameters() if p.requires_grad}
        state |= {k: v for k, v in learner.state_dict().items() if k in learning}
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
