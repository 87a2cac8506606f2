"""The generation task: its settings, what it encodes, predicts, saves and restores."""

import pytest
import torch
from pydantic import ValidationError

from chats import row
from learners import base_from, conversations
from migaki.core.errors import DataError, ModelError
from migaki.core.parts import Example
from migaki.core.types import Dataset, Turn
from migaki.methods import Full
from migaki.tasks import Generate
from migaki.tasks.text_generator import restore_generator


@pytest.fixture
def base(tiny_decoder):
    return base_from(tiny_decoder, "decoder")


def network(base, **settings):
    return Generate(**settings).network(base, Dataset("train", ()), 0)


def dataset(*rows):
    return Dataset("train", rows)


ONE = row(("user", "hello"), ("assistant", "yes"))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_length": 0},
        {"allow_truncated": 1.5},
        {"template": "chatml"},
        {"learn": "first"},
        {"max_new_tokens": 0},
        {"generated_rows": -1},
        {"max_lenght": 10},
    ],
)
def test_a_setting_out_of_range_or_misspelt_is_refused(settings):
    with pytest.raises(ValidationError):
        Generate(**settings)


def test_a_length_beyond_the_models_context_is_refused(base):
    with pytest.raises(ModelError, match=r"task\.max_length is 257, but .* at most 256 tokens"):
        network(base, max_length=257)
    assert network(base, max_length=256).limit == 256
    assert network(base).limit == 256


def test_the_weight_of_an_example_is_its_number_of_targets(base):
    made = network(base)
    example = made.encode(dataset(ONE))[0]
    learned = [label for label in example.labels if label != -100]
    assert made.tokenizer.decode(learned) == "yes<|end|>"
    assert example.weight == example.targets == len(learned)
    assert not example.truncated


def test_rows_without_a_target_are_counted_and_named(base):
    made = network(base, max_length=24, allow_truncated=1.0)
    long = "my screen is black " * 9
    rows = [row(("user", long if i % 2 else "hi"), ("assistant", "yes"), line=i + 1) for i in range(14)]
    with pytest.raises(DataError, match=r"7 of 14 train rows have no target token") as caught:
        made.encode(dataset(*rows))
    assert "chats.jsonl:2, chats.jsonl:4, chats.jsonl:6, chats.jsonl:8, chats.jsonl:10)" in str(caught.value)
    assert "task.max_length (now 24)" in str(caught.value)


def test_pieces_of_a_row_show_what_is_learned(base):
    made = network(base)
    assert made.marked(made.encode(dataset(ONE))[0]) == [
        ("<|start|>user\nhello<|end|>\n<|start|>assistant\n", False),
        ("yes<|end|>", True),
        ("\n", False),
    ]


def test_the_share_of_trained_tokens_counts_all_examples(base):
    examples = [Example(ONE, (1,) * 10, (1,) * 10, 4.0, 4), Example(ONE, (1,) * 30, (1,) * 30, 6.0, 6)]
    assert network(base).describe(examples) == {"trained_token_share": 0.25, "length": 256}


def test_label_smoothing_spreads_a_share_of_the_target_over_all_tokens(base):
    """(1 - s) * CE + s * mean over the vocabulary of -log p; Szegedy et al. 2016, arXiv:1512.00567, section 7."""
    made = network(base)
    example = made.encode(dataset(ONE))[0]
    logits_TV = made.backbone(input_ids=torch.tensor([example.ids])).logits[0, :-1]
    learned_T = torch.tensor(example.labels[1:]) != -100
    log_TV = logits_TV[learned_T].log_softmax(-1)
    own_T = log_TV.gather(1, torch.tensor(example.labels[1:])[learned_T][:, None])[:, 0]
    wanted = -(0.9 * own_T + 0.1 * log_TV.mean(-1)).sum()
    assert float(made.loss([example], 0.1)) == pytest.approx(float(wanted), rel=1e-5)


def test_more_targets_than_are_computed_at_once_give_the_same_loss(base, monkeypatch):
    made = network(base)
    rows = conversations(9)
    examples = made.encode(rows)
    whole, predicted = float(made.loss(examples, 0.0)), [p.loss for p in made.predict(rows.rows, answers=0)]
    monkeypatch.setattr("migaki.models.head._NUMBERS_AT_ONCE", 3 * made.backbone.config.vocab_size)
    assert float(made.loss(examples, 0.0)) == pytest.approx(whole, rel=1e-6)
    assert [p.loss for p in made.predict(rows.rows, answers=0)] == pytest.approx(predicted, rel=1e-6)


def test_a_prediction_carries_question_target_and_loss(base):
    made = network(base, max_new_tokens=2)
    asked = row(("system", "Be brief."), ("user", "hello"), ("assistant", "yes"), line=7)
    (found,) = made.predict([asked])
    assert (found.text, found.target, str(found.place)) == ("hello", "yes", "chats.jsonl:7")
    # "yes" in the tiny vocabulary, and the end of the turn.
    assert found.targets == made.encode(dataset(asked))[0].targets
    assert found.loss > 0
    assert found.stopped is not None


def test_a_row_without_an_answer_is_answered_but_not_judged(base):
    made = network(base, max_new_tokens=2)
    (found,) = made.predict([row(("user", "hello"))])
    assert (found.target, found.loss, found.targets) == (None, None, 0)
    assert found.stopped is not None


