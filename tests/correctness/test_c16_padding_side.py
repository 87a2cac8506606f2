"""C16: an answer that depends on which other prompts were in its batch."""

import pytest
import torch

from architectures import decoder
from learners import base_from
from migaki.core.types import Turn
from migaki.tasks import Generate
from tiny import WORDS

PROMPTS = [" ".join(WORDS[(i + k) % 10] for k in range(1 + i % 6))[: 3 + 11 * (i % 7)] for i in range(20)]
"""Twenty prompts of 3 to 69 characters."""


@pytest.fixture(params=["llama", "gpt2", "bloom"])
def network(request, tiny_decoder):
    """Three ways to know a token's position: rotation, a table, the distance alone."""
    kind = request.param
    base = base_from(tiny_decoder, "decoder") if kind == "llama" else decoder(kind, tiny_decoder)
    made = Generate(max_new_tokens=24).network(base, None, 0)
    # Sharper logits than those of random weights: the next token shall depend on the prompt, and on its positions.
    with torch.no_grad():
        for parameter in made.backbone.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(8.0)
    return made


def test_twenty_greedy_answers_are_the_same_together_and_alone(network):
    asked = [[Turn("user", prompt)] for prompt in PROMPTS]
    lengths = [len(network.chat.prompt(turns)) for turns in asked]
    assert len(set(lengths)) >= 10, "prompts of many lengths, so that there is padding"
    together = network.answer(asked)
    alone = [network.answer([turns])[0] for turns in asked]
    assert sum(a == b for a, b in zip(together, alone, strict=True)) == 20
    assert len({text for text, _ in together}) >= 15, "answers differ, so that a wrong one would be seen"


def test_each_answer_is_the_one_that_transformers_writes_for_its_prompt_alone(network):
    for prompt, (text, _) in zip(PROMPTS, network.answer([[Turn("user", p)] for p in PROMPTS]), strict=True):
        ids = network.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        written = []
        with torch.no_grad():
            # Every token from a fresh forward pass over the unpadded prompt: no cache, no mask, no padding to be wrong.
            for _ in range(24):
                token = int(network.backbone(input_ids=ids, use_cache=False).logits[0, -1].argmax())
                if token in network.chat.stop_ids:
                    break
                written.append(token)
                ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        assert text == network.tokenizer.decode(written, skip_special_tokens=True).strip()


def test_a_row_near_the_context_limit_does_not_shorten_its_neighbours_answers(network):
    """256 tokens of context: beside a prompt that leaves room for 5 tokens, all others still get their 24."""
    turns = [Turn("user", "x")]
    while len(network.chat.prompt(turns)) < 251:
        turns = [Turn("user", turns[0].content + "x")]
    assert len(network.chat.prompt(turns)) == 251
    asked = [[Turn("user", PROMPTS[3])], turns, [Turn("user", PROMPTS[5])]]
    assert network.answer(asked) == [network.answer([one])[0] for one in asked]
