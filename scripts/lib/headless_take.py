"""The puppet's take without ComfyUI: what its workflow says, made by the pack's lower floors and diffusers' Wan VAE.

Latents are in the network's space throughout, and the noise is that of ComfyUI's Random Noise, so the video is the one
that ComfyUI would make, up to rounding. `demo.py --headless` makes it.
"""
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lodestar.networks.longcat.versions import PUPPET
from lodestar.pipelines.headless.sampling import Request, sample
from lodestar.pipelines.media_file import MediaFile
from lodestar.pipelines.metrics.report import fit_reference
from lodestar.pipelines.take.journal import Journal
from lodestar.pipelines.take.plan import Chunk, ChunkPlan, exact_fps, plan_take
from lodestar.pipelines.take.settings import choose_settings
from lodestar.pipelines.take.take import Tail, make_take
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.audio.features import silence_after, slot_steps
from lodestar.techniques.audio.mel import SAMPLE_RATE, STEP, mel_steps
from lodestar.techniques.audio.waveform import level_loudness
from lodestar.techniques.flow_schedules import schedule
from lodestar.techniques.lookahead_anchor import LookaheadAnchor, parse_schedule
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.technique import ChunkPosition, Technique
from lodestar.techniques.timeline import Timeline
from lodestar.training.puppet.export import weights_file
from lodestar.training.puppet.network import trained
from report import opened
from safetensors.torch import load_file
from torch import Tensor

from lib.graph import Graph

RENAMED = (     # Wan's own names of the VAE's weights to those of diffusers
    (r"^conv1\.", "quant_conv."), (r"^conv2\.", "post_quant_conv."), (r"coder\.conv1\.", "coder.conv_in."),
    (r"head\.0\.", "norm_out."), (r"head\.2\.", "conv_out."), (r"middle\.1\.", "mid_block.attentions.0."),
    (r"middle\.0\.", "mid_block.resnets.0."), (r"middle\.2\.", "mid_block.resnets.1."),
    (r"downsamples\.", "down_blocks."), (r"residual\.0\.", "norm1."), (r"residual\.2\.", "conv1."),
    (r"residual\.3\.", "norm2."), (r"residual\.6\.", "conv2."), (r"shortcut\.", "conv_shortcut."),
    (r"upsamples\.(\d+)\.", lambda found: up_block(int(found[1]))))


def up_block(number: int) -> str:
    """Wan counts the decoder's parts in one row: three residual blocks, then what enlarges, four times."""
    level, part = divmod(number, 4)
    return f"up_blocks.{level}.{f'resnets.{part}' if part < 3 else 'upsamplers.0'}."


class WanVae:
    """Wan 2.1's VAE, of any width, in diffusers. Latents (1, 16, t, h, w) as networks see them; frames in 0..1."""

    def __init__(self, weights: dict[str, Tensor]):
        from diffusers import AutoencoderKLWan
        self.vae = AutoencoderKLWan(base_dim=len(weights["encoder.conv1.bias"]), z_dim=len(weights["conv2.bias"]))
        self.vae.load_state_dict({renamed(name): weight.float() for name, weight in weights.items()})
        self.vae.eval()
        self.mean, self.spread = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in
                                  (self.vae.config.latents_mean, self.vae.config.latents_std))

    def encode(self, frames: Tensor) -> Tensor:
        """(T, H, W, 3), T = 1 + whole latents."""
        found = self.vae.encode(frames.movedim(-1, 0)[None] * 2 - 1).latent_dist.mode()
        return (found - self.mean) / self.spread

    def open_stream(self) -> "Stream":
        return Stream(self)


def renamed(name: str) -> str:
    for pattern, new in RENAMED:
        name = re.sub(pattern, new, name)
    return name


class Stream:
    """Decodes latent by latent with the decoder's own cache. A take is made from its beginning, so nothing warms up."""
    warmup_latents = 0

    def __init__(self, wan: WanVae):
        self.wan, decoder = wan, wan.vae.decoder
        self.cache: list = [None] * sum(isinstance(module, torch.nn.Conv3d) for module in decoder.modules())

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        wanted = self.wan.vae.post_quant_conv(latents * self.wan.spread + self.wan.mean)
        for latent in wanted.split(1, 2):
            frames = self.wan.vae.decoder(latent, feat_cache=self.cache, feat_idx=[0])
            yield (frames[0].movedim(0, -1) / 2 + 0.5).clamp(0, 1)

    def flush(self) -> Iterator[Tensor]:
        return iter(())

    def peek(self) -> None:
        return None


