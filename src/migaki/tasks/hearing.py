"""A model that hears as a trunk: which recordings are computed together, and what is kept of them below
the trained part."""

# Shapes: B batch, N samples, T positions, D hidden

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from migaki.core.parts import Example
from migaki.models.speech import Ear, Heard
from migaki.tasks.body import fingerprint_of, tokens_at_once
from migaki.tasks.sound_augmentation import AugmentSound, SoundView
from migaki.training.activations import Whole, activations_of
from migaki.training.plan import token_groups
from migaki.training.tokens import Examples

__all__ = ["Hearing", "Sound", "Varying"]


@dataclass(frozen=True, slots=True)
class Sound(Example):
    """A recording as the network hears it."""

    wave_N: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), compare=False, repr=False)
    """Samples at the model's rate, without what lies behind the limit."""
    start: int = 0
    """Which sample of the recording the first of them is."""

    def key(self) -> bytes:
        """Equal for equal pieces of recordings that are heard in the same way."""
        piece = b"".join(n.to_bytes(8, "little") for n in (self.start, len(self.wave_N)))
        return bytes.fromhex(self.row.content.media.sha256) + piece + (repr(self.view).encode() if self.view else b"")


@dataclass(frozen=True)
class Varying:
    """How recordings are altered in training, and by which seed."""

    augment: AugmentSound
    seed: int
    longest: int
    """Samples that the model hears at most."""

    @property
    def varies(self) -> Literal["in_views", "always"]:
        return "in_views" if self.augment.views else "always"


