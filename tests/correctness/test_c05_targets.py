"""C5: every label masked, or the prompt in the loss."""

import json

import pytest

import migaki
from chats import BUILT_IN, CONVERSATIONS, TEMPLATES, chat_format, conversation
from migaki.core.errors import DataError
from migaki.tasks.chat import NO_TARGET
from tiny import chat_rows, write_rows

GOLDEN = {
    ("tiny", "all"): (
        "<|start|>system\nAnswer in one line.<|end|>\n<|start|>user\nhello<|end|>\n<|start|>assistant\n«hi there<|end|>»\n"
        "<|start|>user\nthe printer does not print<|end|>\n<|start|>assistant\n«is it on?<|end|>»\n"
        "<|start|>user\nno<|end|>\n<|start|>assistant\n«turn it on<|end|>»\n"
    ),
    ("tiny", "last"): (
        "<|start|>system\nAnswer in one line.<|end|>\n<|start|>user\nhello<|end|>\n<|start|>assistant\nhi there<|end|>\n"
        "<|start|>user\nthe printer does not print<|end|>\n<|start|>assistant\nis it on?<|end|>\n"
        "<|start|>user\nno<|end|>\n<|start|>assistant\n«turn it on<|end|>»\n"
    ),
    ("chatml", "all"): (
        "<|im_start|>system\nAnswer in one line.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n«hi there<|im_end|>»\n"
        "<|im_start|>user\nthe printer does not print<|im_end|>\n<|im_start|>assistant\n«is it on?<|im_end|>»\n"
        "<|im_start|>user\nno<|im_end|>\n<|im_start|>assistant\n«turn it on<|im_end|>»\n"
    ),
    ("llama3", "all"): (
        "<|bos|><|start_header_id|>system<|end_header_id|>\n\nAnswer in one line.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n«hi there<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nthe printer does not print<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n«is it on?<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nno<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n«turn it on<|eot_id|>»"
    ),
    ("gemma", "last"): (
        "<|bos|><start_of_turn>user\nAnswer in one line.\n\nhello<end_of_turn>\n<start_of_turn>model\nhi there<end_of_turn>\n"
        "<start_of_turn>user\nthe printer does not print<end_of_turn>\n<start_of_turn>model\nis it on?<end_of_turn>\n"
        "<start_of_turn>user\nno<end_of_turn>\n<start_of_turn>model\n«turn it on<end_of_turn>»\n"
    ),
    ("llama2", "all"): (
        "<|bos|>[INST] <<SYS>>\nAnswer in one line.\n<</SYS>>\n\nhello [/INST]« hi there <|end|>»"
        "<|bos|>[INST] the printer does not print [/INST]« is it on? <|end|>»<|bos|>[INST] no [/INST]« turn it on <|end|>»"
    ),
    ("plain", "all"): (
        "Answer in one line.\nhello\n«hi there<|end|>»\nthe printer does not print\n«is it on?<|end|>»\nno\n«turn it on<|end|>»\n"
    ),
    ("alpaca", "all"): (
        "Answer in one line.\n\n### Instruction:\nhello\n\n### Response:\n«hi there<|end|>»\n\n"
        "### Instruction:\nthe printer does not print\n\n### Response:\n«is it on?<|end|>»\n\n"
        "### Instruction:\nno\n\n### Response:\n«turn it on<|end|>»\n\n"
    ),
    ("japanese", "last"): (
        "Answer in one line.\n\n### 指示:\nhello\n\n### 応答:\nhi there<|end|>\n\n"
        "### 指示:\nthe printer does not print\n\n### 応答:\nis it on?<|end|>\n\n### 指示:\nno\n\n### 応答:\n«turn it on<|end|>»\n\n"
    ),
}  # fmt: skip
"""Written by hand from the templates: what stands between « and » is learned, nothing else is."""


def marked(chat, rendered):
    """The rendered conversation as text, its targets between « and »."""
    text, inside = [], False
    groups = []
    for token, label in zip(rendered.ids, rendered.labels, strict=True):
        target = label != NO_TARGET
        if not groups or target != inside:
            groups.append((target, []))
            inside = target
        groups[-1][1].append(token)
    for target, ids in groups:
        piece = chat.tokenizer.decode(ids)
        text.append(f"«{piece}»" if target else piece)
    return "".join(text)


@pytest.mark.parametrize(("name", "learn"), GOLDEN)
def test_exactly_the_assistants_words_and_the_end_of_its_turn_are_learned(name, learn):
    chat = chat_format(name, learn=learn)
    assert marked(chat, chat.render(conversation("many turns"))) == GOLDEN[name, learn]


def test_japanese_answers_are_learned_whole_and_questions_not_at_all():
    chat = chat_format("japanese")
    assert marked(chat, chat.render(conversation("japanese"))) == (
        "丁寧に答えてください。\n\n### 指示:\n返品したいのですが、どうすればいいですか？\n\n"
        "### 応答:\n«はい、承ります。\n注文番号をお知らせください。<|end|>»\n\n"
        "### 指示:\n１２３です\n\n### 応答:\n«ありがとうございます😊<|end|>»\n\n"
    )


@pytest.mark.parametrize("content", CONVERSATIONS)
@pytest.mark.parametrize("name", [*TEMPLATES, *BUILT_IN])
def test_a_label_is_the_token_itself_or_none(name, content):
    rendered = chat_format(name).render(conversation(content))
    assert len(rendered.labels) == len(rendered.ids)
    assert all(label in (NO_TARGET, token) for token, label in zip(rendered.ids, rendered.labels, strict=True))


def recipe(folder, base, rows, **task):
    return {
        "task": {"kind": "generate", "generated_rows": 0, **task},
        "data": {
            "train": str(write_rows(folder / "train.jsonl", rows)),
            "valid": chat_rows(40)[30:34],
            "test": chat_rows(40)[34:38],
        },
        "model": str(base),
        "method": {"kind": "lora", "rank": 2},
        "training": {"max_steps": 1},
    }


def test_a_run_with_a_row_that_has_no_target_does_not_start(tmp_path, tiny_decoder):
    """The prompt of line 3 alone fills all 64 tokens; cutting rows is allowed, yet nothing of this one would be learned."""
    rows = chat_rows(8)
    rows[2] = {"prompt": "my screen is black " * 40, "completion": "yes"}
    with pytest.raises(DataError, match=r"1 of 8 train rows have no target token.*train\.jsonl:3") as caught:
        migaki.train(recipe(tmp_path, tiny_decoder, rows, max_length=64, allow_truncated=1.0), tmp_path / "runs")
    assert "task.max_length (now 64)" in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_the_data_report_says_which_share_of_the_tokens_is_trained(tmp_path, tiny_decoder):
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "cd", "completion": "e"}]
    run = migaki.train(recipe(tmp_path, tiny_decoder, rows), tmp_path / "runs")
    data = json.loads((run.path / "data.json").read_text(encoding="utf-8"))
    # <|start|>user\na<|end|>\n<|start|>assistant\nb<|end|>\n: the answer and <|end|> are targets, 2 in each row.
    tokens = [len(run.learner.network.chat.render(row.content).ids) for row in _rows(run)]
    assert data["splits"]["train"] | {"tokens": sum(tokens), "targets": 4} == data["splits"]["train"]
    assert data["trained_token_share"] == pytest.approx(4 / sum(tokens))


def _rows(run):
    return run.recipe.data.load("conversation", 0).train.rows
