"""What conversations and compared answers teach beside what is meant."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from migaki.audit.audit import audit
from migaki.audit.chats import chat_lights, points_at_nothing
from migaki.audit.preferences import judged_lights, preferred_lights, sign_test
from migaki.audit.tokens import chat_facts
from migaki.cli import main
from migaki.core.types import Conversation, Dataset, Place, Row, Splits, Turn
from tiny import chat_rows, write_rows


def chats(*pairs):
    return [
        Row(Place("a.jsonl", line), Conversation((Turn("user", question), Turn("assistant", answer))))
        for line, (question, answer) in enumerate(pairs, 1)
    ]


def lights(rows):
    return {light.name: light for light in chat_lights(rows, {"prompt": "prompt", "completion": "answer"})}


PLAIN = [(f"What is the capital of country {n}?", f"It is city {n * n}.") for n in range(30)]


def test_conversations_without_a_fault_are_green_and_say_in_which_form_they_were_read():
    found = lights(chats(*PLAIN))
    assert {light.level for light in found.values()} == {"green"}
    assert "instruction and answer: prompt from 'prompt', completion from 'answer'" in found["format"].message


def test_one_question_with_several_answers_is_named_with_its_rows():
    found = lights(chats(*PLAIN, ("What is THE capital of country 3?", "Nobody knows."), PLAIN[5]))
    ambiguous = found["ambiguous instructions"]
    # The copy of row 6 has the same answer: a repeat, but not ambiguous.
    assert (ambiguous.count, ambiguous.examples) == (
        1,
        ("a.jsonl:4, a.jsonl:31: 'What is the capital of country 3?'",),
    )


@pytest.mark.parametrize(
    ("question", "empty"),
    [
        ("Summarise the following text.", True),
        ("Summarise the following text:\nIt rained all day long.", False),
        ("Correct the sentence below", True),
        ("Translate this sentence: 「こんにちは」", False),
        ("以下の文章を要約してください。", True),
        ("以下の文章を要約してください。\n\n今日は一日中雨だった。", False),
        ("It rained all day long.\n\nSummarise this text.", False),
        ("Why is it below zero in winter?", False),
        ("How do I change the text colour?", False),
        ("Answer the following question. Why is the sky blue?", False),
    ],
)
def test_a_question_that_speaks_of_a_text_which_is_not_there_is_told_by_a_rule(question, empty):
    assert points_at_nothing(question) is empty
    assert ("instructions that point at nothing" in lights(chats(*PLAIN, (question, "Here it is.")))) is empty


@pytest.mark.parametrize("mark", ["<|im_start|>user", "[INST] hi", "### Instruction:\nhi", "### 応答:\nhi"])
def test_a_text_that_went_through_a_template_before_is_red_with_its_mark(mark):
    found = lights(chats(*PLAIN, (f"{mark} what now?", "Nothing.")))["rendered templates"]
    assert (found.level, found.count) == ("red", 1)
    assert found.examples[0].startswith("a.jsonl:31: ")
    assert "data.clean: [{kind: remove" in found.remedy


def test_tokens_of_conversations_are_those_that_the_template_writes(tiny_decoder: Path):
    """As the loop encodes them: `<|start|>role\\n`, the text, `<|end|>\\n`, and of the answer all up to its end counts."""
    from learners import base_from, task_of
    from migaki.data import Data

    data = Data(train=chat_rows(12))
    rows = data.load("conversation", 0).train
    network = task_of("generate").network(base_from(tiny_decoder, "decoder"), rows, 0)
    examples = network.encode(rows)
    facts = chat_facts(tiny_decoder, [row.content for row in rows.rows], "model", "all", network.limit)
    assert facts.lengths == tuple(len(example) for example in examples)
    assert facts.targets == tuple(example.targets for example in examples)
    assert not facts.refused


def splits_of(rows):
    return Splits(Dataset("train", tuple(rows)), Dataset("valid", ()), Dataset("test", ()), (), {})


def test_a_question_that_fills_the_whole_length_leaves_nothing_to_learn(tiny_decoder: Path):
    rows = chats(("my screen is black " * 20, "yes"), ("hi", "yes"))
    facts = chat_facts(tiny_decoder, [row.content for row in rows], "model", "all", 16)
    assert facts.targets[0] == 0 < facts.targets[1]
    found = {light.name: light for light in audit(splits_of(rows), "conversation", facts, 16).lights}
    assert (found["rows without a target"].level, found["rows without a target"].examples) == ("red", ("a.jsonl:1",))


def test_a_template_that_refuses_a_conversation_names_it(tiny_decoder: Path, tmp_path: Path):
    import shutil

    folder = Path(shutil.copytree(tiny_decoder, tmp_path / "model"))
    template = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m['content'] }}{% endfor %}"
    for path in (folder / "chat_template.jinja", folder / "tokenizer_config.json"):
        if path.suffix == ".jinja":
            path.write_text(template, encoding="utf-8")
        else:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}), encoding="utf-8")
    rows = chats(("hi", "yes"))
    rows.append(
        Row(
            Place("a.jsonl", 9), Conversation((Turn("system", "be kind"), Turn("user", "hi"), Turn("assistant", "yes")))
        )
    )
    facts = chat_facts(folder, [row.content for row in rows], "model", "all", 64)
    assert list(facts.refused) == [1]
    found = {light.name: light for light in audit(splits_of(rows), "conversation", facts, 64).lights}
    assert found["chat template"].examples == ("a.jsonl:9",)
    assert "task.template" in found["chat template"].remedy


def test_the_command_counts_tokens_of_conversations_with_the_template(tmp_path, tiny_decoder, capsys):
    path = write_rows(tmp_path / "chats.jsonl", chat_rows(30))
    assert main(["data", "check", str(path), "--model", str(tiny_decoder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "targets" in {light["name"] for light in said["lights"]}
    assert said["facts"]["targets"]["least"] >= 1
    assert said["facts"]["roles"] == {"user": 30, "assistant": 30}


@dataclass(frozen=True)
class Compared:
    """A question with two answers, or with one that was judged."""

    text: str
    chosen: str = ""
    rejected: str = ""
    answer: str = ""
    good: bool = True

    def key(self):
        return self.text


def compared(*contents):
    return [Row(Place("p.jsonl", line), content) for line, content in enumerate(contents, 1)]


def preferences(rows):
    return {light.name: light for light in preferred_lights(rows)}


def test_equal_pairs_and_pairs_that_contradict_one_another_are_red():
    fine = [Compared(f"q{n}", f"answer {n}", f"other {n}!") for n in range(4)]
    found = preferences(compared(*fine, Compared("q8", "Yes.", "yes. "), Compared("Q1", "other 1!", "answer 1")))
    assert (found["equal pairs"].level, found["equal pairs"].examples) == ("red", ("p.jsonl:5",))
    assert found["contradicting pairs"].examples == ("p.jsonl:6 against p.jsonl:2",)


def test_a_length_bias_is_told_where_chance_does_not_explain_it():
    # 18 of 20 longer: 2 x (190 + 20 + 1) / 2^20 = 0.0004; 12 of 20: 0.50.
    assert sign_test(18, 20) == pytest.approx(2 * 211 / 2**20)
    assert sign_test(12, 20) == pytest.approx(0.5034, abs=1e-4)

    def rows(n_longer):
        return compared(
            *(Compared(f"q{n}", f"{n}" * (20 if n < n_longer else 2), f"{n}" * 10 + "!") for n in range(10, 30))
        )

    assert "chosen answer is the longer one in 18 of 20 pairs" in preferences(rows(28))["length bias"].message
    assert "length bias" not in preferences(rows(22))
    assert preferences(rows(22))["preferences"].level == "green"


def test_verdicts_that_contradict_or_are_all_the_same_are_red():
    good = [Compared(f"q{n}", answer=f"a{n}") for n in range(3)]
    bad = [Compared(f"r{n}", answer=f"a{n}", good=False) for n in range(3)]
    assert [(light.name, light.level) for light in judged_lights(compared(*good, *bad))] == [("verdicts", "green")]
    assert [(light.name, light.level) for light in judged_lights(compared(*good))] == [("verdicts", "red")]
    found = list(judged_lights(compared(*good, *bad, Compared("q1", answer="A1", good=False))))
    assert (found[0].name, found[0].examples) == ("contradicting verdicts", ("p.jsonl:2: 'q1'",))
