"""Conversations as token ids: one rendering for training and for serving, and the places that count in the loss."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from migaki.core.errors import ModelError
from migaki.core.types import Conversation, Turn, shorten

__all__ = ["NO_TARGET", "ChatFormat", "Rendered"]

NO_TARGET = -100
"""The label of a token that does not count in the loss (the value that torch's cross-entropy ignores)."""

_BUILT_IN = {
    "plain": "{{ bos }}{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos }}{% endif %}{{ '\\n' }}{% endfor %}",
    "alpaca": (
        "{{ bos }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '### Response:\\n' + m['content'] + eos + '\\n\\n' }}"
        "{% elif m['role'] == 'user' %}{{ '### Instruction:\\n' + m['content'] + '\\n\\n' }}{% else %}{{ m['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
    "japanese": (
        "{{ bos }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '### 応答:\\n' + m['content'] + eos + '\\n\\n' }}"
        "{% elif m['role'] == 'user' %}{{ '### 指示:\\n' + m['content'] + '\\n\\n' }}{% else %}{{ m['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### 応答:\\n' }}{% endif %}"
    ),
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of a conversation and, for each, its label: the id itself where it is a target, else NO_TARGET."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]


class ChatFormat:
    """A tokenizer with its chat template.

    The ids of a training row are built in pieces, each tokenised on its own: everything up to an assistant turn,
    the turn, everything up to the next one. Serving builds its prompt from the same pieces, so the prompt's ids are
    always a prefix of the training ids, even where a merge of tokens could cross the border.
    """

    def __init__(self, tokenizer: Any, template: str, stop_ids: Sequence[int], learn: str = "all") -> None:
        self.tokenizer = tokenizer
        self.learn = learn
        self.stop_ids = tuple(dict.fromkeys(stop_ids))
        if template == "model":
            if not tokenizer.chat_template:
                raise ModelError(
                    "The model's tokenizer has no chat template (a base model?). Set task.template: plain, alpaca or japanese."
                )
            if not isinstance(tokenizer.chat_template, str):
                raise ModelError(
                    "The model's tokenizer has several named chat templates. Set task.template: plain, alpaca or japanese."
                )
            self._template = tokenizer.chat_template
        else:
            # The double BOS of many pipelines comes from here: the template writes one only where the tokenizer would.
            plain_ids = tokenizer("")["input_ids"]
            adds_bos = tokenizer.bos_token_id is not None and plain_ids[:1] == [tokenizer.bos_token_id]
            # Where the tokenizer has no end token of its own, the model's is put behind each learned turn as an id.
            bos, eos = (tokenizer.bos_token if adds_bos else ""), tokenizer.eos_token or ""
            self._template = f"{{% set bos = {bos!r} %}}{{% set eos = {eos!r} %}}" + _BUILT_IN[template]
        if not self.stop_ids:
            raise ModelError(
                "The model has no end-of-sequence token, so an answer could never stop. Add eos_token to the tokenizer."
            )

    def fingerprint(self) -> str:
        """sha256 of the template and the stop tokens: a tuned model must be served with the one it was trained with."""
        return hashlib.sha256(f"{self._template}\x00{self.stop_ids}".encode()).hexdigest()

    def text(self, turns: Sequence[Turn], answer: bool = False) -> str:
        """The conversation as the template writes it; `answer` adds what stands before the assistant's next turn."""
        from jinja2 import TemplateError

        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=answer
            )
        except TemplateError as error:
            raise ModelError(
                f"The chat template refuses this conversation ({error}). Look at the order of the roles."
            ) from error

    def pieces(
        self, turns: Sequence[Turn], answer: bool = False, learned_turns: int | None = None
    ) -> list[tuple[str, bool]]:
        """The rendered text in pieces, each with whether the assistant wrote it and it is learned.

        Args:
            answer: end with what stands before the assistant's next turn.
            learned_turns: only so many of the last assistant turns are learned; those before are shown as examples.
        Raises:
            ModelError: the template writes earlier turns differently once later ones follow, so what is trained would
                not be what is served.
        """
        learned = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        if self.learn == "last":
            # A prompt that waits for its last answer holds no learned turn.
            learned = [] if answer else learned[-1:]
        if learned_turns is not None:
            learned = learned[len(learned) - min(learned_turns, len(learned)) :]
        pieces: list[tuple[str, bool]] = []
        at, whole = 0, self.text(turns, answer)
        for i in learned:
            before, after = self.text(turns[:i], answer=True), self.text(turns[: i + 1])
            if not whole.startswith(before) or not whole.startswith(after) or not at <= len(before) <= len(after):
                raise ModelError(
                    f"The chat template changes earlier turns when later ones follow (at {shorten(turns[i].content, 40)!r}), "
                    "so training would not match serving. Set task.learn: last, or another task.template."
                )
            pieces += [(whole[at : len(before)], False), (whole[len(before) : len(after)], True)]
            at = len(after)
        if at < len(whole):
            pieces.append((whole[at:], False))
        return pieces

    def render(self, conversation: Conversation, learned_turns: int | None = None) -> Rendered:
        """Ids and labels of a whole conversation; each learned turn ends with a stop token that is a target."""
        return self._assemble(self.pieces(conversation.turns, learned_turns=learned_turns))

    def question(self, turns: Sequence[Turn]) -> Rendered:
        """Everything up to where the assistant answers next, its earlier answers labelled as in training."""
        return self._assemble(self.pieces(turns, answer=True))

    def prompt(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """Ids of everything up to where the assistant answers next."""
        return self.question(turns).ids

    def _assemble(self, pieces: Sequence[tuple[str, bool]]) -> Rendered:
        ids: list[int] = []
        labels: list[int] = []
        for number, (text, learned) in enumerate(pieces):
            piece = self._ids(text)
            end = 0
            if learned:
                stops = [at for at, token in enumerate(piece) if token in self.stop_ids]
                if stops:
                    end = stops[-1] + 1
                else:
                    # A template that never closes a turn would teach a model that never stops.
                    written, last = self._ids(text.rstrip("\n")), number == len(pieces) - 1
                    piece = [*written, self.stop_ids[0], *([] if last else self._ids(text[len(text.rstrip("\n")) :]))]
                    end = len(written) + 1
            ids += piece
            labels += piece[:end] + [NO_TARGET] * (len(piece) - end)
        return Rendered(tuple(ids), tuple(labels))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []
