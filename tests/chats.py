"""Chat templates as models in the wild carry them, and conversations to put through each."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from migaki.core.types import Conversation, Place, Row, Turn
from migaki.tasks.chat import ChatFormat
from tiny import CHAT_TEMPLATE, WORDS

SPECIAL = (
    *("<|pad|>", "<|bos|>", "<|start|>", "<|end|>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)

TEMPLATES = {
    "tiny": CHAT_TEMPLATE,
    "chatml": (
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\\nBe helpful<|im_end|>\\n' }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{% for m in messages %}{% set text = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.first %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    # The system prompt goes into the first question, the role is renamed, the order is enforced.
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}{% set turns = messages[1:] %}"
        "{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + (first if loop.first else '') + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    # BOS before every question, EOS after every answer, no mark of its own where the answer begins.
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set first = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}{% set turns = messages[1:] %}"
        "{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (first if loop.first else '') + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
}
"""Every one keeps earlier turns as they are when later ones follow."""

NEVER_CLOSING = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
"""No token ends a turn."""

REWRITING = (
    "{% for m in messages %}{% set text = m['content'] %}"
    "{% if m['role'] == 'assistant' and not loop.last %}{% set text = text.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + text + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Reasoning is dropped from every answer but the last, as reasoning models do."""

BUILT_IN = ("plain", "alpaca", "japanese")

CONVERSATIONS = {
    "one turn": (("user", "my screen is black"), ("assistant", "please send it back")),
    "system": (("system", "You are terse."), ("user", "what is the price"), ("assistant", "ten")),
    "many turns": (
        *(("system", "Answer in one line."), ("user", "hello"), ("assistant", "hi there")),
        *(("user", "the printer does not print"), ("assistant", "is it on?"), ("user", "no"), ("assistant", "turn it on")),
    ),
    "japanese": (
        *(("system", "丁寧に答えてください。"), ("user", "返品したいのですが、どうすればいいですか？")),
        *(("assistant", "はい、承ります。\n注文番号をお知らせください。"), ("user", "１２３です"), ("assistant", "ありがとうございます😊")),
    ),
    "white space at the borders": (("user", " indented\n"), ("assistant", "  two spaces\n\nand a gap \n"), ("user", "\tx"), ("assistant", "y\n"))
}  # fmt: skip


def conversation(name: str) -> Conversation:
    """One of `CONVERSATIONS`."""
    return Conversation(tuple(Turn(role, text) for role, text in CONVERSATIONS[name]))


def row(*turns: tuple[str, str], line: int = 1) -> Row:
    """A conversation as line `line` of chats.jsonl."""
    return Row(Place("chats.jsonl", line), Conversation(tuple(Turn(role, text) for role, text in turns)))


@cache
def _core() -> str:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(WORDS * 3, trainer)
    return core.to_str()


def tokenizer(template: str | None, adds_bos: bool = False, eos: str | None = "<|end|>") -> Any:
    """A byte-level tokenizer that knows all special tokens above; `adds_bos` puts BOS before every text, as Llama's does."""
    core = Tokenizer.from_str(_core())
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", core.token_to_id("<|bos|>"))]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|pad|>", bos_token="<|bos|>", eos_token=eos)
    made.chat_template = template
    return made


_STOPS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}


def chat_format(name: str, adds_bos: bool = False, learn: str = "all") -> ChatFormat:
    """The chat format of one of `TEMPLATES` or `BUILT_IN`, with the stop token that belongs to it."""
    made = tokenizer(TEMPLATES.get(name), adds_bos)
    stop = made.convert_tokens_to_ids(_STOPS.get(name, "<|end|>"))
    return ChatFormat(made, name if name in BUILT_IN else "model", [stop], learn)
