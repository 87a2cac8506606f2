"""What a record means, column by column."""

import json

import pytest

from migaki.core.types import Conversation, Labelled, Plain, Turn
from migaki.data.formats import READERS

labelled, conversation = READERS["labelled"], READERS["conversation"]


def read(reader, values, need_target=True, **named):
    return reader(values, reader.choose(list(values), named, need_target), need_target)


@pytest.mark.parametrize(
    ("names", "text", "label"),
    [
        (["text", "label"], "text", "label"),
        (["id", "Sentence", "INTENT"], "Sentence", "INTENT"),
        (["本文", "ラベル"], "本文", "ラベル"),
        (["content", "text", "topic"], "text", "topic"),
        ([" text ", "category"], " text ", "category"),
    ],
)
def test_text_and_label_are_found_under_their_usual_names(names, text, label):
    assert labelled.choose(names, {}) == {"text": text, "label": label}


def test_a_named_column_is_not_guessed_again_for_another_role():
    assert labelled.choose(["label", "topic"], {"text": "label"}) == {"text": "label", "label": "topic"}


@pytest.mark.parametrize(
    ("names", "named", "words"),
    [
        (["txt", "label"], {}, r"no column looks like the text; the columns are 'txt', 'label'.*data\.text: COLUMN"),
        (["text", "stars"], {}, r"no column looks like the label.*data\.label: COLUMN"),
        (["text", "label"], {"label": "lable"}, r"data\.label names the column 'lable'.*did you mean 'label'"),
        (["text", "label"], {"prompt": "text"}, r"data\.prompt has no meaning for this task.*Remove it"),
        (["text", "label"], {"text": "text", "label": "text"}, r"data\.text and data\.label name the same column"),
    ],
)
def test_columns_that_cannot_be_chosen_name_the_setting(names, named, words):
    with pytest.raises(ValueError, match=words):
        labelled.choose(names, named)


@pytest.mark.parametrize(
    ("label", "read_as"),
    [("NA", "NA"), ("null", "null"), (3, "3"), (3.0, "3"), (0, "0"), (True, "true"), (False, "false"), (" a ", "a")],
)
def test_labels_are_words(label, read_as):
    assert read(labelled, {"text": "x", "label": label}) == Labelled("x", read_as)


@pytest.mark.parametrize("label", [None, "", "  ", 2.5, float("nan"), ["a"], {"a": 1}])
def test_what_is_no_label_is_refused_with_its_column(label):
    with pytest.raises(ValueError, match="the label in column 'label' is"):
        read(labelled, {"text": "x", "label": label})


@pytest.mark.parametrize("text", [None, "", " \n\u3000", 5, ["x"], "\ud83d"])
def test_what_is_no_text_is_refused_with_its_column(text):
    with pytest.raises(ValueError, match="the text in column 'text' "):
        read(labelled, {"text": text, "label": "a"})


def test_a_text_is_kept_to_the_character():
    text = "  ① ｱ\r\n〜\u200b" + "あ" * 100_000 + " "
    assert read(labelled, {"text": text, "label": "a"}).text == text


def test_a_row_to_be_predicted_needs_no_label():
    assert read(labelled, {"text": "x"}, need_target=False) == Labelled("x", None)
    assert read(labelled, {"text": "x", "label": ""}, need_target=False) == Labelled("x", None)


USER, ANSWER, SYSTEM = Turn("user", "q"), Turn("assistant", "a"), Turn("system", "s")
MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]

FORMS = {
    "messages": {"messages": MESSAGES},
    "messages in a cell": {"messages": json.dumps(MESSAGES)},
    "ShareGPT": {"conversations": SHAREGPT},
    "prompt and completion": {"prompt": "q", "completion": "a"},
    "prompt and response": {"prompt": "q", "response": "a"},
    "question and answer": {"question": "q", "answer": "a"},
    "input and output": {"input": "q", "output": "a"},
    "Alpaca without input": {"instruction": "q", "input": "", "output": "a"},
}


@pytest.mark.parametrize("values", FORMS.values(), ids=FORMS)
def test_every_known_form_gives_the_same_conversation(values):
    assert read(conversation, values) == Conversation((USER, ANSWER))


@pytest.mark.parametrize("values", FORMS.values(), ids=FORMS)
def test_a_system_column_comes_first_in_every_form(values):
    assert read(conversation, {**values, "system": "s"}) == Conversation((SYSTEM, USER, ANSWER))


def test_the_input_of_an_alpaca_row_follows_its_instruction_after_a_blank_line():
    turns = read(conversation, {"instruction": "Translate.", "input": "cat", "output": "猫"}).turns
    assert turns == (Turn("user", "Translate.\n\ncat"), Turn("assistant", "猫"))


def test_messages_win_over_prompt_and_completion_unless_these_are_named():
    values = {"messages": MESSAGES, "prompt": "other", "completion": "words"}
    assert read(conversation, values).turns[0] == USER
    assert read(conversation, values, prompt="prompt").turns[0] == Turn("user", "other")


def test_two_answers_in_a_row_are_allowed():
    values = {"messages": [*MESSAGES, {"role": "assistant", "content": "b"}]}
    assert read(conversation, values).turns == (USER, ANSWER, Turn("assistant", "b"))