class Hearing:
    """Features of recordings; see `classifier.Trunk`."""

    use_flat = False
    edits: Any = None

    def __init__(
        self, backbone: Any, ear: Ear, every_layer: bool, read_by: str, varying: Varying | None = None
    ) -> None:
        """
        Args:
            every_layer: whether each layer speaks, or the last one alone.
            read_by: settings of what makes numbers of a recording.
            varying: how recordings are altered in training, if they are.
        """
        self.backbone, self.ear, self._every_layer, self._read_by = backbone, ear, every_layer, read_by
        self._varying = varying
        self._cut = 0
        self._find: Callable[[Whole], np.ndarray | None] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device  # type: ignore[no-any-return]

    @property
    def width(self) -> int:
        """D"""
        return self.ear.width

    @property
    def n_features(self) -> int:
        """Numbers that stand for a recording: D, or D for what enters the first block and for what comes out of each."""
        return self.width * (1 + len(self.ear.layers) if self._every_layer else 1)

    def groups(self, examples: Sequence[Example], max_rows: int | None = None) -> list[list[int]]:
        """Which examples of a step are computed together: of similar length, at most `max_rows` of them."""
        return token_groups([len(e) for e in examples], tokens_at_once(self.backbone.config, self.device), max_rows)

    def groups_without_gradient(self, examples: Sequence[Example]) -> list[list[int]]:
        """The same where nothing has to be remembered for a backward pass."""
        return token_groups([len(e) for e in examples])

    def pooled(self, sounds: Sequence[Sound]) -> torch.Tensor:
        """One vector for each recording, (B, n_features)."""
        kept = self._kept(sounds)
        lower, heard = kept or ([], self._embedded(sounds))
        cut = self._cut if kept else 0
        if not self._every_layer:
            return self.ear.pooled(self._finished(heard, cut))
        stages = [*lower]
        for later in self.ear.outputs(heard, first=cut):
            stages.append(self.ear.pooled(heard))
            heard = later
        stages.append(self.ear.pooled(self.ear.finish(heard)))
        # Layers differ in size by far: unscaled the largest would speak alone.
        return torch.cat([nn.functional.layer_norm(stage_BD.float(), (self.width,)) for stage_BD in stages], 1)

    def heard(self, sounds: Sequence[Sound]) -> Heard:
        """What comes out of the model for each position of each recording."""
        kept = self._kept(sounds)
        return self._finished(kept[1], self._cut) if kept else self._finished(self._embedded(sounds), 0)

    def _finished(self, heard: Heard, first: int) -> Heard:
        return self.ear.finish(self.ear.blocks(heard, first=first))

    def _embedded(self, sounds: Sequence[Sound]) -> Heard:
        # Spectrograms are no work of the model: in a narrower format they would be worse, and numpy knows none.
        with torch.autocast("cpu", enabled=False):
            entering = [self._entering(sound) for sound in sounds]
        return self.ear.embed(entering)

    def _entering(self, sound: Sound) -> torch.Tensor:
        if sound.view is None:
            return self.ear.entering(sound.wave_N)
        assert isinstance(sound.view, SoundView)
        if not self.ear.bands:
            return self.ear.entering(sound.view.masked_samples(sound.wave_N))
        mel_FT = self.ear.entering(sound.wave_N).numpy()
        return torch.from_numpy(sound.view.masked_bands(mel_FT, self.ear.frames(len(sound.wave_N))))

    # How recordings are altered

    @property
    def varies(self) -> Literal["never", "in_views", "always"]:
        return self._varying.varies if self._varying else "never"

    def varied(self, sound: Sound, number: int, epoch: int) -> Sound:
        """The recording of row `number` as epoch `epoch` hears it."""
        if self._varying is None:
            return sound
        view = self._varying.augment.draw(self._varying.seed, number, epoch)
        wave_N = view.of(sound.wave_N, self.ear.rate_hz, self._varying.longest)
        return replace(sound, view=view, wave_N=wave_N, size=self.ear.positions(len(wave_N)))

    def _views(self, sounds: Sequence[Example]) -> Sequence[Example]:
        """Every way in which the recordings are going to be heard, the whole of one way after the other."""
        if self._varying is None or not sounds:
            return sounds
        n, n_views = len(sounds), self._varying.augment.views or 1
        return Examples(n * n_views, lambda i: self.varied(self._sound(sounds[i % n]), i % n, i // n))

    # What is kept below the first trained block

    def first_trained(self) -> int | None:
        """Number of the first block with a trained parameter; None where something before the blocks is trained."""
        if any(p.requires_grad for module in self.ear.before() for p in module.parameters()):
            return None
        layers = self.ear.layers
        trained = (i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
        return min(trained, default=len(layers))

    def frozen_parts(self) -> list[nn.Module]:
        """What lies before the blocks, and the blocks below the first trained one; empty where something before them is trained."""
        cut = self.first_trained()
        return [] if cut is None else [*self.ear.before(), *self.ear.layers[:cut]]

    def keep(
        self,
        train: Sequence[Example],
        valid: Callable[[], Sequence[Example]],
        passes: int,
        made_by: Sequence[str],
        note: Callable[[str], None],
    ) -> bool:
        """Compute what enters the first trained block once and read it from then on, where that pays: see `Trunk.keep`.

        Also where that is the first block of all: the spectrogram and the convolutions are then computed once.
        """
        cut = self.first_trained()
        if cut is None:
            return False
        architecture = f"{type(self.backbone).__name__} {self.backbone.config.to_json_string()}"
        made_by = [
            fingerprint_of(architecture, self.frozen_parts()),
            f"{cut} {self._every_layer}",
            self._read_by,
            *made_by,
        ]
        kept = []
        heard = self._views(train)
        # A view among several is heard in every so many epochs only.
        passes = passes * len(train) // max(1, len(heard))
        for sounds in (heard, valid()):
            groups = token_groups([len(e) for e in sounds])
            compute = functools.partial(self.below, sounds, cut, groups)
            rows = [self._whole(self._sound(e), cut) for e in sounds]
            kept.append(activations_of(rows, made_by, self.width, compute, passes=passes, note=note))
        found = [activations for activations in kept if activations is not None]
        if not found:
            return False

        def find(whole: Whole) -> np.ndarray | None:
            return next((h_TD for a in found if (h_TD := a.find(whole)) is not None), None)

        self._cut, self._find = cut, find
        return True

    def _whole(self, sound: Sound, cut: int) -> Whole:
        """What is kept of a recording: its positions where they enter block `cut`, and one vector of each stage below."""
        return Whole(sound.key(), len(sound) + (cut if self._every_layer else 0))

    @staticmethod
    def _sound(example: Example) -> Sound:
        assert isinstance(example, Sound)
        return example

    def _kept(self, sounds: Sequence[Sound]) -> tuple[list[torch.Tensor], Heard] | None:
        """Vectors (B, D) of the stages below the cut, and what enters it; None where a recording is not known."""
        if self._find is None:
            return None
        found = []
        for sound in sounds:
            h_TD = self._find(self._whole(sound, self._cut))
            if h_TD is None:
                return None
            found.append(torch.from_numpy(np.array(h_TD)))
        lengths = [len(sound) for sound in sounds]
        at_cut = [h_TD[:n] for h_TD, n in zip(found, lengths, strict=True)]
        hidden_BTD = nn.utils.rnn.pad_sequence(at_cut, batch_first=True).to(self.device)
        lower_BLD = torch.stack([h_TD[n:] for h_TD, n in zip(found, lengths, strict=True)]).to(self.device)
        return list(lower_BLD.unbind(1)), Heard(hidden_BTD, torch.tensor(lengths, device=self.device))

    @torch.no_grad()
    def below(
        self, examples: Sequence[Example], cut: int, groups: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Sequence[int], list[np.ndarray]]]:
        """What is kept: for each group its row numbers and their vectors (T, D), see `_whole`."""
        for group in groups:
            heard = self._embedded([self._sound(examples[i]) for i in group])
            lower = []
            for later in self.ear.outputs(heard, last=cut):
                lower += [self.ear.pooled(heard)] if self._every_layer else []
                heard = later
            hidden_BTD = heard.hidden_BTD.float().cpu()
            vectors = [hidden_BTD[i, :n] for i, n in enumerate(heard.lengths_B.tolist())]
            for stage_BD in lower:
                vectors = [
                    torch.cat([h_TD, one_D[None]]) for h_TD, one_D in zip(vectors, stage_BD.float().cpu(), strict=True)
                ]
            yield group, [h_TD.numpy() for h_TD in vectors]
