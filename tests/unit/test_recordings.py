"""Recordings through the whole house: files, parts, index, hits and the seconds at which they match."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from tiny_audio import tone
from toy_audio import Pitch, listening_model, write_pitches
from toy_model import HashedText, toy_model

import modalities
from lateint import cli, sources
from lateint.collection import Collection
from lateint.encoding import CollectionModel
from lateint.explain import Traces, matches
from lateint.ledger import CollectionError
from lateint.model import LateInteractionModel
from lateint.sources import LEAST_SECONDS, PART_SECONDS, SourceError
from modalities.audio import AudioEncoder
from modalities.media import Audio, MediaError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    folder.mkdir()
    write_pitches(folder / "talk.wav", ("low", 40), ("high", 2), ("low", 23))
    write_pitches(folder / "hum.flac", ("middle", 3))
    (folder / "notes.txt").write_text("low tide")
    return folder


def test_a_recording_gives_its_parts(folder: Path) -> None:
    documents = list(sources.read(folder / "talk.wav"))
    assert [d.suffix for d in documents] == ["", "#part=2", "#part=3"]
    assert [(d.metadata["start"], d.metadata["end"]) for d in documents] == [
        (0.0, 30.0),
        (30.0, 60.0),
        (60.0, 65.0),
    ]
    assert {d.kind for d in documents} == {"audio"}
    assert (documents[0].metadata["duration"], documents[0].metadata["rate"]) == (65.0, 16_000)
    assert [round(d.item.seconds, 3) for d in documents] == [30.0, 30.0, 5.0]
    assert [d.number for d in sources.read(folder / "talk.wav", wanted=lambda n: n == 2)] == [2]


@given(st.floats(0.001, 20_000))
def test_every_instant_is_in_one_part(seconds: float) -> None:
    parts = sources.cut_recording(seconds)
    assert parts[0][0] == 0 and parts[-1][1] == seconds
    assert [end for _, end in parts[:-1]] == [start for start, _ in parts[1:]]
    assert all(start == i * PART_SECONDS for i, (start, _) in enumerate(parts))
    assert all(end - start <= PART_SECONDS + LEAST_SECONDS for start, end in parts)
    assert len(parts) == 1 or parts[-1][1] - parts[-1][0] >= LEAST_SECONDS - 1e-6


def test_a_recording_that_ends_early(tmp_path: Path) -> None:
    """An MP3 file says in its header how long it is; this one was cut off after that."""
    whole = tmp_path / "whole.mp3"
    soundfile.write(whole, np.tile(tone(1.0), 100), 16_000)
    cut = tmp_path / "cut.mp3"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    reasons: list[str] = []
    documents = list(sources.read(cut, on_problem=reasons.append))
    assert [d.number for d in documents] == [1]
    assert len(reasons) == 1 and reasons[0].startswith("part 2: ") and "truncated" in reasons[0]
    with pytest.raises(SourceError, match="truncated"):
        list(sources.read(cut))
    (tmp_path / "zeros.ogg").write_bytes(bytes(1000))
    with pytest.raises(SourceError, match="no recording"):
        list(sources.read(tmp_path / "zeros.ogg", on_problem=reasons.append))


def test_traces_with_seconds_survive_the_ledger() -> None:
    seconds = np.array([[0, 0.02], [3599.98, 3600.004]], np.float32)
    again = Traces.from_bytes(Traces(seconds=seconds).to_bytes())
    assert again.boxes is None and again.seconds is not None
    assert np.abs(again.seconds - seconds).max() < 1e-3
    boxes = np.array([[0, 0, 0.5, 1]], np.float32)
    both = Traces.from_bytes(Traces(boxes, ("a",), seconds).to_bytes())
    assert both.boxes is not None and both.seconds is not None and both.labels == ("a",)
    assert np.abs(both.boxes - boxes).max() < 1e-4 and both.seconds.shape == (2, 2)


def test_matches_say_when() -> None:
    seconds = np.array([[0, 1], [1, 2]], np.float32)
    scores = np.array([[0.1, 0.9]], np.float32)
    (match,) = matches(scores, ["bell"], Traces(seconds=seconds))
    assert (match.seconds, match.box) == ((1.0, 2.0), None)
    assert match.to_json()["seconds"] == [1.0, 2.0]
    (match,) = matches(scores, ["bell"], Traces(seconds=seconds[:1]))  # of another document
    assert match.seconds is None


def test_recordings_are_found_by_words_and_by_sound(tmp_path: Path, folder: Path) -> None:
    with Collection.create(tmp_path / "c", listening_model()) as collection:
        report = collection.add(folder)
        assert report.problems == [] and report.documents == 5
        assert set(collection.ids()) == {
            *("talk.wav", "talk.wav#part=2", "talk.wav#part=3", "hum.flac", "notes.txt")
        }
        (best, *_) = collection.search("high", where="kind = 'audio'")
        assert (best.id, best.page, best.source) == ("talk.wav#part=2", None, folder / "talk.wav")
        (match,) = best.words
        assert match.word == "high" and match.seconds is not None and match.box is None
        assert 40 <= match.seconds[0] < match.seconds[1] <= 42  # of the file, not of the part

        ask = write_pitches(tmp_path / "ask.wav", ("high", 1))
        by_sound = collection.search(audio=ask, k=1)[0]
        assert by_sound.id == "talk.wav#part=2" and by_sound.words == ()
        sound = modalities.open_audio(ask)
        assert collection.search(audio=sound, k=1)[0].score == pytest.approx(by_sound.score)
        both = collection.search(audio=sound, where="start >= 30 and duration > 60", k=9)
        assert [hit.id for hit in both] == ["talk.wav#part=2", "talk.wav#part=3"]
        with pytest.raises(CollectionError, match="has no picture"):
            collection.page_image("talk.wav")
        with pytest.raises(CollectionError, match="one of a query text, image= and audio="):
            collection.search("high", audio=ask)
        with pytest.raises(CollectionError, match="hybrid"):
            collection.search(audio=ask, hybrid=True)
        with pytest.raises(MediaError, match="no such file"):
            collection.search(audio=tmp_path / "gone.wav")
        with pytest.raises(MediaError, match="65 s are more than the limit of 60 s"):
            collection.search(audio=folder / "talk.wav")
        with pytest.raises(ValueError, match="61 s as a query"):
            collection.search(audio=Audio(np.zeros(61 * 8000, np.float32), 8000))

        write_pitches(folder / "talk.wav", ("low", 31))  # shorter now: the tail belongs to part 1
        assert collection.add(folder).files_updated == 1
        assert set(collection.ids()) == {"talk.wav", "hum.flac", "notes.txt"}


def test_a_model_that_cannot_hear_says_which_could(tmp_path: Path, folder: Path) -> None:
    (folder / "broken.mp3").write_bytes(b"never opened")
    with Collection.create(tmp_path / "c", toy_model()) as collection:
        report = collection.add(folder)
        assert collection.ids() == ["notes.txt"] and report.files_added == 1
        assert len(report.problems) == 3  # one a file, whatever its length
        for problem in report.problems:
            assert "no encoder for audio" in problem.reason and "CLAP" in problem.reason
        assert len(collection.info().problems) == 3
        with pytest.raises(ValueError, match="no encoder for audio"):
            collection.search(audio=folder / "hum.flac")
    hearing = CollectionModel.of(listening_model())
    assert hearing.refuses("audio") is None and hearing.refuses("pdf") is not None


def test_the_command_line_finds_and_asks_with_recordings(
    tmp_path: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(modalities.ENCODERS, Pitch.name, ("toy_audio", "Pitch"))
    monkeypatch.setitem(modalities.ENCODERS, HashedText.name, ("toy_model", "HashedText"))
    listening_model().save(tmp_path / "model")

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            cli.main([*map(str, arguments), "--collection", str(tmp_path / "c")])
        assert not end.value.code
        return capsys.readouterr().out

    run("index", folder, "--model", tmp_path / "model")
    lines = run("search", "high", "--where", "kind = 'audio'").splitlines()
    assert lines[1].split()[:3] == ["1", "talk.wav", "0:30"] and lines[1].endswith("high 0:40")
    ask = write_pitches(tmp_path / "ask.wav", ("middle", 1))
    said = json.loads(run("search", "--audio", ask, "--json"))
    assert said["audio"] == str(ask) and said["hits"][0]["id"] == "hum.flac"
    said = json.loads(run("search", "high", "--json", "-k", 1, "--where", "part = 2"))
    assert said["hits"][0]["words"][0]["seconds"] == [40.0, 40.5]


def test_a_model_to_train_with_recordings(tmp_path: Path) -> None:
    model = LateInteractionModel.from_backbones(
        audio="log-mel", dim=16, audio_options={"stride": 10}
    )
    items = [(tone(0.55), 16_000), (tone(1.0, seed=1), 16_000)]
    encoded = model.encode(items, "document", modality="audio")
    assert [len(rows) for rows in encoded.tokens] == [6, 10]
    assert encoded.boxes is None and encoded.seconds is not None
    assert encoded.seconds[0][-1].tolist() == pytest.approx([0.5, 0.55])
    single = model.encode(items, "document", modality="audio", head="single")
    assert single.seconds is None and len(single.tokens.values) == 2
    model.save(tmp_path / "model")
    again = LateInteractionModel.load(tmp_path / "model")
    assert isinstance(again.encoder("audio"), AudioEncoder)
