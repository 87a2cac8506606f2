"""What models of speech write and how it is judged: as transformers computes it, and by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, WhisperForConditionalGeneration

from migaki.core.errors import ModelError, RecipeError
from migaki.models.speech import Heard, ear_of
from migaki.models.writing import LetterPen, WhisperPen, Written, pen_of
from odd_sounds import RATE_HZ
from tiny_speech import WINDOW_S, chirp, save_ctc_tokenizer, save_wave, save_whisper, whisper_tokenizer

WAVES = [chirp(i, seconds) for i, seconds in enumerate((0.5, 0.9, 0.3, 1.6))]
TEXTS = ("press one", "no", "yes yes", "press two now")


@pytest.fixture(scope="module", params=[0, 1])
def whisper(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    folder = save_whisper(tmp_path_factory.mktemp("whisper"), seed=request.param)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        # Far enough from its start that it does not say one token for ever.
        for p in model.parameters():
            p.mul_(3)
    return model, AutoTokenizer.from_pretrained(folder), AutoFeatureExtractor.from_pretrained(folder)


def features(extractor: Any) -> torch.Tensor:
    """As transformers prepares them, (B, F, frames)."""
    found = extractor(WAVES, sampling_rate=RATE_HZ, return_tensors="pt", padding="max_length")
    mel_BFT: torch.Tensor = found["input_features"]
    assert mel_BFT.shape[-1] == 100 * WINDOW_S
    return mel_BFT


@torch.no_grad()
def heard_by(model: Any, extractor: Any) -> Heard:
    ear = ear_of(model, extractor, whole_window=True)
    return ear.finish(ear.blocks(ear.embed([ear.entering(wave_N) for wave_N in WAVES])))


def prompt_of(tokenizer: Any, *names: str) -> list[int]:
    return tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", *names, "<|notimestamps|>"])


@pytest.mark.parametrize(("language", "translate"), [("en", False), ("ja", False), ("ja", True)])
def test_whisper_writes_what_transformers_generates(whisper, language, translate):
    given, tokenizer, extractor = whisper
    model = copy.deepcopy(given)
    for p in model.parameters():  # so far that what it hears decides what it says
        p.data.mul_(2)
    pen = WhisperPen(model, tokenizer, "m", language, translate, most_tokens=12)
    written = pen.write(heard_by(model, extractor))
    task = "translate" if translate else "transcribe"
    ids = model.generate(features(extractor), language=language, task=task, max_new_tokens=12, num_beams=1)
    wanted = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    assert [one.text for one in written] == wanted
    assert len(set(wanted)) > 1


def test_what_whisper_begins_with_is_the_language_the_task_and_no_times(whisper):
    model, tokenizer, _ = whisper
    assert WhisperPen(model, tokenizer, "m", "ja").prompt() == prompt_of(tokenizer, "<|ja|>", "<|transcribe|>")
    assert WhisperPen(model, tokenizer, "m", "ja", True).prompt() == prompt_of(tokenizer, "<|ja|>", "<|translate|>")


def test_a_language_that_is_not_named_is_told_as_transformers_tells_it(whisper):
    model, tokenizer, extractor = whisper
    heard = heard_by(model, extractor)
    told = WhisperPen(model, tokenizer, "m")._told(heard)[:, 0]
    assert told.tolist() == model.detect_language(features(extractor)).tolist()
    alone = [WhisperPen(model, tokenizer, "m", tokenizer.decode(one).strip("<|>")) for one in told.tolist()]
    wanted = [pen.write(heard.rows([i]))[0].text for i, pen in enumerate(alone)]
    assert [one.text for one in WhisperPen(model, tokenizer, "m").write(heard)] == wanted


def test_the_loss_of_whisper_counts_the_transcript_and_its_end_alone(whisper):
    model, tokenizer, extractor = whisper
    pen = WhisperPen(model, tokenizer, "m", "en")
    targets = [pen.targets(text) for text in TEXTS]
    found = pen.losses(heard_by(model, extractor), targets)
    prompt, mel_BFT = pen.prompt(), features(extractor)
    for i, (text, loss) in enumerate(zip(TEXTS, found, strict=True)):
        ids = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        assert targets[i] == (*ids, model.config.eos_token_id)
        with torch.no_grad():
            inputs = torch.tensor([prompt + ids])
            logits_SV = model(input_features=mel_BFT[i : i + 1], decoder_input_ids=inputs).logits[0]
        wanted = F.cross_entropy(logits_SV[len(prompt) - 1 :], torch.tensor(targets[i]), reduction="sum")
        assert loss == pytest.approx(float(wanted), rel=1e-4)


def test_the_gradient_of_whisper_is_that_of_its_plain_loss(whisper):
    model, tokenizer, extractor = whisper
    pen, heard = WhisperPen(model, tokenizer, "m", "en"), heard_by(model, extractor)
    targets = [pen.targets(text) for text in TEXTS]
    weight = model.model.decoder.layers[0].encoder_attn.k_proj.weight
    (found,) = torch.autograd.grad(pen.loss(heard, targets, 0.1), weight)
    plain = F.cross_entropy(
        pen.logits(heard, targets), torch.tensor(sum(targets, ())), label_smoothing=0.1, reduction="sum"
    )
    (wanted,) = torch.autograd.grad(plain, weight)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_a_transcript_that_comes_to_no_end_stops_at_the_limit_and_says_so(whisper):
    model, tokenizer, extractor = whisper
    written = WhisperPen(model, tokenizer, "m", "en", most_tokens=1).write(heard_by(model, extractor))
    assert [(one.choices, one.stopped) for one in written] == [(1, False)] * len(WAVES)


def test_confidence_is_the_geometric_mean_of_what_was_chosen():
    # ln 1/2 + ln 1/8 over two tokens: the root of 1/16.
    assert Written("a", -4 * 0.6931471805599453, 2, True).confidence == pytest.approx(0.25)


def test_words_of_japanese_begin_without_a_space(whisper):
    model, tokenizer, _ = whisper
    pen = WhisperPen(model, tokenizer, "m", "ja")
    assert tokenizer.decode(pen.targets("はい")[:-1]) == "はい"
    assert tokenizer.decode(pen.targets(" yes ")[:-1]) == " yes"


def test_a_transcript_with_a_sign_of_the_model_is_refused(whisper):
    model, tokenizer, _ = whisper
    with pytest.raises(ValueError, match="sign of the model itself"):
        WhisperPen(model, tokenizer, "m", "en").targets("yes<|endoftext|>")


def test_a_transcript_longer_than_the_model_writes_is_told(whisper):
    model, tokenizer, _ = whisper
    pen = WhisperPen(model, tokenizer, "m", "en")
    # 48 positions, 4 of them for the prompt.
    assert pen.misfit([5] * 44, 100) is None
    assert pen.misfit([5] * 45, 100) == "has 45 tokens, and the model writes at most 44 of one recording"


def test_a_language_that_whisper_does_not_know_is_refused_with_those_it_knows(whisper):
    model, tokenizer, _ = whisper
    with pytest.raises(ModelError, match=r"task\.language: m does not know 'jp'\. It knows en, ja"):
        WhisperPen(model, tokenizer, "m", "jp")


def test_a_model_of_english_alone_has_no_language_and_no_task(tmp_path):
    model = WhisperForConditionalGeneration.from_pretrained(save_whisper(tmp_path, languages=False))
    tokenizer = whisper_tokenizer()
    for language in (None, "en"):
        assert WhisperPen(model, tokenizer, "m", language).prompt() == prompt_of(tokenizer)
    for settings in ({"language": "ja"}, {"translate": True}):
        with pytest.raises(ModelError, match="knows English alone"):
            WhisperPen(model, tokenizer, "m", **settings)


LETTERS = ("wav2vec2", "wav2vec2-stable", "hubert")


@pytest.fixture(scope="module", params=LETTERS)
def letters(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    folder = save_wave(tmp_path_factory.mktemp("letters"), request.param, ctc=True)
    model = AutoModelForCTC.from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder), AutoFeatureExtractor.from_pretrained(folder)


def test_letters_are_written_and_judged_as_transformers_does(letters):
    model, tokenizer, extractor = letters
    pen, heard = LetterPen(model, tokenizer, "m"), heard_by(model, extractor)
    targets = [pen.targets(text) for text in TEXTS]
    written, losses = pen.write(heard), pen.losses(heard, targets)
    for i, (wave_N, text) in enumerate(zip(WAVES, TEXTS, strict=True)):
        inputs = extractor(wave_N, sampling_rate=RATE_HZ, return_tensors="pt")["input_values"]
        labels = tokenizer(text.upper(), return_tensors="pt")["input_ids"]
        assert targets[i] == tuple(labels[0].tolist())
        with torch.no_grad():
            wanted = model(inputs, labels=labels)
        assert losses[i] == pytest.approx(float(wanted.loss), rel=1e-4)
        assert written[i].text == tokenizer.batch_decode(wanted.logits.argmax(-1))[0]


def test_letters_have_no_loss_that_could_be_smoothed(letters):
    model, tokenizer, extractor = letters
    pen, heard = LetterPen(model, tokenizer, "m"), heard_by(model, extractor)
    targets = [pen.targets(text) for text in TEXTS]
    assert float(pen.loss(heard, targets, 0.0)) == pytest.approx(sum(pen.losses(heard, targets)), rel=1e-5)
    with pytest.raises(RecipeError, match=r"training\.label_smoothing"):
        pen.loss(heard, targets, 0.1)


def letter_pen(folder: Path, alphabet: str) -> tuple[LetterPen, Any]:
    tokenizer = save_ctc_tokenizer(folder, alphabet)
    model = AutoModelForCTC.from_pretrained(save_wave(folder / "m", ctc=True))
    return LetterPen(model, tokenizer, "m"), tokenizer


def test_a_transcript_is_spelled_with_the_letters_that_the_model_has(tmp_path):
    pen, tokenizer = letter_pen(tmp_path, "ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
    for text, spelled in (
        ("Don’t press, please!", "DON'T PRESS PLEASE"),
        ("call-forward on “busy”", "CALL FORWARD ON BUSY"),
        ("  two   spaces ", "TWO SPACES"),
    ):
        assert "".join(tokenizer.convert_ids_to_tokens(list(pen.targets(text)))).replace("|", " ") == spelled
    with pytest.raises(ValueError, match=r"letters that the model does not know \(1 é\)"):
        pen.targets("press 1, café 1")
    with pytest.raises(ValueError, match="no letter"):
        pen.targets("...")


def test_small_letters_and_kana_are_kept_where_the_model_has_them(tmp_path):
    pen, tokenizer = letter_pen(tmp_path, "abcはい")
    assert tokenizer.convert_ids_to_tokens(list(pen.targets("CAB はい"))) == ["c", "a", "b", "|", "は", "い"]


def test_equal_letters_need_a_position_between_them(tmp_path):
    pen, _ = letter_pen(tmp_path, "ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
    # S E E: three letters and a blank between the equal ones.
    assert pen.misfit(pen.targets("see"), 4) is None
    assert pen.misfit(pen.targets("see"), 3) == "has 3 letters and needs 4 positions, but the recording has only 3"


def test_a_model_that_writes_letters_cannot_translate(letters):
    with pytest.raises(ModelError, match="cannot translate"):
        pen_of(letters[0], letters[1], "m", None, True, None)
