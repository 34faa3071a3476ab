"""The chunk sampler of a stream: Rolling Window inside Long Take, a chunk of some blocks in each run of the guider.

What the window holds between two chunks is the sampler's state, in the journal; the finished latents that stay in sight
are the journal's own. The first latent of the take is its picture, as it was encoded.
"""
import copy
import logging
from collections.abc import Iterator
from dataclasses import replace

import comfy.utils
import torch
from torch import Tensor

from ..backbones import attach
from ..backbones.allocator import give_back
from ..backbones.written_memory import WrittenMemory
from ..pipelines.take.plan import Chunk, ChunkPlan
from ..pipelines.take.protocols import ChunkSampler
from ..techniques.protocols import Past
from ..techniques.rolling_window import noise_seed
from ..techniques.technique import ChunkPosition
from ..techniques.temporal_anchor import count_recents, find_temporal_anchor
from .chunk_sampler import GuiderChunkSampler, Sampling
from .progress import SamplingProgress, TakeProgress
from .rolling_sampler import RollingSampler, Stream, StreamSampler, check_levels
from .stream_note import describe_stream
from .take_inputs import TakeInputs

logger = logging.getLogger("lodestar")
BEFORE = 2      # latents of a run in front of its windows: some families count a run's first two otherwise


class StreamChunkSampler:
    """A ChunkSampler that yields a chunk's blocks, all of one run; the first chunk begins with the picture."""
    past_frames = 0

    def __init__(self, inputs: TakeInputs, sampling: Sampling, progress: SamplingProgress):
        check_stream(inputs, sampling)
        self.inputs, self.sampling, self.progress = inputs, sampling, progress
        self.rolling = sampling.sampler.rolling(sampling.sigmas)
        self.recents = count_recents(inputs.techniques)
        logger.info(describe_stream(inputs.model, inputs.plan, self.rolling))
        self.blocks = (inputs.plan.total_latents - 1) // self.rolling.block_latents
        self.held: dict[int, Tensor] = {}
        written = inputs.backbone.memory == "written"
        self.memory = WrittenMemory(find_temporal_anchor(inputs.techniques)) if written else None

    def state(self) -> dict[str, Tensor]:
        """The blocks in the window, as noisy as they are, and what a model that is "written" remembers."""
        held = {f"block_{block}": x.cpu() for block, x in self.held.items()}
        return held if self.memory is None else {**held, **self.memory.state()}

    def restore(self, state: dict[str, Tensor], past: Past) -> None:
        self.held = {int(name.removeprefix("block_")): x for name, x in state.items() if name.startswith("block_")}
        if self.memory is not None:
            self.memory.restore(state)

    def sample(self, chunk: Chunk, past: Past) -> Iterator[Tensor]:
        self.progress.begin_chunk(chunk)
        size = self.rolling.block_latents
        blocks = range((chunk.first_latent - 1) // size if chunk.index else 0, (chunk.end_latent - 1) // size)
        stream = self.make_stream(blocks, past)
        sampled = self.run(chunk, stream).float().cpu()
        self.held = stream.held
        if not chunk.index:
            yield self.inputs.reference
        for block in blocks:
            place = stream.place(self.rolling.latents_of(range(block, block + 1)))
            yield sampled[:, :, place.start:place.stop]
        give_back()

    @property
    def call_latents(self) -> int:
        """How many latents a call of a full window has."""
        return (0 if self.memory else self.recents) + self.rolling.length * self.rolling.block_latents

    def make_stream(self, blocks: range, past: Past) -> Stream:
        """The windows that these blocks leave, behind what is finished."""
        seen = min(self.recents, blocks.start * self.rolling.block_latents) if self.memory is None else 0
        first = max(0, self.rolling.latents_of(blocks).start - seen - BEFORE)
        finished = self.inputs.model.model.process_latent_in(past.latents(seen)) if seen else None
        return Stream(self.rolling, self.blocks, self.noise_of, first, self.rolling.windows_of(blocks), finished,
                      dict(self.held), self.memory)

    def noise_of(self, block: int, level: int) -> Tensor:
        """The take's noise of a seed that block and level have to themselves."""
        noise = copy.copy(self.sampling.noise)
        noise.seed = noise_seed(self.sampling.noise.seed, block, level)
        channels, height, width = self.inputs.latent_shape
        samples = torch.zeros(1, channels, self.rolling.block_latents, height, width)
        drawn = noise.generate_noise({"samples": samples}).to(self.inputs.model.load_device, torch.float32)
        return drawn if level else self.rolling.sigmas[0] * drawn

    def run(self, chunk: Chunk, stream: Stream) -> Tensor:
        """One run of the guider: (1, C, t, h, w) of all latents that its windows touch."""
        assert stream.windows is not None
        end = self.rolling.latents_of(range(min(self.blocks, stream.windows.stop))).stop
        touched = replace(chunk, first_latent=stream.first_latent, latents=end - stream.first_latent)
        reference = self.inputs.reference
        inputs = self.inputs.backbone.stream_inputs(self.inputs.request(touched, None, reference))
        position = ChunkPosition(self.inputs.plan.seconds_of(chunk)[0], reference, None, chunk.index,
                                 stream.first_latent, call_latents=self.call_latents,
                                 opening=reference if chunk.index else None)
        guider = attach.guider_at(self.sampling.guider, self.inputs.techniques_at(chunk), position,
                                  {**self.inputs.vision_conditions, **inputs.conditions}, inputs.uncond,
                                  self.inputs.prompts.get(chunk.prompt))
        channels, height, width = self.inputs.latent_shape
        samples, model = torch.zeros(1, channels, touched.latents, height, width), self.inputs.model
        callback = self.progress.sampler_callback(chunk, model.load_device, model.model.latent_format)
        sampled = guider.sample(samples, samples, StreamSampler(stream), self.sampling.sigmas, callback=callback,
                                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=self.sampling.noise.seed)
        self.progress.end_sampling()
        return sampled


def speech_chunk(sampling: Sampling, plan: ChunkPlan, chunk: Chunk) -> Chunk:
    """What of the take's speech a chunk depends on, as a chunk: of a stream all that its windows look into."""
    if not isinstance(sampling.sampler, RollingSampler) or not plan.block_latents:
        return chunk
    rolling = sampling.sampler.rolling(sampling.sigmas)
    end = min(plan.total_latents, chunk.end_latent + (rolling.length - 1) * rolling.block_latents)
    return replace(chunk, latents=end - chunk.first_latent)


def choose_chunk_sampler(inputs: TakeInputs, sampling: Sampling, progress: TakeProgress) -> ChunkSampler:
    """The take's: a stream's where the sampler is a Rolling Window. Raises ValueError for a plan of the other kind."""
    if isinstance(sampling.sampler, RollingSampler):
        return StreamChunkSampler(inputs, sampling, progress)
    if inputs.plan.block_latents:
        raise ValueError(f"plan: it is a stream of blocks of {inputs.plan.block_latents} latents, which only a Rolling "
                         "Window makes. Connect one as the sampler, or set block_latents of Plan Take to 0")
    return GuiderChunkSampler(inputs, sampling, progress)


def check_stream(inputs: TakeInputs, sampling: Sampling) -> None:
    """Raises ValueError for a plan, picture or model that a stream cannot be made of."""
    size, planned = sampling.sampler.block_latents, inputs.plan.block_latents
    if size != planned:
        was = f"blocks of {planned}" if planned else "chunks"
        raise ValueError(f"plan: it has {was}, the Rolling Window moves {size} latents at a time. Set block_latents of "
                         f"Plan Take to {size}")
    check_levels(sampling.guider)
    if inputs.picture is None:
        raise ValueError("reference: a stream begins with its picture, and none came. Connect one to Long Take")
    inputs.backbone.check_stream()
    inputs.check_first_call(size)