def test_rows_to_be_predicted_keep_their_answer_if_they_have_one():
    for values in ({"prompt": "q"}, {"prompt": "q", "completion": ""}, {"messages": MESSAGES[:1]}):
        assert read(conversation, values, need_target=False) == Conversation((USER,))
    assert read(conversation, {"messages": MESSAGES}, need_target=False) == Conversation((USER, ANSWER))


ALPACA = {"instruction": "q2", "input": "", "output": "a2"}


@pytest.mark.parametrize("history", [[["q", "a"]], '[["q", "a"]]', [("q", "a")]])
def test_earlier_pairs_of_an_alpaca_row_come_before_its_question(history):
    turns = read(conversation, {**ALPACA, "history": history, "system": "s"}).turns
    assert turns == (SYSTEM, USER, ANSWER, Turn("user", "q2"), Turn("assistant", "a2"))


@pytest.mark.parametrize("history", [None, "", [], "[]"])
def test_a_history_may_be_empty(history):
    assert len(read(conversation, {**ALPACA, "history": history}).turns) == 2


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ("q, a", "not a JSON list of pairs"),
        ([["q"]], r"not a list of earlier \[question, answer\] pairs"),
        ([["q", ""]], "the answer of pair 1 in column 'history' is ''"),
        ([["q", "a"], [None, "b"]], "the question of pair 2"),
    ],
)
def test_a_history_that_lacks_something_is_refused_in_words(history, words):
    with pytest.raises(ValueError, match=words):
        read(conversation, {**ALPACA, "history": history})


def test_further_text_and_history_can_be_named():
    values = {"q": "q", "more": "m", "a": "a", "before": [["q0", "a0"]]}
    turns = read(conversation, values, prompt="q", completion="a", input="more", history="before").turns
    assert turns[0] == Turn("user", "q0")
    assert turns[2] == Turn("user", "q\n\nm")


@pytest.mark.parametrize("tools", [[{"type": "function"}], '[{"type": "function"}]'])
def test_tools_beside_messages_are_refused_instead_of_lost(tools):
    with pytest.raises(ValueError, match="column 'tools' offers tools"):
        read(conversation, {"messages": MESSAGES, "tools": tools})


@pytest.mark.parametrize("tools", [None, "", [], "[]"])
def test_a_column_of_tools_may_be_empty(tools):
    assert read(conversation, {"messages": MESSAGES, "tools": tools}) == Conversation((USER, ANSWER))


@pytest.mark.parametrize("role", ["function_call", "observation", "tool_call"])
def test_what_a_tool_says_in_sharegpt_is_refused_in_words(role):
    values = {"conversations": [SHAREGPT[0], {"from": role, "value": "{}"}, SHAREGPT[1]]}
    with pytest.raises(ValueError, match="calls of tools are not learned"):
        read(conversation, values)


def test_a_text_alone_is_read_to_the_character():
    assert read(READERS["plain"], {"id": 1, "text": " a\n"}) == Plain(" a\n")
    with pytest.raises(ValueError, match="no column looks like the text"):
        READERS["plain"].choose(["body_text"], {})


def said(*roles, **more):
    return {"messages": [{"role": role, "content": "x", **more} for role in roles]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (said("user", "asistant"), "message 2 has the role 'asistant'; did you mean 'assistant'"),
        (said("assistant"), "is not the user's"),
        (said("system"), "is not the user's"),
        (said("user"), "the last message is not the assistant's"),
        (said("user", "system", "assistant"), "put it first"),
        (said("user", "user", "assistant"), "the user speaks twice"),
        (said("user", "assistant", tool_calls=[1]), "holds tool_calls, which would be lost"),
        ({**said("system", "user", "assistant"), "system": "s"}, "both hold a system prompt"),
        ({"messages": [{"role": "user", "content": " "}]}, r"message 1 \(user\) has no text"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, r"message 1 \(user\) has no text"),
        ({"messages": ["hello"]}, "message 1 is 'hello', not {role, content}"),
        ({"messages": []}, r"is \[\], not a list of messages"),
        ({"messages": "hello"}, "not a JSON list of messages"),
        ({"messages": "[" * 100_000}, "not a JSON list of messages"),
        ({"prompt": "", "completion": "a"}, "the prompt in column 'prompt' is empty"),
        ({"prompt": "q", "completion": None}, "the completion in column 'completion' is empty"),
        ({"prompt": "q", "completion": 42}, "is 42, not a text"),
    ],
)
def test_a_conversation_that_cannot_be_learned_from_is_refused_in_words(values, words):
    with pytest.raises(ValueError, match=words):
        read(conversation, values)


@pytest.mark.parametrize(
    ("names", "named", "words"),
    [
        (["a", "b"], {}, r"no column looks like a conversation; the columns are 'a', 'b'.*data\.messages: COLUMN"),
        (["prompt"], {}, r"no column looks like the answer.*data\.completion: COLUMN"),
        (["messages", "prompt"], {"messages": "messages", "prompt": "prompt"}, "keep one of the two ways"),
    ],
)
def test_conversation_columns_that_cannot_be_chosen_name_the_setting(names, named, words):
    with pytest.raises(ValueError, match=words):
        conversation.choose(names, named)