def test_only_as_many_rows_as_asked_for_are_answered_and_all_are_judged(base):
    made = network(base, max_new_tokens=2)
    seen = []
    found = made.predict(conversations(5).rows, answers=2, watch=seen.append)
    assert [p.stopped is None for p in found] == [False, False, True, True, True]
    assert all(p.loss is not None for p in found)
    assert seen[-1] == 2
    assert [p.output for p in made.predict(conversations(5).rows, answers=0)] == [""] * 5


def test_generated_rows_say_how_many_are_answered_in_evaluation():
    assert Generate(generated_rows=3).answers_in_evaluation() == 3
    assert Generate(generated_rows=0).answers_in_evaluation() == 0


def test_an_answer_stops_at_the_limit_and_says_so(base):
    made = network(base, max_new_tokens=3)
    ending = made.chat.stop_ids[0]
    head = made.backbone.get_output_embeddings().weight
    with torch.no_grad():
        head[ending] = 0.0  # logit 0 for the end token, whatever the hidden state ...
        head[70] = 0.0
    text, stopped = made.answer([[Turn("user", "hello")]])[0]
    assert stopped is False
    assert len(made.tokenizer(text)["input_ids"]) <= 3


def test_an_answer_holds_neither_the_stop_token_nor_what_follows(base, monkeypatch):
    """One row stops at once, the other goes on: what fills the first row behind its end is no part of its answer."""
    made = network(base, max_new_tokens=4)
    stop, word = made.chat.stop_ids[0], made.tokenizer("yes")["input_ids"][0]
    written = torch.tensor([[stop, word, word, word], [word, word, stop, stop]])

    def generate(input_ids, **_):
        return torch.cat([input_ids, written], dim=1)

    monkeypatch.setattr(made.backbone, "generate", generate)
    once = made.tokenizer.decode([word])
    assert made.answer([[Turn("user", "a longer question")], [Turn("user", "b")]]) == [("", True), (once * 2, True)]


def test_a_prompt_that_leaves_no_room_for_an_answer_is_named(base):
    made = network(base)
    with pytest.raises(DataError, match=r"1 of 2 prompts leave no room.*at most 256 tokens.*'xxx.*Shorten it"):
        made.answer([[Turn("user", "hello")], [Turn("user", "x" * 600)]])


def test_the_generation_settings_of_the_base_do_not_leak_into_greedy_answers(base):
    """A chat model's generation_config asks for sampling and a repetition penalty; measured answers are greedy."""
    asked = [[Turn("user", "the printer does not print")]]
    plain = network(base, max_new_tokens=12).answer(asked)
    settings = base.model.generation_config
    settings.do_sample, settings.temperature, settings.top_p, settings.repetition_penalty = True, 5.0, 0.9, 3.0
    assert network(base, max_new_tokens=12).answer(asked) == plain


def test_a_penalty_makes_seen_tokens_less_likely_but_never_the_end(base, monkeypatch):
    """Greedy by hand, token after token, without cache and without padding; rows of other lengths beside it change nothing."""
    monkeypatch.setattr(base.tokenizer, "decode", lambda ids, **_: " ".join(map(str, ids)))
    made = network(base, max_new_tokens=12, repetition_penalty=2.0)
    asked = [[Turn("user", "hello")], [Turn("user", "the printer does not print since the order has arrived")]]
    expected = []
    for turns in asked:
        ids = list(made.chat.prompt(turns))
        start = len(ids)
        while len(ids) < start + 12 and ids[-1] not in made.chat.stop_ids:
            scores = made.backbone(torch.tensor([ids])).logits[0, -1]
            for seen in set(ids) - set(made.chat.stop_ids) - {made.tokenizer.pad_token_id}:
                scores[seen] = scores[seen] / 2 if scores[seen] > 0 else scores[seen] * 2
            ids.append(int(scores.argmax()))
        written = ids[start:-1] if ids[-1] in made.chat.stop_ids else ids[start:]
        expected.append(" ".join(map(str, written)))
    assert [text for text, _ in made.answer(asked)] == expected
    assert [text for text, _ in network(base, max_new_tokens=12).answer(asked)] != expected


def test_a_saved_generator_is_restored_with_its_length(base, tmp_path):
    network(base, max_length=100).save(tmp_path)
    assert restore_generator(base, Generate(), tmp_path).limit == 100


def test_a_saved_generator_is_not_restored_under_another_template(base, tmp_path):
    network(base).save(tmp_path)
    with pytest.raises(ModelError, match="not the one this run was trained with"):
        restore_generator(base, Generate(template="alpaca"), tmp_path)


def test_a_learner_in_training_predicts_without_dropout_and_goes_on_training(tiny_decoder, tmp_path):
    from tiny import save_decoder

    rows = conversations(4)
    learner = Full().prepare(base_from(save_decoder(tmp_path, dropout=0.5), "decoder"), Generate(), rows, 0)
    learner.train_mode(None)
    losses = [[p.loss for p in learner.predict(rows.rows, answers=0)] for _ in range(2)]
    assert losses[0] == losses[1]
    assert learner.network.training
