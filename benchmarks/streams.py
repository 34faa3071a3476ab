"""A stream of an AvatarForcing student with random weights, called as a sampler calls it, window by window."""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from in_process import BLOCKS
from lodestar.backbones.written_memory import MEMORY
from lodestar.host.rolling_sampler import Stream
from lodestar.techniques.flow_schedules import student_levels
from lodestar.techniques.rolling_window import Rolling
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.temporal_anchor import TemporalAnchor

DEPTH = 30                      # blocks of the 1.3B
AUDIO_HIDDEN, AUDIO_WIDTH = 32, 14 * 768 * 4
TEXT = 512, 4096
Around = Callable[[Callable[[], torch.Tensor], str], torch.Tensor]     # of a call, and of what it writes


def student_model(layers: int, device: torch.device, dtype: torch.dtype = torch.bfloat16,
                  widths: tuple[int, int, int] = BLOCKS["1.3B"], audio_width: int = AUDIO_WIDTH):
    """A MODEL of `layers` blocks. `widths`: of the network, its feed-forward, its heads."""
    import comfy.model_patcher
    from lodestar.backbones.omniavatar.student import AvatarForcingConfig
    width, feed_forward, heads = widths
    config = AvatarForcingConfig({
        "model_type": "t2v", "dim": width, "ffn_dim": feed_forward, "num_heads": heads, "num_layers": layers,
        "in_dim": 33, "out_dim": 16, "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
        "audio_width": audio_width, "audio_hidden": AUDIO_HIDDEN, "dtype": dtype})
    config.set_inference_dtype(dtype, None)
    base = config.get_model({}, device=device)
    for weight in base.diffusion_model.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    return comfy.model_patcher.ModelPatcher(base, device, device)


@dataclass(eq=False)
class Caller:
    """What a stream asks of a guider: one condition, no guidance. `around` makes each call."""
    model_patcher: Any
    conditions: dict[str, torch.Tensor]
    around: Around = lambda call, writes: call()
    conds: dict = field(default_factory=lambda: {"positive": [{"uuid": "bench"}]})

    @property
    def inner_model(self):
        return self.model_patcher.model

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, model_options: dict, seed=None) -> torch.Tensor:
        with torch.inference_mode():
            options = model_options["transformer_options"]
            return self.around(lambda: self.inner_model.apply_model(
                x, sigma, transformer_options=options, **self.conditions), options[MEMORY].writes)


@dataclass(eq=False)
class Bench:
    """A stream that is rolled some windows at a time. `block_latents`, `recents`, `size`: of latents;
    `options`: of every call."""
    model: Any
    block_latents: int = 4
    recents: int = 2
    size: tuple[int, int] = in_process.LATENT_SIZE
    student: str = "AvatarForcing"
    text: tuple[int, int] = TEXT
    anchor: TemporalAnchor | None = None
    around: Around = lambda call, writes: call()
    blocks: int = 10 ** 6
    options: dict = field(default_factory=dict)

    def __post_init__(self):
        self.rolling = Rolling(tuple(student_levels(self.student, 4, 1, 5.0).tolist()), self.block_latents)
        device, dtype = self.model.load_device, self.model.model.get_dtype()
        anchor = self.anchor or TemporalAnchor(self.recents)
        patched = in_process.with_techniques(self.model, anchor, StyleAnchor(latents=self.noise(1)))
        latents = 8 * self.block_latents + anchor.latents
        audio = self.model.model.diffusion_model.audio_proj.proj.in_features
        conditions = {"c_crossattn": torch.zeros(1, *self.text, device=device, dtype=dtype),
                      "c_concat": torch.ones(1, 17, latents, *self.size, device=device, dtype=dtype),
                      "audio": torch.zeros(1, audio, latents, 1, 1, device=device, dtype=dtype)}
        self.latents, self.caller = latents, Caller(patched, conditions, self.around)
        self.stream = Stream(self.rolling, self.blocks, lambda *_: self.noise(self.block_latents))
        self.done = 0

    def noise(self, latents: int) -> torch.Tensor:
        return in_process.latents(latents, self.model.load_device, self.size)

    def window(self, number: int | None = None, options: dict | None = None) -> torch.Tensor:
        """Roll one more window, or number `number`: what it was given, with the block that left it in its place."""
        number = self.done if number is None else number
        stream, oldest = self.stream, max(0, number - self.rolling.length + 1)
        stream.windows = range(number, number + 1)
        stream.first_latent = max(0, self.rolling.latents_of(range(oldest, oldest + 1)).start - self.recents - 2)
        transformer = {**self.caller.model_patcher.model_options["transformer_options"], "cond_or_uncond": [0],
                       "uuids": ["bench"], "wrappers": self.caller.model_patcher.wrappers, **(options or self.options)}
        start = torch.zeros(1, 16, self.latents, *self.size, device=self.model.load_device)
        self.done = number + 1
        return stream.run(self.caller, {"model_options": {"transformer_options": transformer}}, None, start)

    def to_block(self, block: int) -> Iterator[int]:
        """Roll until this block has left, giving the number of each that leaves."""
        while self.done < block + self.rolling.length:
            self.window()
            yield self.done - self.rolling.length

    def jump(self, block: int) -> None:
        """Stand at a later block with what the stream holds now: only the numbers of its latents change."""
        first = min(self.stream.held)
        self.stream.held = {block + held - first: x for held, x in self.stream.held.items()}
        self.done += block - first
