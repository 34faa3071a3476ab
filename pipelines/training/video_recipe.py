"""TAVR's first two stages: flow matching with a video of the person beside the chunk, of the same scene and of another.

On the same scene a network learns to look there, and would copy the place as well; on another it learns to take the
person and leave the place. Of the video there are the tokens of the face where the clips have masks of it; it has no
sound, as in the product by default.
"""
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from ...techniques.reference_tokens import Tokens, all_tokens, tokens_in_masks
from ...techniques.video_reference import VideoReference
from .clips import Clip, ClipInfo
from .flow_recipes import FlowRecipe, draw, part, reference_of
from .recipe import Phase

LEAST, MOST = 4, 6      # latents of a video, 13 to 21 frames; the paper has 12 to 20
GROW = 0.15             # of the face, as Video Reference has it
PATCH = 2               # latents of a token's side


class SameScene(FlowRecipe):
    """The video is the beginning of a clip of that person in that scene; of the clip itself what is not the chunk."""
    name = "video reference, same scene"
    layouts: Sequence[str] = ("a video of the person beside the chunk",)
    phases: Sequence[Phase] = (Phase("same scene"),)

    @property
    def length(self) -> int:
        """With room for the video before or behind the chunk."""
        return super().length + MOST

    @cached_property
    def infos(self) -> list[ClipInfo]:
        """Of every clip, read once."""
        return [self.clips[index].info for index in range(len(self.clips))]

    def shows(self, own: ClipInfo, other: ClipInfo) -> bool:
        """Whether the other clip may be the video beside one."""
        return bool(own.person and own.scene) and (other.person, other.scene) == (own.person, own.scene)

    def shown_beside(self, own: ClipInfo) -> list[int]:
        return [index for index, other in enumerate(self.infos) if self.shows(own, other)]

    def beside(self, clip: Clip, first: int, generator: torch.Generator) -> dict[str, Any]:
        length, found = draw(generator, LEAST, MOST + 1), self.shown_beside(clip.info)
        shown, begin = self.clips[found[draw(generator, 0, len(found))]] if found else clip, 0
        if torch.equal(part(shown["latents"], 0, 1), part(clip["latents"], 0, 1)):      # no other clip begins so
            before = first - (self.chunks.context_latents if first else 0)
            behind = clip["latents"].shape[1] - first - self.chunks.chunk_latents
            length = min(length, max(before, behind))
            begin = 0 if before >= behind else clip["latents"].shape[1] - length
        latents = part(shown["latents"], begin, length)
        grid = latents.shape[3] // PATCH, latents.shape[4] // PATCH
        keep = tokens_in_masks(part(shown["mask"], begin, length)[0, 0], grid, GROW) if "mask" in shown else \
            all_tokens(length, grid)
        return {"reference": reference_of(clip), "techniques": (VideoReference(latents, Tokens(keep)),)}


class CrossScene(SameScene):
    """The video is the beginning of a clip of that person elsewhere."""
    name = "video reference, another scene"
    phases = (Phase("another scene"),)

    def shows(self, own: ClipInfo, other: ClipInfo) -> bool:
        return bool(own.person and own.scene) and other.person == own.person and other.scene not in ("", own.scene)

    @cached_property
    def chosen(self) -> Sequence[int]:
        """Those whose person is in another scene, too."""
        return [index for index, own in enumerate(self.infos) if self.shown_beside(own)]

    def check_lengths(self) -> None:
        if not self.chosen:
            raise ValueError(f"clips: no two of {len(self.clips)} show one person in two scenes, which {self.name} "
                             "needs. Give Make Training Clips a folder with one folder for each person, in it videos "
                             "of them in several places")
        super().check_lengths()
