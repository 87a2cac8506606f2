"""How models of speech write down what was heard: token after token behind a prompt (Whisper), or a letter or none for each
piece of sound (models trained by CTC)."""

# Shapes: B batch, T positions of a recording, S tokens of a text, P target positions, D hidden, V vocabulary

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from migaki.core.errors import ModelError, Problem, RecipeError
from migaki.models.head import head_loss, head_losses
from migaki.models.speech import Heard

__all__ = ["LetterPen", "Pen", "WhisperPen", "Written", "language_ids", "pen_of"]

_MANY_LANGUAGES = 51_865
"""Words of a Whisper vocabulary that holds languages."""
_APOSTROPHES = "’‘ʼ＇`´"
# Written without spaces, so that no space stands before the first word either: kana, Han, Thai, Lao, Burmese, Khmer.
_UNSPACED = (
    ("\u0e00", "\u0eff"),
    ("\u1000", "\u109f"),
    ("\u1780", "\u17ff"),
    ("\u3005", "\u9fff"),
    ("\uf900", "\ufaff"),
)

Targets = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote about one recording."""

    text: str
    log_probability: float
    """Sum over what was chosen (nats)."""
    choices: int
    """How often it chose: tokens, or positions."""
    stopped: bool
    """Whether it ended by itself."""

    @property
    def confidence(self) -> float:
        """Geometric mean of the probabilities of what was chosen (0..1)."""
        return math.exp(self.log_probability / max(self.choices, 1))


class Pen(Protocol):
    """The half of a model that writes."""

    def targets(self, text: str) -> tuple[int, ...]:
        """Token ids that are learned for a transcript. Raises ValueError with the reason where it cannot be written."""
        ...

    def misfit(self, targets: Sequence[int], n_positions: int) -> str | None:
        """Why these cannot be learned from a recording of so many positions; None where they can."""
        ...

    def prompt(self) -> list[int]:
        """Tokens that stand before every transcript, as far as they are the same for all."""
        ...

    def logits(self, heard: Heard, targets: Targets) -> torch.Tensor:
        """What is said at each place that is learned, row after row, (P, V)."""
        ...

    def loss(self, heard: Heard, targets: Targets, label_smoothing: float) -> torch.Tensor:
        """Sum of the loss over all targets, scalar."""
        ...

    def losses(self, heard: Heard, targets: Targets) -> list[float]:
        """The loss of each row over its targets (nats)."""
        ...

    def write(self, heard: Heard) -> list[Written]:
        """The likeliest text of each recording, chosen greedily."""
        ...


def pen_of(
    model: Any, tokenizer: Any, reference: str, language: str | None, translate: bool, most_tokens: int | None
) -> Pen:
    """The way to write with a model.

    Args:
        reference: what it is called in messages.
        language: code of the language that is spoken (en, ja); None: a model of many tells it by itself.
        translate: write in English, whatever is spoken.
        most_tokens: the longest transcript that is written at once.
    Raises:
        ModelError: it does not know the language, or cannot translate.
    """
    if model.config.model_type == "whisper":
        return WhisperPen(model, tokenizer, reference, language, translate, most_tokens)
    if translate:
        raise ModelError(
            f"task.translate: {reference} writes the letters that it hears and cannot translate. Leave it out."
        )
    return LetterPen(model, tokenizer, reference)


class WhisperPen:
    """Whisper's decoder, without timestamps. Source: Radford et al. 2022, arXiv:2212.04356, section 2.3 and figure 1."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        reference: str,
        language: str | None = None,
        translate: bool = False,
        most_tokens: int | None = None,
    ) -> None:
        """See `pen_of`."""
        self._decoder, self._head, self._tokenizer = model.model.decoder, model.proj_out, tokenizer
        # Layers are never dropped as a whole.
        self._decoder.layerdrop = 0.0
        config, settings = model.config, model.generation_config
        self._start, self._end = int(config.decoder_start_token_id), int(config.eos_token_id)
        self._languages = language_ids(config, settings, tokenizer)
        self._language = self._language_id(language, translate, reference)
        self._behind = self._tokens_behind(translate)
        told = self._language is None and bool(self._languages)
        self._room = int(config.max_target_positions) - len(self.prompt()) - told
        self._most = min(most_tokens or self._room, self._room)
        self._never = list(getattr(settings, "suppress_tokens", None) or ())
        self._never_first = list(getattr(settings, "begin_suppress_tokens", None) or ())

    def _language_id(self, language: str | None, translate: bool, reference: str) -> int | None:
        if not self._languages:
            if translate or language not in (None, "en"):
                found = "task.translate" if translate else f"task.language: {language}"
                raise ModelError(
                    f"{found}: {reference} knows English alone. Leave it out, or use a model of many languages."
                )
            return None
        if language is not None and language not in self._languages:
            known = ", ".join(sorted(self._languages))
            raise ModelError(f"task.language: {reference} does not know {language!r}. It knows {known}.")
        return None if language is None else self._languages[language]

    def _tokens_behind(self, translate: bool) -> list[int]:
        """What stands behind the language: the task, and that no times are written."""
        names = ["<|translate|>" if translate else "<|transcribe|>"] if self._languages else []
        return [int(self._tokenizer.convert_tokens_to_ids(name)) for name in (*names, "<|notimestamps|>")]

    def prompt(self) -> list[int]:
        language = [] if self._language is None else [self._language]
        return [self._start, *language, *self._behind]

    def targets(self, text: str) -> tuple[int, ...]:
        text = text.strip()
        # As Whisper writes: words after a space, the first one too.
        spaced = "" if _unspaced(text[:1]) else " "
        ids = self._tokenizer(spaced + text, add_special_tokens=False)["input_ids"]
        if any(token in self._tokenizer.added_tokens_decoder for token in ids):
            raise ValueError(
                "holds a token that is a sign of the model itself (<|...|>); remove it from the transcript"
            )
        return (*ids, self._end)

    def misfit(self, targets: Sequence[int], n_positions: int) -> str | None:
        if len(targets) <= self._room:
            return None
        return f"has {len(targets)} tokens, and the model writes at most {self._room} of one recording"

    def _prompts(self, heard: Heard) -> torch.Tensor:
        """What stands before the transcript of each row, (B, S)."""
        device, n = heard.hidden_BTD.device, len(heard.hidden_BTD)
        if self._language is not None or not self._languages:
            return torch.tensor(self.prompt(), device=device).expand(n, -1)
        start_B1 = torch.full((n, 1), self._start, device=device)
        behind_BS = torch.tensor(self._behind, device=device).expand(n, -1)
        return torch.cat([start_B1, self._told(heard), behind_BS], 1)

    @torch.no_grad()
    def _told(self, heard: Heard) -> torch.Tensor:
        """The likeliest language of each recording, (B, 1)."""
        ids_L = torch.tensor(list(self._languages.values()), device=heard.hidden_BTD.device)
        return ids_L[self._head(self.at_start(heard))[:, ids_L].argmax(-1)][:, None]

    def at_start(self, heard: Heard) -> torch.Tensor:
        """The vector by which the language of each recording is told, (B, D)."""
        start_B1 = torch.full((len(heard.hidden_BTD), 1), self._start, device=heard.hidden_BTD.device)
        hidden_BD: torch.Tensor = self._decoded(start_B1, heard).last_hidden_state[:, -1]
        return hidden_BD

    def languages(self, codes: Sequence[str]) -> torch.Tensor:
        """What that vector is compared with for each of these languages, (L, D)."""
        weight_LD: torch.Tensor = self._head.weight[[self._languages[code] for code in codes]]
        return weight_LD

    def _decoded(self, ids_BS: torch.Tensor, heard: Heard, cache: Any = None, keep: bool = False) -> Any:
        return self._decoder(
            input_ids=ids_BS, encoder_hidden_states=heard.hidden_BTD, past_key_values=cache, use_cache=keep
        )

    def _at_targets(self, heard: Heard, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
        """The vector by which each target is predicted, row after row, (P, D), and the targets (P,)."""
        prompts_BS = self._prompts(heard)
        device, n_prompt = prompts_BS.device, prompts_BS.shape[1]
        wanted = [torch.tensor(row, device=device) for row in targets]
        rows = [torch.cat([prompt_S, row[:-1]]) for prompt_S, row in zip(prompts_BS, wanted, strict=True)]
        # What a row is filled up with stands behind it, where no token of it looks.
        ids_BS = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._end)
        hidden_BSD = self._decoded(ids_BS, heard).last_hidden_state
        found = [h_SD[n_prompt - 1 : n_prompt - 1 + len(row)] for h_SD, row in zip(hidden_BSD, wanted, strict=True)]
        return torch.cat(found), torch.cat(wanted)

    def logits(self, heard: Heard, targets: Targets) -> torch.Tensor:
        return self._head(self._at_targets(heard, targets)[0])  # type: ignore[no-any-return]

    def loss(self, heard: Heard, targets: Targets, label_smoothing: float) -> torch.Tensor:
        h_PD, targets_P = self._at_targets(heard, targets)
        return head_loss(h_PD, self._head, targets_P, label_smoothing)

    @torch.no_grad()
    def losses(self, heard: Heard, targets: Targets) -> list[float]:
        h_PD, targets_P = self._at_targets(heard, targets)
        of_row = torch.split(head_losses(h_PD, self._head, targets_P), [len(row) for row in targets])
        return [float(losses.sum()) for losses in of_row]

    @torch.no_grad()
    def write(self, heard: Heard) -> list[Written]:
        """One token after the other, with the keys and values of earlier ones kept."""
        ids_BS = self._prompts(heard)
        n = len(ids_BS)
        chosen: list[list[int]] = [[] for _ in range(n)]
        log_probability_B = torch.zeros(n, dtype=torch.float64, device=ids_BS.device)
        going_B = torch.ones(n, dtype=torch.bool, device=ids_BS.device)
        cache = None
        for number in range(self._most):
            out = self._decoded(ids_BS, heard, cache, keep=True)
            cache = out.past_key_values
            logits_BV = self._head(out.last_hidden_state[:, -1]).float()
            logits_BV[:, self._never] = -torch.inf
            if number == 0:
                logits_BV[:, self._never_first] = -torch.inf
            best_B = logits_BV.argmax(-1)
            said_B = logits_BV.log_softmax(-1).gather(1, best_B[:, None])[:, 0].double()
            log_probability_B += torch.where(going_B, said_B, 0.0)
            for row in going_B.nonzero()[:, 0].tolist():
                chosen[row].append(int(best_B[row]))
            going_B = going_B & (best_B != self._end)
            if not going_B.any():
                break
            ids_BS = torch.where(going_B, best_B, self._end)[:, None]
        return [
            Written(self._text(ids), float(log_probability), len(ids), bool(ids and ids[-1] == self._end))
            for ids, log_probability in zip(chosen, log_probability_B.tolist(), strict=True)
        ]

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()


