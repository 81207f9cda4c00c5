"""colpali-engine's side of tests/parity/test_vlm_engine.py, run in its own environment.

    DATA/envs/colpali/bin/python scripts/peers/colpali_peer.py PICTURES OUT [class ...]

For each class a tiny random model, as that library saves it merged, as a base and a LoRA adapter
over it, with its processor; and what the library says of the pictures in PICTURES and of a few
queries: OUT/<class>/{merged,base,adapter}, OUT/<class>/expected.safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.tiny_vlm import ENGINE, backbone, engine_parts, shaken

# colpali-engine's own training configurations name targets so
TARGETS = (
    r"(.*(model).*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj|Wqkv|Wo|Wi).*$"
    r"|.*(custom_text_proj|^linear).*$)"
)
QUERIES = ["loss goes up after warm-up", "", "Wer schrieb das? 誰が", "x" * 300]


def make(name: str, pictures: list[Image.Image], out: Path) -> None:
    import colpali_engine.models as engine
    from peft import LoraConfig, get_peft_model

    kind = ENGINE[name]
    parts = engine_parts(kind)
    model = shaken(getattr(engine, name)(backbone(kind, parts["tokenizer"])))
    suffix = "_Processor" if name == "ColQwen2_5" else "Processor"
    processor = getattr(engine, name + suffix)(**parts)
    expected = said(model, processor, pictures, "merged")
    model.save_pretrained(out / "merged")
    model.save_pretrained(out / "base")
    for folder in ("merged", "base", "adapter"):
        processor.save_pretrained(out / folder)
    lora = LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, bias="none")
    adapted = get_peft_model(model, lora)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in adapted.named_parameters():
            if "lora_" in key:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    expected |= said(adapted, processor, pictures, "adapter")
    adapted.save_pretrained(out / "adapter")
    facts = json.loads((out / "adapter" / "adapter_config.json").read_text())
    facts["base_model_name_or_path"] = str(out / "base")
    (out / "adapter" / "adapter_config.json").write_text(json.dumps(facts))
    save_file({k: v.contiguous() for k, v in expected.items()}, out / "expected.safetensors")


def said(
    model: Any, processor: Any, pictures: list[Image.Image], what: str
) -> dict[str, torch.Tensor]:
    """Rows without padding: of all pictures in one batch, of each query alone (with transformers
    5.23 ColPali reads queries in a padded batch one way only, and alone both ways)."""
    model.eval()
    batches = [("page", processor.process_images(pictures))]
    batches += [("query", processor.process_queries(queries=[query])) for query in QUERIES]
    rows: dict[str, torch.Tensor] = {}
    for role, inputs in batches:
        with torch.inference_mode():
            out = model(**inputs)
        for row, mask in zip(out, inputs["attention_mask"].bool(), strict=True):
            number = sum(key.startswith(f"{what}.{role}.") for key in rows)
            rows[f"{what}.{role}.{number}"] = row[mask].clone()
    return rows


if __name__ == "__main__":
    source, target, *names = sys.argv[1:]
    opened = [Image.open(path).convert("RGB") for path in sorted(Path(source).glob("*.png"))]
    for each in names or ENGINE:
        try:
            make(each, opened, Path(target) / each)
        except Exception as error:  # one class that does not run must not hide the others
            (Path(target) / each).mkdir(parents=True, exist_ok=True)
            (Path(target) / each / "failed").write_text(f"{type(error).__name__}: {error}")
            print(f"{each}: {type(error).__name__}: {error}", file=sys.stderr)
