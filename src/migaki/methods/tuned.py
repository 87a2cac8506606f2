"""The learner of every method that moves weights by gradient: a network, and which of its parameters are trained."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from migaki.core.cache import Cache
from migaki.core.errors import Problem, RecipeError
from migaki.core.parts import Example, ParameterGroup
from migaki.core.store import read_json
from migaki.core.types import Dataset, Prediction, Row
from migaki.methods.stored import fill
from migaki.models.vision import eye_of

__all__ = ["TunedLearner", "blocks_of", "final_norms", "load_trained", "save_backbone", "save_trained"]

_COMPARED_ROWS = 2
_DIFFERENCE, _AGREEMENT_BYTES = "difference.json", 1 << 24
_TOLERANCE = 1e-3
"""Two ways of adding the same float32 numbers differ by about 1e-5; a wrong one by far more than this."""


class TunedLearner:
    """Hands the loop's calls to the task's network; knows what is trained by `requires_grad` alone."""

    def __init__(
        self,
        network: Any,
        save_weights: Callable[[Any, Path], None],
        rate_factor: Callable[[str], float] = lambda _: 1.0,
        from_epoch: Callable[[str], int] = lambda _: 0,
    ) -> None:
        """`rate_factor` and `from_epoch` tell them by a parameter's name."""
        self.network = network
        self._save_weights = save_weights
        self._rate_factor = rate_factor
        self._from_epoch = from_epoch
        self._dtype = torch.float32
        self._trains_with: tuple[float | None] | None = None
        """The dropout of the training behaviour that is set up now; None while there is another."""

    @property
    def labels(self) -> tuple[str, ...]:
        return self.network.labels  # type: ignore[no-any-return]

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        return self.network.encode(dataset)  # type: ignore[no-any-return]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Matrices decay, vectors (norms and biases) do not: pulling a norm's scale to zero fights the norm itself. Nor do
        edits of hidden vectors, of which a smaller matrix W is not the smaller edit."""
        alike: dict[tuple[bool, float, int, bool], list[tuple[str, nn.Parameter]]] = {}
        for name, p in self.network.named_parameters():
            if p.requires_grad:
                decays = p.ndim >= 2 and not name.startswith("edits.")
                kind = (decays, self._rate_factor(name), self._from_epoch(name), not name.endswith(".lora_A"))
                alike.setdefault(kind, []).append((name, p))
        return [ParameterGroup(alike[key], *key) for key in sorted(alike, reverse=True)]

    def parameter_counts(self) -> tuple[int, int]:
        """Trained and total number of parameters."""
        numbers = [(p.numel(), p.requires_grad) for p in self.network.parameters()]
        return sum(n for n, trained in numbers if trained), sum(n for n, _ in numbers)

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        """Compare the flat way with transformers' own and step aside if they differ; keep the activations below the
        first trained block where that pays."""
        body = self.network.body
        if body.use_flat:
            self.network.eval()
            worst = self._remembered_difference(train)
            if worst > _TOLERANCE:
                body.use_flat = False
                note(f"the model is computed as transformers does: the faster way differs by {worst:.1e} on it")
        inputs = functools.partial(self.network.inputs, valid)
        with self._formats():
            kept = passes > 0 and body.keep(train, inputs, passes, [f"computed in {self._dtype}"], note)
        if self.varies == "always" and passes == 0 and body.frozen_parts():
            note(
                "what is frozen is computed anew for every row, since each is altered in another way each time; with "
                "task.augment.views: 4 so many ways of each row are computed once and kept"
            )
        return {"path": "flat" if body.use_flat else "generic", "activations_kept": kept}

    def _remembered_difference(self, train: Sequence[Example]) -> float:
        """Found out once for these weights, what is trained of them, this code and these libraries."""
        trained = [(name, tuple(p.shape)) for name, p in self.network.named_parameters() if p.requires_grad]
        facts = [
            self.network.fingerprint,
            self.network.backbone.config.to_json_string(),
            str([type(self.network).__name__, self._dtype, self.network.device, trained]),
            torch.__version__,
            transformers.__version__,
            _code_digest(),
        ]

        def make(folder: Path) -> None:
            (folder / _DIFFERENCE).write_text(json.dumps(self._difference(train)) + "\n")

        key = hashlib.sha256("\x1f".join(facts).encode()).hexdigest()[:32]
        return float(read_json(Cache("agreement", _AGREEMENT_BYTES).get(key, make) / _DIFFERENCE))

    def _difference(self, train: Sequence[Example]) -> float:
        """Largest relative difference of loss and gradients between the two ways, on the shortest rows."""
        few = [train[int(i)] for i in np.argsort([len(e) for e in train], kind="stable")[:_COMPARED_ROWS]]
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        # Two backward passes of which each adds to the same gradients; what was there before is nobody's yet.
        found = []
        for loss in (self.network.generic_loss(few), self.network.loss(few, 0.0)):
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            found.append((loss.detach(), gradients))
        (loss_a, gradients_a), (loss_b, gradients_b) = found
        worst = float((loss_a - loss_b).abs() / loss_a.abs().clamp_min(1e-12))
        largest = max((float(g.norm()) for g in gradients_a if g is not None), default=0.0)
        for a, b in zip(gradients_a, gradients_b, strict=True):
            if a is None and b is None:
                continue
            a, b = (torch.zeros_like(b) if a is None else a), (torch.zeros_like(a) if b is None else b)
            # A gradient of almost nothing is rounding alone; it is held against the largest one.
            worst = max(worst, float((a - b).norm()) / max(float(a.norm()), 1e-4 * largest, 1e-12))
        return worst

    def groups(self, examples: Sequence[Example], max_rows: int) -> list[list[int]]:
        return self.network.body.groups(examples, max_rows)  # type: ignore[no-any-return]

    @property
    def varies(self) -> str:
        return getattr(self.network, "varies", "never")

    def varied(self, example: Example, number: int, epoch: int, others: Sequence[Example]) -> Example:
        if self.varies == "never":
            return example
        return self.network.varied(example, number, epoch, others)  # type: ignore[no-any-return]

    def ahead(self, coming: Iterable[Example]) -> AbstractContextManager[None]:
        ahead = getattr(self.network, "ahead", None)
        return ahead(coming) if ahead else nullcontext()

    def altered(self, example: Example, share: float, randomness: np.random.Generator) -> Example:
        mask = self.network.mask_id()
        if mask is None:
            raise RecipeError([Problem("training.mask_tokens", "this model has no mask token; leave it out.")])
        ids_T = np.array(example.ids)
        # The first and the last token are the ones that frame the text.
        hidden_T = randomness.random(len(ids_T)) < share
        hidden_T[[0, -1]] = False
        # Where one stands between two texts, it says which token belongs to which.
        hidden_T &= ids_T != self.network.tokenizer.sep_token_id
        return replace(example, ids=tuple(np.where(hidden_T, mask, ids_T).tolist()))

    def compute_in(self, dtype: torch.dtype) -> None:
        """Matrix products in this format from now on; the trained weights stay float32."""
        self._dtype = dtype
        if dtype == torch.bfloat16 and self.network.device.type == "cuda":
            # What is frozen is only ever read in this format, so it need not be kept in a wider one.
            for module in self.network.backbone.modules():
                if isinstance(module, nn.Linear) and not module.weight.requires_grad:
                    module.to(dtype)

    def _formats(self) -> torch.autocast:
        return torch.autocast(self.network.device.type, self._dtype, enabled=self._dtype != torch.float32)

    def untrained(self) -> AbstractContextManager[None]:
        return nullcontext()  # where it takes steps, the loop keeps its start

    def loss(self, examples: Sequence[Example], label_smoothing: float) -> torch.Tensor:
        with self._formats():
            return self.network.loss(examples, label_smoothing)  # type: ignore[no-any-return]

    def train_mode(self, dropout: float | None) -> None:
        """Training behaviour above the first trained block; what is frozen below it stays deterministic."""
        if self._trains_with == (dropout,):
            return  # asked before every step, and walking through all modules takes as long as a small step itself
        self._trains_with = (dropout,)
        self.network.train()
        for part in self.network.body.frozen_parts():
            part.eval()
        if dropout is not None:
            _set_dropout(self.network, dropout)

    def evaluation_mode(self) -> None:
        self._trains_with = None
        self.network.eval()

    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """In evaluation mode, and back in the mode it was in afterwards."""
        with self._answering():
            return self.network.predict(rows, answers=answers, watch=watch)  # type: ignore[no-any-return]

    def features(self, rows: Sequence[Row], watch: Callable[[int], None] = lambda _: None) -> np.ndarray:
        """What an encoder makes of each row before the head, (N, D) float32, computed as `predict` computes."""
        with self._answering():
            return self.network.present_features(self.network.inputs(rows), watch)  # type: ignore[no-any-return]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        training, self._trains_with = self.network.training, None
        self.network.eval()
        try:
            with self._formats():
                yield
        finally:
            self.network.train(training)

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        return self.network.marked(example)  # type: ignore[no-any-return]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        return self.network.describe(examples)  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        self._save_weights(self.network, folder)
        # What makes numbers of a row: of a text the tokenizer, of a file the processor, of a file and its transcript both.
        for reader in (getattr(self.network, "processor", None), getattr(self.network, "tokenizer", None)):
            if reader is not None:
                reader.save_pretrained(folder)
        self.network.save(folder)


@functools.cache
def _code_digest() -> str:
    """sha256 over migaki's own modules that compute: after a change of them everything is compared again."""
    digest = hashlib.sha256()
    for room in ("models", "tasks", "methods"):
        for path in sorted((Path(__file__).parents[1] / room).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _set_dropout(network: nn.Module, rate: float) -> None:
    """Put one rate into every dropout of the backbone and before the head; adapters keep their own."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout) and not name.endswith("adapter_dropout"):
            module.p = rate
        # Fused attention takes its rate as a plain number on the module, and some models (OPT, Bloom) drop by a function;
        # image models drop whole blocks of a row (drop_prob).
        for key, value in vars(module).items():
            if ("dropout" in key or key == "drop_prob") and isinstance(value, float):
                setattr(module, key, rate)


def save_backbone(network: Any, folder: Path) -> None:
    """Weights and configuration as transformers writes them: tied tensors once, safetensors only."""
    network.backbone.save_pretrained(folder, safe_serialization=True)


_TRAINED_FILE = "trained.safetensors"


def blocks_of(backbone: Any) -> Sequence[nn.Module]:
    """The blocks in order: of an image model as `vision.Eye` has them, of a model of speech those that hear and behind them
    those that write, of others the longest list of modules whose length is the configuration's.

    Raises:
        RecipeError: the model has no such list.
    """
    if (eye := eye_of(backbone)) is not None:
        return eye.blocks
    if backbone.config.is_encoder_decoder:
        return [*backbone.get_encoder().layers, *backbone.get_decoder().layers]
    n_blocks = getattr(backbone.config.get_text_config(), "num_hidden_layers", None)
    found = [m for m in backbone.modules() if isinstance(m, nn.ModuleList) and len(m) == n_blocks]
    if not found:
        raise RecipeError(
            [Problem("method.kind", "the blocks of this model cannot be found; use method: full or lora.")]
        )
    return list(found[0])


# Llama, GPT-2, MPT, OPT and GPT-NeoX, Phi, ModernBERT, Whisper, AST: each with its kin.
_FINAL_NORMS = (
    *("norm", "ln_f", "norm_f", "final_layer_norm", "final_layernorm", "final_norm"),
    *("layer_norm", "layernorm"),
)


def final_norms(backbone: Any, blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """The norm that stands beside the list of blocks, by the names it goes by; an encoder of BERT's kind has none. Of an
    image model whatever is trained behind the blocks, and of one that writes letters the layer that does."""
    if (eye := eye_of(backbone)) is not None:
        return list(eye.behind)
    if backbone.config.is_encoder_decoder:
        return [backbone.get_decoder().layer_norm]
    letters = [head] if (head := getattr(backbone, "lm_head", None)) is not None and _hears(backbone) else []
    if not getattr(backbone.config, "do_stable_layer_norm", True):
        return letters  # wav2vec 2.0 and HuBERT of the first kind: their norm is computed before the blocks
    for parent in backbone.modules():
        beside = dict(parent.named_children())
        if any(isinstance(m, nn.ModuleList) and list(m) == list(blocks) for m in beside.values()):
            return [*(beside[name] for name in _FINAL_NORMS if name in beside), *letters]
    return letters


def _hears(backbone: Any) -> bool:
    return bool(backbone.main_input_name == "input_values")


def save_trained(network: Any, folder: Path) -> None:
    """Only what was trained of the backbone; the task saves its head itself."""
    trained = {n: p.detach().contiguous() for n, p in network.backbone.named_parameters() if p.requires_grad}
    save_file(trained, folder / _TRAINED_FILE)


def load_trained(network: Any, folder: Path) -> None:
    """Put saved weights over the base's.

    Raises:
        DamagedError: a tensor is missing, left over, or of another shape.
    """
    own = {n: p for n, p in network.backbone.named_parameters() if p.requires_grad}
    fill(own, folder / _TRAINED_FILE, "layer")