@dataclass(frozen=True, eq=False)
class Puppet:
    """`heard` (rows, 5, 16), a row per frame; `picture` its latent; `seed` of the first chunk's noise."""
    network: torch.nn.Module
    plan: ChunkPlan
    heard: Tensor
    picture: Tensor
    techniques: tuple[Technique, ...]
    sigmas: Tensor
    seed: int

    def sample_chunk(self, chunk: Chunk, context: Tensor | None) -> Tensor:
        frames = self.plan.timeline.frames_for_latents(chunk.latents)
        first = chunk.first_latent * self.plan.timeline.temporal_ratio
        audio = self.heard[slot_steps(first, frames, 1, len(self.heard))][None, None]
        shape = (1, self.picture.shape[1], chunk.latents, *self.picture.shape[-2:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(chunk.seed(self.seed)))
        position = ChunkPosition(self.plan.seconds_of(chunk)[0], self.picture, chunk=chunk.index)
        known, reference = (self.picture, None) if context is None else (context, self.picture)
        return sample(self.network, noise, self.sigmas, Request(known, reference, audio, self.techniques, position))

    def context_of(self, tail: Tail) -> Tensor:
        return tail.latents(self.plan.chunks[-1].context_latents)


@torch.inference_mode()
def make(graph: Graph, target: Path, tell: Callable[..., None]) -> Path:
    """The video that a graph of the puppet asks for, whose files are named by their paths.

    `tell(chunk=, chunks=, frames_done=, frames_total=)` is called with the progress. ValueError for sound or a picture
    that cannot be read, or a chunk plan that cannot be.
    """
    inputs = {node.kind: node.inputs for node in graph.nodes()}
    speech = spoken(Path(inputs["LoadAudio"]["audio"]))     # all of it is encoded, as in ComfyUI
    opening = opening_of(speech, inputs["LodestarPlanTake"]["max_seconds"])
    person = opened(Path(inputs["LoadImage"]["image"]))
    plan = plan_of(inputs["LodestarPlanTake"], len(opening), person)
    wan = WanVae(load_file(weights_file("vae")))
    picture = fit_reference(person, plan.width, plan.height)
    steps = inputs["LodestarLongCatSchedule"]
    silence = silence_after(len(speech), SAMPLE_RATE, PUPPET.rate_hz, PUPPET.chunk_frames, PUPPET.overlap_frames)
    rows = (len(speech) + silence) // STEP
    puppet = Puppet(
        trained(weights_file("puppet")), plan, mel_steps(level_loudness(speech, SAMPLE_RATE), 0, rows),
        wan.encode(picture), (*anchors(inputs.get("LodestarLookaheadAnchor"), plan.timeline),
                              *skips(inputs.get("LodestarReferenceSkip"))),
        schedule(steps["kind"], steps["steps"], steps["shift"]), inputs["RandomNoise"]["noise_seed"])

    def told(finished: int) -> None:
        done = plan.total_frames if finished == len(plan.chunks) else plan.frames_of(plan.chunks[finished])[0]
        tell(chunk=finished, chunks=len(plan.chunks), frames_done=done, frames_total=plan.total_frames)

    told(0)
    writer = VideoWriter(plan.width, plan.height, plan.timeline.fps)
    with tempfile.TemporaryDirectory() as folder, \
            Journal.open(Path(folder), [plan.contract_of(chunk) for chunk in plan.chunks]) as journal:
        made = make_take(plan, puppet.sample_chunk, wan.open_stream, journal, writer, context_of=puppet.context_of,
                         on_chunk=lambda done: told(done.chunk.index + 1))
        return writer.finish(made.segments, {"waveform": opening[None, None], "sample_rate": SAMPLE_RATE}, {}, target)


def plan_of(inputs: dict, samples: int, person: Tensor) -> ChunkPlan:
    """`person`: the picture, whose proportions the plan's own size takes where it is connected to Plan Take."""
    chosen = choose_settings(PUPPET, person[None] if "reference" in inputs else None, width=inputs["width"],
                             height=inputs["height"], fps=exact_fps(inputs["fps"]) if inputs["fps"] else None,
                             chunk_frames=inputs["chunk_frames"], overlap_frames=inputs["overlap_frames"])
    clock = Timeline(chosen.fps)
    return plan_take(clock, clock.frames_for_samples(samples, SAMPLE_RATE), chosen.chunk_frames, chosen.overlap_frames,
                     chosen.width, chosen.height, seed_step=inputs["seed_step"])


def anchors(inputs: dict | None, clock: Timeline) -> tuple[Technique, ...]:
    if inputs is None:
        return ()
    latents = inputs["distance"]
    latents = clock.distance_in_latents(int(latents)) if inputs["unit"] == "pixel frames" else latents
    return (LookaheadAnchor(latents, inputs["placement"], inputs["index"], None, parse_schedule(inputs["schedule"])),)


def skips(inputs: dict | None) -> tuple[Technique, ...]:
    return () if inputs is None else (ReferenceSkip(inputs["mode"], inputs["radius"], inputs["factor"]),)


def spoken(path: Path) -> Tensor:
    """The sound of a file as mono at 16 kHz (N,)."""
    file = MediaFile(path)
    if not file.sound_rate:
        raise ValueError(f"{path}: {file.why_silent}")
    samples = np.concatenate(list(file.mono(SAMPLE_RATE)))
    if not len(samples) or not np.isfinite(samples).all():
        raise ValueError(f"{path}: its sound is empty, or has NaN or infinite samples; export it again")
    return torch.from_numpy(samples)


def opening_of(speech: Tensor, seconds: float) -> Tensor:
    return speech[:max(round(seconds * SAMPLE_RATE), 1)] if seconds else speech
