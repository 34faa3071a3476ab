"""The model under training as a recipe's loss sees it: an example becomes a call of ComfyUI's guider, with conditions
from the same place as a take's chunk."""
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ..backbones import attach, find
from ..backbones.audio.speech import Speech
from ..backbones.backbone import Backbone, ChunkInputs, ChunkRequest
from ..backbones.frame_conditions import Window
from ..backbones.sampling_run import RUN, Run
from ..backbones.train_host import Adapters
from ..pipelines.training.clips import Clip
from ..pipelines.training.recipe import Example
from ..techniques.technique import ChunkPosition
from .stream_calls import with_levels

SPEECH_ROWS = "encoded_audio_all_layers"    # in an AUDIO_ENCODER_OUTPUT


@dataclass(frozen=True, eq=False)
class Prepared:
    """An example's own clone, processed conditions and start (1, C, F, h, w) in model space, of which its latents are
    those from `first` on."""
    example: Example
    model: Any
    conds: dict
    start: Tensor
    first: int
    mask: Tensor | None
    options: dict


class GuidedNetwork:
    """`guider`: in its run, whose `extra_args` a sampler was given. `dtype`: of autocast, None for none."""

    def __init__(self, guider, extra_args: dict, adapters: Adapters, prompt_of: Callable[[Clip], list],
                 dtype: torch.dtype | None = None):
        self.guider, self.extra_args, self.adapters, self.prompt_of = guider, extra_args, adapters, prompt_of
        self.dtype, self.device = dtype, guider.model_patcher.load_device
        self._prepared: Prepared | None = None

    def to_model(self, latents: Tensor) -> Tensor:
        return self.guider.inner_model.process_latent_in(latents.to(self.device, torch.float32))

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        with self.adapters.use_within(None):
            yield

    @contextmanager
    def with_adapter(self, name: str) -> Iterator[None]:
        with self.adapters.use_within(name):
            yield

    def velocity(self, example: Example, x: Tensor, sigmas: Tensor, first: int = 0) -> Tensor:
        ready = self._prepare(example)
        begin, frames = ready.first + first, x.shape[2]
        part = begin != ready.first or frames != example.latents.shape[2]
        with torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext():
            if part or bool((sigmas != sigmas[0]).any()):
                return self._at_levels(ready, x, sigmas, begin, part)
            return self._at_one_level(ready, x, float(sigmas[0]))

    def _at_one_level(self, ready: Prepared, x: Tensor, sigma: float) -> Tensor:
        """As core's samplers call a model: known frames as its noise mask has them."""
        whole, end = x, ready.first + x.shape[2]
        if ready.start.shape[2] != x.shape[2]:
            whole = torch.cat([ready.start[:, :, :ready.first], x, ready.start[:, :, end:]], 2)
        asked = comfy.samplers.KSamplerX0Inpaint(self._guider(ready), torch.tensor([sigma, 0.0]))
        asked.latent_image, asked.noise = ready.start, torch.zeros_like(ready.start)
        clean = asked(whole, whole.new_full((1,), sigma), denoise_mask=ready.mask,
                      **{**self.extra_args, "model_options": attach.options_at(ready.options, ready.model)})
        return (x - clean[:, :, ready.first:end].float()) / sigma

    def _at_levels(self, ready: Prepared, x: Tensor, sigmas: Tensor, begin: int, part: bool) -> Tensor:
        """A level for each latent, as a rolling window calls a model; what stands before it is at level 0."""
        before = ready.start[:, :, :0 if part else begin]
        total, levels = ready.start.shape[2], torch.cat([torch.zeros(before.shape[2]), sigmas]).to(x)
        latents = tuple(range(begin - before.shape[2], begin + x.shape[2]))
        whole = torch.cat([before, x], 2)
        sampling = self.guider.inner_model.model_sampling
        options = with_levels(ready.model, ready.options, Window(latents, total, before.shape[2]), levels, sampling)
        clean = self._guider(ready)(whole, whole.new_ones(1), **{**self.extra_args, "model_options": options})
        level = levels.view(1, 1, -1, 1, 1)
        velocity = torch.where(level > 0, (whole - clean.float()) / level.clamp(min=1e-6), torch.zeros_like(whole))
        return velocity[:, :, before.shape[2]:]

    def _guider(self, ready: Prepared):
        """The run's guider with an example's conditions."""
        self.guider.conds = ready.conds
        return self.guider

    def _prepare(self, example: Example) -> Prepared:
        if self._prepared is None or self._prepared.example is not example:
            self._prepared = self._make(example)
        return self._prepared

    def _make(self, example: Example) -> Prepared:
        model, base = self.guider.model_patcher, self.guider.inner_model
        backbone = find(model)
        inputs, first = inputs_of(backbone, base, example)
        # a cache would give one call's keys, which a gradient and an adapter changed, to the next
        own = tuple(each for each in attach.techniques_of(model) if not each.conditioning_cache())
        clone = attach.install_techniques(model, example.techniques or own, position_of(backbone, example, inputs))
        start = inputs.samples.to(self.device, torch.float32)
        start = base.process_latent_in(start) if bool(start.count_nonzero()) else start
        mask = None if inputs.noise_mask is None else inputs.noise_mask.to(self.device)
        text = self.prompt_of(example.clip)
        conditions = inputs.with_text(text[0][0])
        if example.sound == "null":
            conditions = {**conditions, **inputs.uncond}
        lay_out = attach.conditions_layout(clone, [start.shape])
        entries = [attach.with_own_conditions(lay_out({**entry, "model_conds": {}, **conditions}))
                   for entry in comfy.sampler_helpers.convert_cond(text)]
        conds = comfy.samplers.process_conds(base, torch.zeros_like(start), {"positive": entries}, self.device, start,
                                             mask, 0)
        options = self.extra_args["model_options"]
        options = {**options, "transformer_options": {**options.get("transformer_options", {}),
                                                      RUN: Run(tuple(start.shape), steady=False)}}
        return Prepared(example, clone, conds, start, first, mask, options)


