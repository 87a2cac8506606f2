"""C3: a beginning-of-sequence token that stands twice, or is missing where the model was pretrained with one."""

import pytest

from chats import BUILT_IN, CONVERSATIONS, TEMPLATES, chat_format, conversation

LEADING = {"tiny": 0, "chatml": 0, "llama3": 1, "gemma": 1, "llama2": 1}
"""How many BOS tokens each template itself writes at the start, by reading it."""


def leading_bos(chat, ids):
    count = 0
    while count < len(ids) and ids[count] == chat.tokenizer.bos_token_id:
        count += 1
    return count


@pytest.mark.parametrize("content", CONVERSATIONS)
@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_bos_stands_as_often_as_the_models_own_template_writes_it(name, adds_bos, content):
    chat = chat_format(name, adds_bos)
    turns = conversation(content).turns
    # Whether the tokenizer would add one more of its own accord must not matter.
    assert leading_bos(chat, chat.render(conversation(content)).ids) == LEADING[name]
    assert leading_bos(chat, chat.prompt(turns[:-1])) == LEADING[name]


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_template_writes_bos_exactly_where_the_tokenizer_does(name, adds_bos):
    chat = chat_format(name, adds_bos)
    turns = conversation("many turns").turns
    assert leading_bos(chat, chat.render(conversation("many turns")).ids) == int(adds_bos)
    assert leading_bos(chat, chat.prompt(turns[:-1])) == int(adds_bos)
    # ... which is how the base model was pretrained: one text, tokenised as it comes.
    assert leading_bos(chat, chat.tokenizer("hello")["input_ids"]) == int(adds_bos)


@pytest.mark.parametrize("learn", ["all", "last"])
@pytest.mark.parametrize("content", ["one turn", "system", "many turns", "japanese"])
@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_training_ids_are_those_that_transformers_serves(name, adds_bos, content, learn):
    """The oracle is what other servers send to the model: transformers' own rendering and tokenising of the messages."""
    chat = chat_format(name, adds_bos, learn)
    messages = conversation(content).as_json()["messages"]
    served = chat.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert list(chat.render(conversation(content)).ids) == served
    asked = chat.tokenizer.apply_chat_template(
        messages[:-1], tokenize=True, return_dict=False, add_generation_prompt=True
    )
    assert list(chat.prompt(conversation(content).turns[:-1])) == asked
