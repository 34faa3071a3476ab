"""AvatarForcing's rolling window as a SAMPLER: a clip is denoised block by block, each latent at a noise level of its
own.

The model is called with the clean latents that stay in sight and the window, as one clip: the former at level 0. Core's
samplers give all frames one level, so the levels are put in around ComfyUI's own call: the timestep of each latent
below the model's wrappers, and x0 = x - sigma * v above them, for flow models alone.
"""
from collections.abc import Callable
from dataclasses import dataclass, field

import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor

from ..backbones import attach, streaming
from ..backbones.backbone import Backbone
from ..backbones.written_memory import WrittenMemory
from ..techniques.rolling_window import Rolling, noise_seed, roll
from ..techniques.temporal_anchor import count_recents
from ..techniques.timeline import frames_of
from .stream_calls import calls_of

CACHES = ("easycache", "lazycache")     # keys under which core's nodes wrap a model that they leave out calls of
Noise = Callable[[int, int], Tensor]    # of a block at a level


class RollingSampler(comfy.samplers.Sampler):
    """`block_latents`, `passes`, `renoise`: as of techniques' Rolling; its levels are the sigmas that a sampler is
    given.

    A leading latent that the noise mask keeps is the take's picture: it is given back as it came, and never in the
    window.
    """

    def __init__(self, block_latents: int, passes: int, renoise: str):
        self.block_latents, self.passes, self.renoise = block_latents, passes, renoise

    def rolling(self, sigmas: Tensor) -> Rolling:
        return Rolling(tuple(sigmas.tolist()), self.block_latents, self.passes, self.renoise)

    def sample(self, model_wrap, sigmas: Tensor, extra_args: dict, callback: Callable | None, noise: Tensor,
               latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False
               ) -> Tensor:
        """What core's samplers give: (B, C, T, h, w) in model space."""
        rolling, backbone = self.rolling(sigmas), check_model(model_wrap)
        given = count_given(denoise_mask, noise.shape[2])
        check_length(rolling, noise.shape[2], given, backbone.temporal_ratio)
        start = torch.zeros_like(noise) if latent_image is None else latent_image
        scaled = model_wrap.inner_model.model_sampling.noise_scaling(sigmas[0], noise, start)

        def noise_of(block: int, level: int) -> Tensor:
            """The sampler's own at level 0; below it that of the block's and level's seed, on any machine the same."""
            own = range(given + block * self.block_latents, given + (block + 1) * self.block_latents)
            if level == 0:
                return scaled[:, :, own.start:own.stop]
            seed = noise_seed(extra_args.get("seed") or 0, block, level)
            shape = (*noise.shape[:2], len(own), *noise.shape[3:])
            return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(noise)

        stream = Stream(rolling, (noise.shape[2] - given) // rolling.block_latents, noise_of, 1 - given)
        return stream.run(model_wrap, extra_args, callback, start)


@dataclass(eq=False)
class Stream:
    """Some windows of a stream of so many `blocks`, for one run of a guider, whose latents begin with number
    `first_latent` of the take. `windows`: which, None for all.

    `seen`: the finished latents before them, in model space, and afterwards those after. `held`: likewise the blocks
    that are in the window, `memory`: what a model that is "written" remembers.
    """
    rolling: Rolling
    blocks: int
    noise_of: Noise
    first_latent: int = 0
    windows: range | None = None
    seen: Tensor | None = None
    held: dict[int, Tensor] = field(default_factory=dict)
    memory: WrittenMemory | None = None

    def run(self, guider, extra_args: dict, callback: Callable | None, start: Tensor) -> Tensor:
        """`start` (B, C, T, h, w) with the blocks that leave the window in their places."""
        made, model, steps = start.clone(), guider.model_patcher, self.rolling.levels
        recents = count_recents(attach.techniques_of(model))
        calls = calls_of(self, guider, extra_args, start.shape[2])
        emitted = range(self.blocks) if self.windows is None else self.rolling.emitted_in(self.windows)
        blocks = roll(self.rolling, self.blocks, recents, calls.predict, self.noise_of, calls.remember, self.windows,
                      self.held)
        for count, (block, clean) in enumerate(zip(emitted, blocks, strict=True), 1):
            place = self.place(self.rolling.latents_of(range(block, block + 1)))
            made[:, :, place.start:place.stop] = clean
            if callback is not None:
                callback(max(steps * count // len(emitted), 1) - 1, made, made, steps)
        return made

    def place(self, latents: range) -> range:
        """Where latents of the take are in the run."""
        return range(latents.start - self.first_latent, latents.stop - self.first_latent)


class StreamSampler(comfy.samplers.Sampler):
    """The SAMPLER of one chunk of a stream: where its windows put the blocks that leave them."""

    def __init__(self, stream: Stream):
        self.stream = stream

    def sample(self, model_wrap, sigmas: Tensor, extra_args: dict, callback: Callable | None, noise: Tensor,
               latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False
               ) -> Tensor:
        """(B, C, T, h, w) in model space, zeros where no block has left the window."""
        check_model(model_wrap)
        return self.stream.run(model_wrap, extra_args, callback, torch.zeros_like(noise))


def check_model(guider) -> Backbone:
    """The family of the guider's model. Raises ValueError for one that takes one level for all latents, and for other
    nodes that keep what belongs to other latents."""
    model = guider.model_patcher
    backbone = attach.find(model)
    backbone.check_rolling()
    if not backbone.memory or not isinstance(guider.inner_model.model_sampling, comfy.model_sampling.CONST):
        raise ValueError(f"model: {backbone.name} takes one noise level for all frames, a rolling window has one for "
                         f"each. Use an ordinary sampler, or one of: {streaming()}")
    check_levels(guider)
    options = guider.model_options.get("transformer_options", {})
    if guider.model_options.get("context_handler") is not None:
        raise ValueError("model: it has context windows on it, whose parts are not the rolling window's. Remove them")
    if any(name in options for name in CACHES):
        raise ValueError("model: it has EasyCache or LazyCache on it, which keeps what belongs to other latents. "
                         "Remove it")
    return backbone


def check_levels(guider) -> None:
    """Raises ValueError for a guider that goes by one noise level of all latents."""
    if getattr(guider, "one_level", False):
        raise ValueError("guider: a pair of models, projected guidance (apg) and HuMo 17B's Speech Guidance go by one "
                         "noise level of all frames, a rolling window has one for each. Use another sampler, or "
                         "another guider")


def count_given(denoise_mask: Tensor | None, latents: int) -> int:
    """How many leading latents a noise mask keeps: none, or one, the picture. ValueError for another mask."""
    if denoise_mask is None:
        return 0
    kept = [bool((frame == 0).all()) for frame in denoise_mask.expand(-1, -1, latents, -1, -1)[0].unbind(1)]
    given = int(kept[0])
    if any(kept[given:]) or not bool((denoise_mask.expand(-1, -1, latents, -1, -1)[:, :, given:] == 1).all()):
        raise ValueError("noise mask: a rolling window may keep the first latent, the picture, and this mask keeps "
                         f"others of the {latents}. Remove it; Long Take continues a clip")
    return given


def check_length(rolling: Rolling, latents: int, given: int, temporal_ratio: int) -> None:
    """ValueError unless the clip is whole blocks behind its picture; it names the two nearest lengths."""
    size, rest = rolling.block_latents, (latents - given) % rolling.block_latents
    if rest or latents == given:
        below = latents - rest
        fitting = [count for count in (below, below + size) if count > given]
        frames = " or ".join(f"{frames_of(count, temporal_ratio)} frames ({count} latents)" for count in fitting)
        raise ValueError(f"latent: got {latents} latents, {given} of them given, which blocks of {size} do not fill. "
                         f"Use {frames}")
