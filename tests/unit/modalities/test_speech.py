"""The ear that ships: words heard against words written, from the wave to the hit."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import lateint
from lateint.heads import make_head
from modalities import check_encoder, dictation
from modalities.hearing import FRAME, RATE, heard
from modalities.layout import QueryContext
from modalities.media import MediaError, open_audio
from modalities.page import PageText
from modalities.speech import OVERLAP, REST, SOUND_TOKENS, WINDOW, SpeechReader, _within

RECORDINGS = Path(__file__).parent.parent.parent / "recordings"
QUESTION, BREAD = RECORDINGS / "question.flac", RECORDINGS / "bread.flac"
SAID = "set the rain gauge counter back to zero"


@pytest.fixture(scope="module")
def ear() -> SpeechReader:
    return SpeechReader.shipped()


@pytest.fixture(scope="module")
def text() -> PageText:
    return PageText.shipped()


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> tuple[np.ndarray, int]:
    samples = np.random.default_rng(seed).standard_normal(int(seconds * RATE)) * level
    return samples.astype(np.float32), RATE


@pytest.mark.parametrize("role", ["query", "document"])
def test_contract(ear: SpeechReader, role: str) -> None:
    silence = (np.zeros(RATE // 50, np.float32), RATE)
    check_encoder(ear, [QUESTION, silence, noise(0.7)], role=role, atol=1e-4)  # type: ignore[arg-type]


@torch.inference_mode()
def test_a_question_heard_is_the_question_written(ear: SpeechReader, text: PageText) -> None:
    grid = ear(ear.prepare([QUESTION], "query"))
    documents = ["Set the rain gauge counter back to zero.", "Knead the dough and let it rise."]
    written = text(text.prepare(documents, "document"))
    scores = (grid.tokens[0] @ written.tokens.transpose(1, 2)).amax(2).sum(1)
    assert scores[0] > scores[1] + 1.5
    assert grid.pooled is not None and written.pooled is not None
    assert float(grid.pooled[0] @ written.pooled[0]) > float(grid.pooled[0] @ written.pooled[1])


@torch.inference_mode()
def test_a_word_is_met_when_it_is_said(ear: SpeechReader, text: PageText) -> None:
    seconds = open_audio(BREAD).seconds
    grid = ear(ear.prepare([BREAD], "document"))
    assert grid.seconds is not None and grid.shape[0] == (1, grid.tokens.shape[1])
    assert grid.seconds[0, 0].tolist() == pytest.approx([0, seconds], abs=1e-3)
    when = {}
    for word in ("minutes", "morning"):
        query = text(text.prepare([word], "query")).tokens[0, 1]
        when[word] = grid.seconds[0, 1 + int((grid.tokens[0, 1:] @ query).argmax())].tolist()
    assert when["minutes"][1] < seconds / 2 < when["morning"][0]
    assert all(0 < end - start < 2 for start, end in when.values())


@torch.inference_mode()
def test_a_long_recording_is_read_in_windows(ear: SpeechReader) -> None:
    """Each window says what it says alone, each frame counts once, and each word comes once."""
    samples = torch.zeros(41 * RATE)
    for second, path in ((0, BREAD), (13, QUESTION), (25, BREAD), (36, QUESTION)):
        said = torch.from_numpy(open_audio(path).samples)
        samples[second * RATE : second * RATE + len(said)] = said
    first, last = ear.windows(samples)
    count = 41 * RATE // FRAME
    size = len(first.spelt)
    assert size < WINDOW and len(last.spelt) == size == last.own.stop
    assert first.start == 0 and last.start == count - size
    assert OVERLAP <= size - last.start <= OVERLAP + 1  # little is read twice
    assert last.start + last.own.start == first.own.stop == (last.start + size) // 2
    (alone,) = ear.windows(samples[last.start * FRAME :])
    torch.testing.assert_close(last.spelt, alone.spelt, atol=1e-3, rtol=1e-3)
    told = ear.listen(samples).said
    assert [w for w in told.written if w in ("morning", "zero")] == ["morning", "zero"] * 2
    assert 13 < told.seconds[told.written.index("zero"), 0] < 20
    assert (told.seconds[1:, 0] >= told.seconds[:-1, 0]).all()


@torch.inference_mode()
def test_what_is_written_has_labels_and_what_is_only_heard_has_numbers(
    ear: SpeechReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = ear.labels(QUESTION, "query")
    assert labels == ["[recording]", *SAID.split()]
    monkeypatch.setattr(dictation, "DOUBTFUL", 0.0)  # nothing is trusted
    assert ear.labels(QUESTION, "query")[1:4] == ["word 1", "word 2", "word 3"]


@torch.inference_mode()
def test_what_is_in_doubt_is_there_twice(
    ear: SpeechReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was written and as it sounds, each with its seconds, in a space of its own."""
    sure = ear(ear.prepare([QUESTION], "query"))
    monkeypatch.setattr(dictation, "SURE", 0.0)  # all is in doubt
    batch = ear.prepare([QUESTION, noise(1.0)], "query")
    grid, labels = ear(batch), ear.labels(QUESTION, "query")
    count = 1 + len(SAID.split())
    assert labels[:count] == ["[recording]", *SAID.split()]
    assert labels[count:] == [f"word {i}" for i in range(count, len(labels))]
    assert grid.shape[0] == (1, len(labels)) and len(labels) > count + 4
    torch.testing.assert_close(grid.tokens[0, :count], sure.tokens[0])
    assert grid.seconds is not None
    assert (grid.seconds[0, count:, 0].diff() > 0).all() and grid.seconds[0, count, 0] < 1
    found = ear.listen(batch.inputs["samples"][0])
    near = (found.instead.vectors @ found.said.vectors.T).amax(1)
    assert float(near.median()) > 0.8