def position_of(backbone: Backbone, example: Example, inputs: ChunkInputs) -> ChunkPosition:
    """Where an example is in its clip, as a chunk is in a take."""
    clock = backbone.timeline(example.clip.info.fps)
    start = Fraction(max(example.first_latent * clock.temporal_ratio - 3, 0)) / clock.fps
    return replace(example.position, context=inputs.context, reference=example.reference,
                   first_latent=example.first_latent, chunk=int(example.first_latent > 0), start_seconds=start)


def inputs_of(backbone: Backbone, base, example: Example) -> tuple[ChunkInputs, int]:
    """What the sampler would be given for the chunk, and where in it the example's latents begin."""
    overlap = example.context.shape[2] if example.context is not None and backbone.overlap_frames else 0
    latents = example.latents.shape[2] + overlap
    _, channels, _, height, width = example.latents.shape
    request = ChunkRequest(latents, (channels, height, width), example.context, example.reference,
                           audio_of(backbone, example, example.first_latent - overlap, latents),
                           fps=example.clip.info.fps, re_encoded=example.re_encoded)
    inputs = backbone.chunk_inputs(request)
    return inputs, inputs.before + (overlap if inputs.context is None else 0)


def audio_of(backbone: Backbone, example: Example, first: int, latents: int) -> Tensor | None:
    if backbone.audio_shape is None or "speech" not in example.clip:
        return None
    info, rows = example.clip.info, example.clip["speech"]
    speech = Speech.of({SPEECH_ROWS: tuple(layer[None].float() for layer in rows), "rate_hz": info.rate_hz,
                        "family": info.family})
    return backbone.audio_for(speech, backbone.timeline(info.fps), first, latents)
