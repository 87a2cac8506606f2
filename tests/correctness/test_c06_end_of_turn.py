"""C6: an end of turn that is never learned, so that answers never stop."""

import json
import shutil
from itertools import pairwise

import pytest

import migaki
from chats import BUILT_IN, CONVERSATIONS, NEVER_CLOSING, TEMPLATES, chat_format, conversation, tokenizer
from migaki.tasks.chat import NO_TARGET, ChatFormat
from tiny import WORDS


def last_targets(rendered):
    """The last label of every learned stretch."""
    labels = [*rendered.labels, NO_TARGET]
    return [a for a, b in pairwise(labels) if a != NO_TARGET and b == NO_TARGET]


@pytest.mark.parametrize("learn", ["all", "last"])
@pytest.mark.parametrize("content", CONVERSATIONS)
@pytest.mark.parametrize("name", [*TEMPLATES, *BUILT_IN])
def test_the_last_target_of_every_learned_turn_ends_it(name, content, learn):
    chat = chat_format(name, learn=learn)
    answers = sum(turn.role == "assistant" for turn in conversation(content).turns) if learn == "all" else 1
    assert last_targets(chat.render(conversation(content))) == [chat.stop_ids[0]] * answers


@pytest.mark.parametrize("content", CONVERSATIONS)
def test_a_template_that_never_closes_a_turn_is_closed_by_the_models_end_token(content):
    made = tokenizer(NEVER_CLOSING)
    chat = ChatFormat(made, "model", [made.eos_token_id])
    answers = sum(turn.role == "assistant" for turn in conversation(content).turns)
    assert last_targets(chat.render(conversation(content))) == [made.eos_token_id] * answers


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_tokenizer_without_an_end_token_learns_to_stop_by_the_models(name):
    """Only the model's configuration names the end token; the template's text must not say "None" in its stead."""
    made = tokenizer(None, eos=None)
    chat = ChatFormat(made, name, [3])
    rendered = chat.render(conversation("many turns"))
    assert last_targets(rendered) == [3, 3, 3]
    assert "None" not in made.decode(rendered.ids)


@pytest.mark.parametrize(("method", "pad"), [("full", "<|end|>"), ("lora", "<|pad|>")])
def test_eight_overfitted_answers_end_by_themselves(tmp_path, tiny_decoder, method, pad):
    """Padded batches of answers of eight lengths, 1 to 8 words; greedy answers must be the learned ones, end included."""
    base = shutil.copytree(tiny_decoder, tmp_path / "base")
    settings = base / "tokenizer_config.json"
    changed = {**json.loads(settings.read_text(encoding="utf-8")), "pad_token": pad}
    settings.write_text(json.dumps(changed), encoding="utf-8")
    words = " ".join(WORDS[:7]).split()
    rows = [{"prompt": WORDS[i], "completion": " ".join(words[5 * i : 5 * i + i + 1])} for i in range(8)]
    rows[7]["completion"] = "はい、承ります"
    held_out = [{**row, "prompt": row["prompt"] + "!"} for row in rows]
    full = method == "full"
    run = migaki.train(
        {
            "task": {"kind": "generate", "max_new_tokens": 48, "generated_rows": 0},
            # Thirty times the same rows in an epoch: as many steps, fewer evaluations between them.
            "data": {"train": rows * 30, "valid": held_out[:4], "test": held_out[4:]},
            "model": str(base),
            "method": "full" if full else {"kind": "lora", "rank": 32},
            "training": {
                "batch_size": 8,
                "epochs": 8,
                "schedule": "cosine",
                "learning_rate": 5e-3 if full else 1e-2,
            },
        },
        tmp_path / "runs",
    )
    answers = run.predict([row["prompt"] for row in rows])
    assert [answer.stopped for answer in answers] == [True] * 8
    assert [answer.output for answer in answers] == [row["completion"] for row in rows]