def language_ids(config: Any, settings: Any, tokenizer: Any) -> dict[str, int]:
    """The token of each language that a Whisper tells apart, by its code; none of a model of English alone.

    Args:
        settings: of its generation.
    """
    many = getattr(settings, "is_multilingual", None)
    if not (config.vocab_size >= _MANY_LANGUAGES if many is None else many):
        return {}
    listed = getattr(settings, "lang_to_id", None) or {
        name: number for name, number in tokenizer.get_vocab().items() if name.startswith("<|") and len(name) in (6, 7)
    }
    return {name.strip("<|>"): int(number) for name, number in listed.items()}


def _unspaced(letter: str) -> bool:
    return any(first <= letter <= last for first, last in _UNSPACED)


class LetterPen:
    """A linear layer that gives each position a letter, or the blank where there is none.

    Source: Graves et al. 2006, doi:10.1145/1143844.1143891; Baevski et al. 2020, arXiv:2006.11477, section 3.3.
    """

    def __init__(self, model: Any, tokenizer: Any, reference: str) -> None:
        self._head, self._dropout, self._tokenizer = model.lm_head, model.dropout, tokenizer
        self._blank = int(model.config.pad_token_id)
        self._between = getattr(tokenizer, "word_delimiter_token", None)
        words = tokenizer.get_vocab()
        special = {*tokenizer.all_special_tokens, self._between}
        self._ids = {word: int(number) for word, number in words.items() if len(word) == 1 and word not in special}
        self._between_id = words.get(self._between)
        if not self._ids:
            raise ModelError(
                f"{reference} writes no single letters, so its transcripts cannot be spelled. Use a model with a vocabulary of "
                "letters."
            )

    def prompt(self) -> list[int]:
        return []

    def targets(self, text: str) -> tuple[int, ...]:
        words, lost = [], []
        for word in self._split(text):
            found = [self._letter(letter) for letter in word]
            lost += [letter for letter, number in zip(word, found, strict=True) if number is None]
            words.append([number for number in found if number is not None])
        if lost:
            shown = " ".join(dict.fromkeys(lost))
            raise ValueError(f"holds letters that the model does not know ({shown}); spell it with others (1 as one)")
        if not words:
            raise ValueError("holds no letter that the model could write; write down what is said")
        ids = list(words[0])
        for following in words[1:]:
            ids += [*([] if self._between_id is None else [self._between_id]), *following]
        return tuple(ids)

    def _split(self, text: str) -> list[str]:
        """Words; signs that the model does not know part them."""
        text = "".join("'" if c in _APOSTROPHES and "'" in self._ids else c for c in unicodedata.normalize("NFC", text))
        signs = {c for c in text if unicodedata.category(c)[0] in "PSC" and self._letter(c) is None}
        # One inside a word (don't) is no border.
        bare = "".join("" if c == "'" and c in signs else " " if c in signs else c for c in text)
        return bare.split()

    def _letter(self, letter: str) -> int | None:
        """Its id, in the case that the model writes."""
        return next((self._ids[c] for c in (letter, letter.upper(), letter.lower()) if c in self._ids), None)

    def misfit(self, targets: Sequence[int], n_positions: int) -> str | None:
        # Between two equal letters a blank has to stand.
        needed = len(targets) + sum(a == b for a, b in itertools.pairwise(targets))
        if needed <= n_positions:
            return None
        return f"has {len(targets)} letters and needs {needed} positions, but the recording has only {n_positions}"

    def _scores(self, heard: Heard) -> torch.Tensor:
        return self._head(self._dropout(heard.hidden_BTD)).float()  # type: ignore[no-any-return]

    def logits(self, heard: Heard, targets: Targets) -> torch.Tensor:
        return self._scores(heard)[heard.mask()]

    def _ctc(self, heard: Heard, targets: Targets) -> torch.Tensor:
        """The loss of each row, (B,)."""
        log_probability_TBV = self._scores(heard).log_softmax(-1).transpose(0, 1)
        device = log_probability_TBV.device
        lengths_B = torch.tensor([len(row) for row in targets], device=device)
        targets_P = torch.tensor([letter for row in targets for letter in row], device=device)
        with torch.backends.cudnn.flags(enabled=False):  # whose own way is not deterministic
            return F.ctc_loss(
                log_probability_TBV, targets_P, heard.lengths_B, lengths_B, blank=self._blank, reduction="none"
            )

    def loss(self, heard: Heard, targets: Targets, label_smoothing: float) -> torch.Tensor:
        if label_smoothing:
            found = (
                "a model that writes letter by letter (CTC) has no targets at single places to smooth; leave it out."
            )
            raise RecipeError([Problem("training.label_smoothing", found)])
        return self._ctc(heard, targets).sum()

    @torch.no_grad()
    def losses(self, heard: Heard, targets: Targets) -> list[float]:
        found: list[float] = self._ctc(heard, targets).double().tolist()
        return found

    @torch.no_grad()
    def write(self, heard: Heard) -> list[Written]:
        best = self._scores(heard).log_softmax(-1).max(-1)
        found = []
        for said_T, ids_T, n in zip(best.values, best.indices, heard.lengths_B.tolist(), strict=True):
            text = self._tokenizer.decode(ids_T[:n].tolist(), clean_up_tokenization_spaces=False).strip()
            found.append(Written(text, float(said_T[:n].double().sum()), int(n), True))
        return found
