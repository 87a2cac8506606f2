"""C4: a model that is served with another template, or with other token borders, than it was trained with."""

import json
import shutil

import pytest

import migaki
from chats import BUILT_IN, CONVERSATIONS, NEVER_CLOSING, REWRITING, TEMPLATES, chat_format, conversation, tokenizer
from migaki.core.errors import ModelError
from migaki.core.types import Conversation, Turn
from migaki.tasks.chat import NO_TARGET, ChatFormat
from tiny import chat_rows


@pytest.mark.parametrize("learn", ["all", "last"])
@pytest.mark.parametrize("content", CONVERSATIONS)
@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", [*TEMPLATES, *BUILT_IN])
def test_what_is_served_is_the_beginning_of_what_was_trained_at_every_learned_turn(name, adds_bos, content, learn):
    chat = chat_format(name, adds_bos, learn)
    turns = conversation(content).turns
    trained = chat.render(conversation(content)).ids
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    for i in answers if learn == "all" else answers[-1:]:
        served = chat.prompt(turns[:i])
        assert trained[: len(served)] == served, f"turn {i}"
        # The next token the model is asked for is the first one of this turn that it learned.
        labels = chat.render(conversation(content)).labels
        assert labels[len(served) - 1 : len(served) + 1] == (NO_TARGET, trained[len(served)])


def test_a_merge_over_the_border_of_an_answer_does_not_move_it():
    """The prompt ends with a space, which the tokenizer would join with the first letters of the answer."""
    made = tokenizer(NEVER_CLOSING)
    chat = ChatFormat(made, "model", [made.eos_token_id])
    said = Conversation((Turn("user", "hello"), Turn("assistant", "the printer")))
    prompt, rendered = chat.prompt(said.turns[:1]), chat.render(said)
    assert rendered.ids[: len(prompt)] == prompt
    assert made.decode(rendered.ids) == "user: hello\nassistant: the printer<|end|>"
    # Tokenised as one text, the prompt's last token would have vanished: nothing of it could be served.
    joined = made("user: hello\nassistant: the printer")["input_ids"]
    assert tuple(joined[: len(prompt)]) != prompt


def test_a_template_that_rewrites_earlier_answers_is_refused():
    made = tokenizer(REWRITING)
    chat = ChatFormat(made, "model", [made.convert_tokens_to_ids("<|im_end|>")])
    thinking = Conversation(
        (
            *(Turn("user", "1+1"), Turn("assistant", "<think>easy</think>2")),
            *(Turn("user", "2+2"), Turn("assistant", "<think>also</think>4")),
        )
    )
    with pytest.raises(ModelError, match=r"changes earlier turns.*'<think>easy</think>2'.*task\.learn: last"):
        chat.render(thinking)


def test_a_template_that_rewrites_earlier_answers_may_teach_the_last_one_and_is_served_as_trained():
    made = tokenizer(REWRITING)
    chat = ChatFormat(made, "model", [made.convert_tokens_to_ids("<|im_end|>")], learn="last")
    turns = (
        *(Turn("user", "1+1"), Turn("assistant", "<think>easy</think>2")),
        *(Turn("user", "2+2"), Turn("assistant", "<think>also</think>4")),
    )
    rendered, prompt = chat.render(Conversation(turns)), chat.prompt(turns[:3])
    assert rendered.ids[: len(prompt)] == prompt
    learned = [label for label in rendered.labels if label != -100]
    assert made.decode(learned) == "<think>also</think>4<|im_end|>"
    assert "easy" not in made.decode(prompt)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_templates_are_different_formats(name):
    others = {chat_format(other).fingerprint() for other in (*BUILT_IN, *TEMPLATES) if other != name}
    assert chat_format(name).fingerprint() not in others


@pytest.fixture(scope="module")
def tuned(tiny_decoder, tmp_path_factory):
    """A run over a copy of the base whose tokenizer the tests below may change."""
    folder = tmp_path_factory.mktemp("tuned")
    base = shutil.copytree(tiny_decoder, folder / "base")
    recipe = {
        "task": {"kind": "generate", "generated_rows": 0, "max_new_tokens": 4},
        "data": {"train": chat_rows(12)},
        "model": str(base),
        "method": {"kind": "lora", "rank": 2},
        "training": {"max_steps": 1},
    }
    return migaki.train(recipe, folder / "runs"), base


def test_the_templates_hash_is_stored_with_the_model(tuned):
    run, _ = tuned
    stored = json.loads((run.path / "model" / "task.json").read_text())["template_sha256"]
    assert stored == migaki.load(run.path).learner.network.chat.fingerprint()
    assert len(stored) == 64


@pytest.mark.parametrize("change", ["template", "end of turn"])
def test_a_model_is_not_served_with_another_template(tuned, change):
    run, base = tuned
    name = "chat_template.jinja" if change == "template" else "generation_config.json"
    path = base / name
    old = path.read_text(encoding="utf-8")
    if change == "template":
        path.write_text(old.replace("'\\n' + m['content']", "' ' + m['content']"), encoding="utf-8")
    else:
        path.write_text(json.dumps({**json.loads(old), "eos_token_id": [3, 68]}), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != old
    try:
        with pytest.raises(ModelError, match=r"chat template .* is not the one this run was trained with"):
            migaki.load(run.path).predict(["hello"])
    finally:
        path.write_text(old, encoding="utf-8")
    assert migaki.load(run.path).predict(["hello"])[0].stopped is not None
