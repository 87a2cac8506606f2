"""Conversations as token ids. What must hold for every template stands in tests/correctness, C3 to C6."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chats import BUILT_IN, CONVERSATIONS, REWRITING, TEMPLATES, chat_format, conversation, tokenizer
from migaki.core.errors import ModelError
from migaki.core.types import Conversation, Turn
from migaki.tasks.chat import NO_TARGET, ChatFormat


def said(*turns):
    return Conversation(tuple(Turn(role, text) for role, text in turns))


def targets(rendered):
    return [label for label in rendered.labels if label != NO_TARGET]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain", "Be brief.\nhello\nhi<|end|>\n"),
        ("alpaca", "Be brief.\n\n### Instruction:\nhello\n\n### Response:\nhi<|end|>\n\n"),
        ("japanese", "Be brief.\n\n### 指示:\nhello\n\n### 応答:\nhi<|end|>\n\n"),
    ],
)
def test_built_in_templates_write_what_their_names_promise(name, text):
    assert chat_format(name).text(said(("system", "Be brief."), ("user", "hello"), ("assistant", "hi")).turns) == text


@pytest.mark.parametrize(
    ("name", "ending"), [("plain", "hello\n"), ("alpaca", "### Response:\n"), ("japanese", "### 応答:\n")]
)
def test_a_prompt_ends_where_the_answer_begins(name, ending):
    chat = chat_format(name)
    assert chat.tokenizer.decode(chat.prompt(said(("user", "hello")).turns)).endswith(ending)


@pytest.mark.parametrize("content", CONVERSATIONS)
@pytest.mark.parametrize("name", [*TEMPLATES, *BUILT_IN])
def test_pieces_put_together_are_the_rendered_text(name, content):
    chat = chat_format(name)
    turns = conversation(content).turns
    assert "".join(text for text, _ in chat.pieces(turns)) == chat.text(turns)
    assert "".join(text for text, _ in chat.pieces(turns[:-1], answer=True)) == chat.text(turns[:-1], answer=True)
    assert chat.tokenizer.decode(chat.render(conversation(content)).ids) == chat.text(turns)


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda t: t.strip() and not any(mark in t for mark in ("<|", "<start", "<end"))
)


@settings(max_examples=60, deadline=None)
@given(
    exchanges=st.lists(st.tuples(text, text), min_size=1, max_size=3),
    name=st.sampled_from([*TEMPLATES, *BUILT_IN]),
    learn=st.sampled_from(["all", "last"]),
)
def test_any_texts_are_served_as_trained_and_stop(exchanges, name, learn):
    """Any characters: line breaks of other scripts, combining marks, joined emoji, white space at the borders."""
    chat = chat_format(name, learn=learn)
    turns = [Turn(role, t) for pair in exchanges for role, t in zip(("user", "assistant"), pair, strict=True)]
    rendered = chat.render(Conversation(tuple(turns)))
    prompt = chat.prompt(turns[:-1])
    assert rendered.ids[: len(prompt)] == prompt
    assert rendered.labels[: len(prompt)] == chat.question(turns[:-1]).labels
    assert targets(rendered).count(chat.stop_ids[0]) == (len(exchanges) if learn == "all" else 1)
    assert targets(rendered)[-1] == chat.stop_ids[0]
    assert chat.tokenizer.decode(rendered.ids) == chat.text(turns)


def test_several_stop_tokens_end_a_turn_by_the_one_that_the_template_writes():
    made = tokenizer(TEMPLATES["chatml"])
    end, im_end = made.convert_tokens_to_ids(["<|end|>", "<|im_end|>"])
    chat = ChatFormat(made, "model", [end, im_end, end])
    assert chat.stop_ids == (end, im_end)
    assert targets(chat.render(said(("user", "a"), ("assistant", "b"))))[-1] == im_end


def test_a_turn_that_is_closed_by_a_word_of_no_meaning_to_the_model_is_closed_by_its_end_token_too():
    """A base model with ChatML on top: <|im_end|> is text that does not stop it, <|end|> does."""
    made = tokenizer(TEMPLATES["chatml"])
    chat = ChatFormat(made, "model", [made.eos_token_id])
    rendered = chat.render(said(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")))
    assert made.decode(targets(rendered)) == "b<|im_end|><|end|>d<|im_end|><|end|>"
    prompt = chat.prompt(said(("user", "a"), ("assistant", "b"), ("user", "c")).turns)
    assert rendered.ids[: len(prompt)] == prompt


def test_a_base_model_without_a_template_says_which_ones_there_are():
    with pytest.raises(ModelError, match=r"no chat template.*task\.template: plain, alpaca or japanese"):
        ChatFormat(tokenizer(None), "model", [3])


def test_several_named_templates_are_not_chosen_from_by_chance():
    with pytest.raises(ModelError, match=r"several named chat templates.*task\.template"):
        ChatFormat(tokenizer({"default": TEMPLATES["tiny"], "tool_use": TEMPLATES["chatml"]}), "model", [3])


def test_a_model_that_could_never_stop_is_refused():
    with pytest.raises(ModelError, match="could never stop"):
        ChatFormat(tokenizer(TEMPLATES["tiny"], eos=None), "model", [])


def test_a_conversation_that_the_template_refuses_is_the_users_to_mend():
    with pytest.raises(ModelError, match="Roles must alternate user/assistant"):
        chat_format("gemma").render(said(("user", "a"), ("assistant", "b"), ("assistant", "c")))


def test_a_prompt_with_earlier_answers_is_refused_where_the_template_rewrites_them():
    made = tokenizer(REWRITING)
    chat = ChatFormat(made, "model", [made.convert_tokens_to_ids("<|im_end|>")])
    with pytest.raises(ModelError, match="training would not match serving"):
        chat.prompt(said(("user", "a"), ("assistant", "<think>x</think>b"), ("user", "c")).turns)


def test_the_fingerprint_knows_template_and_stop_tokens_and_nothing_else():
    made, same = tokenizer(TEMPLATES["tiny"]), tokenizer(TEMPLATES["tiny"], adds_bos=True)
    format_of = ChatFormat(made, "model", [3]).fingerprint()
    assert ChatFormat(same, "model", [3, 3]).fingerprint() == format_of
    assert ChatFormat(made, "model", [3], learn="last").fingerprint() == format_of
    assert ChatFormat(made, "model", [3, 5]).fingerprint() != format_of
    assert ChatFormat(tokenizer(TEMPLATES["tiny"] + " "), "model", [3]).fingerprint() != format_of
    # The built-in ones write BOS where the tokenizer does, so there it counts.
    assert chat_format("plain").fingerprint() != chat_format("plain", adds_bos=True).fingerprint()
