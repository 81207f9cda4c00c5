"""Recordings: from files, in windows, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_audio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_audio import tone, write_tone

from modalities import load_encoder, media
from modalities.audio import AudioConfig, AudioEncoder
from modalities.audio_files import read_features
from modalities.encoder import check_encoder
from modalities.media import Audio, MediaError, as_audio, audio_facts, open_audio, resample

FORMATS: dict[str, dict[str, Any]] = {
    "a.wav": {},
    "float.wav": {"subtype": "FLOAT"},
    "a.flac": {},
    "a.ogg": {},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.mp3": {},
    "a.aiff": {},
}


@pytest.fixture(scope="module")
def mel() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder.log_mel(dim=8)


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    path = write_tone(tmp_path / name, 1.5, **FORMATS[name])
    whole = open_audio(path)
    assert whole.rate == 16_000 and abs(whole.seconds - 1.5) < 0.08
    assert audio_facts(path).seconds == pytest.approx(whole.seconds, abs=0.08)
    count = min(len(whole.samples), 24_000)
    assert np.corrcoef(whole.samples[:count], tone(1.5)[:count])[0, 1] > 0.9
    part = open_audio(path, start=0.5, seconds=0.25)
    assert len(part.samples) == 4000
    assert np.abs(part.samples - whole.samples[8000:12_000]).max() < 0.05


def test_channels_are_mixed_and_loud_samples_cut(tmp_path: Path) -> None:
    both = np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1)
    soundfile.write(tmp_path / "s.wav", both, 8000, subtype="FLOAT")
    assert np.allclose(open_audio(tmp_path / "s.wav").samples, 0.125)
    soundfile.write(tmp_path / "loud.wav", np.full(100, 3.0), 8000, subtype="FLOAT")
    assert np.allclose(open_audio(tmp_path / "loud.wav").samples, 1.0)


def test_resampling_keeps_pitch_and_length() -> None:
    time = np.arange(48_000) / 48_000
    sound = Audio(np.sin(2 * np.pi * 440 * time).astype(np.float32), 48_000)
    low = resample(sound, 16_000)
    assert len(low) == 16_000 and low.dtype == np.float32
    assert np.argmax(np.abs(np.fft.rfft(low))) == 440
    assert resample(sound, 48_000) is sound.samples
    assert len(resample(Audio(np.ones(1, np.float32), 48_000), 8000)) == 1


def test_what_a_recording_may_come_as(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav", 0.1)
    sound = open_audio(path)
    whole = (sound.samples * 32768).round().astype(np.int16)
    for item in (sound, path, str(path), (sound.samples, 16_000), (whole, np.int64(16_000))):
        assert np.abs(as_audio(item).samples - sound.samples).max() < 1e-4
    assert as_audio((torch.ones(3), 8000)).samples.dtype == np.float32
    with pytest.raises(TypeError, match="an Audio, a path or"):
        as_audio(7)
    with pytest.raises(TypeError, match="floats or signed integers"):
        as_audio((np.ones(3, np.uint8), 8000))
    for samples, rate, why in (
        (np.ones((2, 9)), 8000, "one channel"),
        (np.ones(0), 8000, "no samples"),
        ([], 8000, "no samples"),
        (np.array([0.1, np.nan]), 8000, "not finite"),
        (np.ones(9), 3, "a rate of 3"),
        (np.ones(9), "fast", "a rate of 'fast'"),
    ):
        with pytest.raises(MediaError, match=why):
            as_audio((samples, rate))


def hostile(folder: Path) -> dict[Path, str]:
    """Files that are not what they seem, and what is said about each."""
    whole = {name: write_tone(folder / name, 1.5, **FORMATS[name]) for name in FORMATS}
    said = {folder / "gone.wav": "no such file", folder: "not a regular file"}
    for name, path in whole.items():
        half = folder / f"half-{name}"
        half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        said[half] = "truncated|damaged"
    empty, zeros, text = folder / "empty.wav", folder / "zeros.wav", folder / "text.mp3"
    empty.write_bytes(b"")
    zeros.write_bytes(bytes(4096))
    text.write_text("no recording at all, " * 50)
    said |= {empty: "the file is empty", zeros: "no recording", text: "no recording"}
    soundfile.write(folder / "none.wav", np.zeros(0), 16_000)
    nan = np.array([0.1, np.nan, 0.2])
    soundfile.write(folder / "nan.wav", nan, 16_000, subtype="FLOAT")
    soundfile.write(folder / "many.wav", np.zeros((50, 100)), 16_000)
    said[folder / "none.wav"] = "it has no samples"
    said[folder / "nan.wav"] = "not finite"
    said[folder / "many.wav"] = "100 channels, the limit is 16"
    said[write_long_header(folder / "long.flac")] = "36000 s are more than the limit of 14400 s"
    slow = bytearray(whole["a.wav"].read_bytes())
    slow[24:28] = struct.pack("<I", 1)
    (folder / "slow.wav").write_bytes(slow)
    said[folder / "slow.wav"] = "1 samples a second"
    return said


def write_long_header(path: Path, hours: int = 10) -> Path:
    """A FLAC file of a second whose header says that it has ten hours."""
    write_tone(path, 1.0)
    raw = bytearray(path.read_bytes())
    packed = int.from_bytes(raw[18:26], "big")  # rate (20 bits), channels, bits, samples (36)
    packed = (packed >> 36 << 36) | hours * 3600 * 16_000
    raw[18:26] = packed.to_bytes(8, "big")
    path.write_bytes(raw)
    return path


def test_hostile_files_are_clear_errors(tmp_path: Path, mel: AudioEncoder) -> None:
    for path, why in hostile(tmp_path).items():
        with pytest.raises(MediaError, match=why) as error:
            open_audio(path)
        assert str(error.value).startswith(f"{path}: ")
        with pytest.raises(MediaError):
            mel.prepare([path], "document")


def test_limits_of_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tone(tmp_path / "a.wav", 1.0)
    with pytest.raises(MediaError, match=r"1 s are more than the limit of 0 s.*max_seconds"):
        open_audio(path, max_seconds=0.25)
    with pytest.raises(MediaError, match=r"no samples from 5 s on: the recording has 1\.00 s"):
        open_audio(path, start=5)
    monkeypatch.setattr(media, "MAX_AUDIO_BYTES", 1000)
    with pytest.raises(MediaError, match="the limit is 1000"):
        open_audio(path)


def test_a_stream_without_a_length_is_whole(tmp_path: Path) -> None:
    """What ffmpeg writes into a pipe: a WAV file whose header gives no length."""
    raw = bytearray(write_tone(tmp_path / "a.wav", 1.0).read_bytes())
    raw[4:8] = raw[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "pipe.wav").write_bytes(raw)
    assert open_audio(tmp_path / "pipe.wav").seconds == 1.0


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1, 400_000),
    window=st.floats(0.05, 3),
    overlap=st.floats(0, 0.5),
    stride=st.integers(1, 20),
)
def test_every_instant_has_one_token(
    samples: int, window: float, overlap: float, stride: int
) -> None:
    encoder = AudioEncoder.log_mel(dim=2, window=window, overlap=overlap * window, stride=stride)
    parts = encoder.windows(samples)
    hop, most = encoder.lattice.hop, round(window * 16_000)
    assert parts[0].start == 0 and parts[-1].stop == samples
    at = 0
    for part in parts:
        assert part.start % hop == 0 and part.stop - part.start <= most
        assert part.start // hop + part.first == at  # goes on where the one before ended
        assert part.first >= 0 and part.count >= 0
        assert part.first + part.count <= encoder.lattice.frames(part.stop - part.start)
        at += part.count
    assert abs(at - samples / hop) <= 1 or samples < 400


def test_frames_know_their_seconds(mel: AudioEncoder) -> None:
    long = AudioEncoder(None, mel.features, AudioConfig("log-mel", 8, 1.0, 0.25, stride=7))
    grid = long(long.prepare([(tone(3.217), 16_000), (tone(0.5), 16_000)], "document"))
    assert grid.seconds is not None
    for i, length in enumerate((3.217, 0.5)):
        seconds = grid.seconds[i][grid.mask[i]]
        assert seconds[0, 0] == 0 and float(seconds[-1, 1]) == pytest.approx(length)
        assert torch.equal(seconds[1:, 0], seconds[:-1, 1])
        assert torch.allclose(seconds[:-1].diff(dim=1), torch.tensor(0.07))
    labels = long.labels((tone(0.5), 16_000), "query")
    assert labels[:3] == ["0.00s", "0.07s", "0.14s"] and len(labels) == grid.shape[1][1]


def test_the_tokens_of_a_sound_are_where_it_is(mel: AudioEncoder) -> None:
    """A whistle in the third second of five, of which the windows have one each."""
    sound = 0.001 * tone(5.0)
    sound[40_000:44_000] += 0.5 * np.sin(np.arange(4000) * 2 * np.pi * 3000 / 16_000)
    encoder = AudioEncoder(None, mel.features, AudioConfig("log-mel", 80, 1.0, 0.2, stride=5))
    with torch.no_grad():
        encoder.projection.weight.copy_(torch.eye(80))  # type: ignore[operator, union-attr]
    grid = encoder(encoder.prepare([(sound.astype(np.float32), 16_000)], "document"))
    band = int(grid.tokens[0].std(0).argmax())
    loudest = int(grid.tokens[0, :, band].argmax())
    assert grid.seconds is not None
    start, end = grid.seconds[0, loudest].tolist()
    assert 2.4 <= start < end <= 2.8


def test_log_mel_keeps_the_contract(mel: AudioEncoder) -> None:
    items = [(tone(0.7), 16_000), (tone(0.25, 8000, 1), 8000), Audio(tone(0.001), 16_000)]
    check_encoder(mel, items)
    check_encoder(AudioEncoder.log_mel(dim=4).to(torch.bfloat16), items[:2], atol=3e-2)


def test_configs_that_cannot_be() -> None:
    for options, why in (
        ({"family": "gramophone"}, "unknown family"),
        ({"family": "log-mel", "dim": 0}, "dim must be"),
        ({"family": "log-mel", "window": 0.0}, "window must be"),
        ({"family": "log-mel", "window": 1e9}, "window must be"),
        ({"family": "log-mel", "window": 2.0, "overlap": 1.5}, "overlap must be"),
        ({"family": "log-mel", "stride": 0}, "stride must be"),
        ({"family": "log-mel", "dtype": "complex"}, "unknown dtype"),
    ):
        with pytest.raises(ValueError, match=why):
            AudioConfig(**options)  # type: ignore[arg-type]
    model, features = tiny_audio.whisper()
    with pytest.raises(ValueError, match=r"window 30\.0 s is longer than this backbone's 2\.0 s"):
        AudioEncoder(model.encoder, features, AudioConfig("whisper"))


def test_a_saved_folder_that_is_damaged(tmp_path: Path) -> None:
    model, features = tiny_audio.hubert()
    model.save_pretrained(tmp_path / "theirs")
    features.save_pretrained(tmp_path / "theirs")
    encoder = AudioEncoder.from_pretrained(tmp_path / "theirs", dim=8)
    encoder.save(tmp_path / "ours")
    assert isinstance(load_encoder(tmp_path / "ours"), AudioEncoder)
    place = tmp_path / "ours" / "features" / "preprocessor_config.json"
    facts = json.loads(place.read_text())
    for changes, why in (
        ({"sampling_rate": 10**9}, "sampling_rate must be a number above 0, at most 384000"),
        ({"feature_size": "many"}, "feature_size must be a number"),
    ):
        place.write_text(json.dumps({**facts, **changes}))
        with pytest.raises(ValueError, match=why):
            load_encoder(tmp_path / "ours")
    place.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is no JSON"):
        load_encoder(tmp_path / "ours")
    place.unlink()
    with pytest.raises(ValueError, match="is missing"):
        load_encoder(tmp_path / "ours")
    (tmp_path / "ours" / "backbone" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is of a 'bert', not of a 'hubert'"):
        load_encoder(tmp_path / "ours")


def test_noise_of_a_feature_extractor_is_off(tmp_path: Path) -> None:
    from transformers import WhisperFeatureExtractor

    from modalities.audio_families import FAMILIES

    WhisperFeatureExtractor(dither=0.5).save_pretrained(tmp_path)
    assert read_features(FAMILIES["whisper"], tmp_path).dither == 0


def test_backbones_that_are_none_of_ours(tmp_path: Path) -> None:
    from tiny_text import bert

    bert()[0].save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="model_type 'bert' is none of"):
        AudioEncoder.from_pretrained(tmp_path / "bert")
    model, features = tiny_audio.hubert()
    features.save_pretrained(tmp_path / "lame")
    weights = {
        name: w for name, w in model.state_dict().items() if "layers.1.attention" not in name
    }
    model.save_pretrained(tmp_path / "lame", state_dict=weights)
    with pytest.raises(ValueError, match=r"missing weights \['encoder.layers.1.attention"):
        AudioEncoder.from_pretrained(tmp_path / "lame")
    model.save_pretrained(
        tmp_path / "lame", state_dict={**model.state_dict(), "lm_head.w": torch.ones(1)}
    )
    AudioEncoder.from_pretrained(tmp_path / "lame")  # the head of a task is known
    model.save_pretrained(
        tmp_path / "lame", state_dict={**model.state_dict(), "extra.w": torch.ones(1)}
    )
    with pytest.raises(ValueError, match=r"unexpected weights \['extra.w'\]"):
        AudioEncoder.from_pretrained(tmp_path / "lame")