@torch.inference_mode()
def test_what_is_no_speech_gets_tokens_of_its_own(ear: SpeechReader) -> None:
    grid = ear(ear.prepare([noise(2.0, seed=3), QUESTION], "document"))
    assert grid.seconds is not None
    labels = ear.labels(noise(2.0, seed=3), "document")
    assert labels[-SOUND_TOKENS:] == [f"sound {i}" for i in range(1, SOUND_TOKENS + 1)]
    assert grid.shape[0] == (1, len(labels))
    spoken = ear.labels(QUESTION, "document")
    assert not any(label.startswith("sound") for label in spoken)
    assert 6 <= len(spoken) - 1 <= 10  # eight words


@torch.inference_mode()
def test_a_sound_in_which_letters_are_heard_has_no_words(ear: SpeechReader) -> None:
    """A tone that rises fast: one of the two that hear words says that there is no speech."""
    time = np.arange(RATE) / RATE
    tone = (0.5 * np.sin(2 * np.pi * (500 + 2000 * time) * time)).astype(np.float32)
    (window,) = ear.windows(torch.from_numpy(tone))
    assert len(heard(window.spelt).vectors) and not window.speech
    assert ear.labels((tone, RATE), "document") == ["[recording]", "sound 1", "sound 2"]


@torch.inference_mode()
def test_silence_has_one_token(ear: SpeechReader) -> None:
    grid = ear(ear.prepare([(np.zeros(3 * RATE, np.float32), RATE)], "document"))
    assert grid.shape == ((1, 1),)
    assert bool(torch.isfinite(grid.tokens).all())


def test_a_question_has_as_many_words_as_a_written_one(ear: SpeechReader) -> None:
    long = np.tile(open_audio(QUESTION).samples, 12)
    assert len(ear.labels((long, RATE), "query")) == 1 + QueryContext.MAX_WORDS
    assert ear.cost([(long, RATE)], "query")[0] == 1 + QueryContext.MAX_WORDS


def test_what_cannot_be_read_is_named(ear: SpeechReader, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    for path in (broken, tmp_path / "missing.wav"):
        with pytest.raises(MediaError, match=path.name):
            ear.prepare([path], "query")
    with pytest.raises(TypeError, match="a recording is"):
        ear.prepare([3], "query")


def test_collection_of_recordings(ear: SpeechReader, text: PageText, tmp_path: Path) -> None:
    """Recordings and a text found by words, and by a spoken question."""
    heads = {"multi": make_head("multi", {"queries": "weighted"})}
    model = lateint.LateInteractionModel({"audio": ear, "text": text}, heads)
    folder = tmp_path / "files"
    folder.mkdir()
    samples, rate = soundfile.read(BREAD, dtype="float32")
    soundfile.write(folder / "bread.wav", samples, rate)
    (folder / "gauge.txt").write_text(f"{SAID.capitalize()} with the brass key.\n")
    (folder / "birds.txt").write_text("Gulls call at dawn over the harbour.\n")
    collection = lateint.Collection.create(tmp_path / "c", model)
    collection.add(folder)
    hit = collection.search("let it rise until morning", k=3)[0]
    assert hit.id.endswith("bread.wav")
    times = [match.seconds for match in hit.words if match.word == "morning"]
    assert times and times[0] is not None and times[0][0] > len(samples) / rate / 2
    assert collection.search(audio=QUESTION, k=3)[0].id.endswith("gauge.txt")


def test_what_lies_in_a_stretch_is_told_frame_by_frame() -> None:
    stretches = torch.tensor([[0.5, 0.9], [0.8, 1.5], [4.0, 4.01], [9.0, 11.0]])
    middle = (torch.arange(500) + 0.5) * (FRAME / RATE)
    wanted = torch.zeros(500, dtype=torch.bool)
    for start, end in stretches.tolist():
        wanted |= (middle > start - REST) & (middle < end + REST)
    assert torch.equal(_within(stretches, 500), wanted)
    assert not _within(stretches[:0], 500).any()


@torch.inference_mode()
def test_it_hears_in_other_dtypes_and_survives_a_copy(ear: SpeechReader) -> None:
    half = copy.deepcopy(ear).to(torch.bfloat16)
    grid = half(half.prepare([QUESTION], "query"))
    assert grid.tokens.dtype == torch.bfloat16
    alone = ear(ear.prepare([QUESTION], "query"))
    assert grid.shape == alone.shape and ear.dictation.quieted
    near = torch.nn.functional.cosine_similarity(grid.tokens.float(), alone.tokens, dim=-1)
    assert float(near.min()) > 0.9
    half.dictation.load_state_dict(half.dictation.state_dict())  # forgets its own silence alone
    assert not half.dictation.quieted and ear.dictation.quieted
