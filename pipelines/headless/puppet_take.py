"""The puppet's take without ComfyUI: what its workflow says, made by the lower floors and diffusers' Wan VAE.

The noise is that of ComfyUI's Random Noise, so the video is the one that ComfyUI would make, up to rounding.
"""
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...networks.longcat.network import LongCat
from ...networks.longcat.versions import PUPPET
from ...techniques.audio.features import silence_after
from ...techniques.audio.mel import SAMPLE_RATE, STEP, mel_steps
from ...techniques.audio.waveform import level_loudness
from ...techniques.flow_schedules import schedule
from ...techniques.lookahead_anchor import LookaheadAnchor, parse_schedule
from ...techniques.reference_skip import ReferenceSkip
from ...techniques.technique import Technique
from ...techniques.timeline import Timeline
from ..media_file import MediaFile
from ..picture_file import crop_picture, read_picture
from ..take.journal import Journal
from ..take.plan import Chunk, ChunkPlan, exact_fps, plan_take
from ..take.protocols import Events
from ..take.settings import choose_settings
from ..take.take import make_take
from ..take.video_writer import VideoWriter
from .longcat_chunk_sampler import LongCatChunkSampler
from .wan_vae import WanVae

Inputs = Mapping[str, Any]


class ChunkReports(Events):
    """Calls `tell(chunk=, chunks=, frames_done=, frames_total=)` as each chunk begins, and at the end."""

    def __init__(self, plan: ChunkPlan, tell: Callable[..., None]):
        self.plan, self.tell = plan, tell
        self.report(0)

    def report(self, finished: int) -> None:
        plan = self.plan
        done = plan.total_frames if finished == len(plan.chunks) else plan.frames_of(plan.chunks[finished])[0]
        self.tell(chunk=finished, chunks=len(plan.chunks), frames_done=done, frames_total=plan.total_frames)

    def chunk_finished(self, chunk: Chunk) -> None:
        self.report(chunk.index + 1)


@torch.inference_mode()
def make_puppet_take(inputs: Mapping[str, Inputs], network: LongCat, wan: WanVae, target: Path,
                     tell: Callable[..., None]) -> Path:
    """The video that a graph of the puppet asks for, whose files are named by their paths. `inputs`: by kind of node.

    `tell`: see ChunkReports. ValueError for sound or a picture that cannot be read, or a chunk plan that cannot be.
    """
    speech = read_speech(Path(inputs["LoadAudio"]["audio"]))     # all of it is encoded, as in ComfyUI
    opening = opening_of(speech, inputs["LodestarPlanTake"]["max_seconds"])
    person = read_picture(Path(inputs["LoadImage"]["image"]))
    plan = plan_puppet_take(inputs["LodestarPlanTake"], len(opening), person)
    steps = inputs["LodestarLongCatSchedule"]
    sampler = LongCatChunkSampler(
        network, plan, encode_speech(speech), wan.encode(crop_picture(person, plan.width, plan.height)),
        (*anchors(inputs.get("LodestarLookaheadAnchor"), plan.timeline), *skips(inputs.get("LodestarReferenceSkip"))),
        schedule(steps["kind"], steps["steps"], steps["shift"]), inputs["RandomNoise"]["noise_seed"])
    writer = VideoWriter(plan.width, plan.height, plan.timeline.fps)
    with tempfile.TemporaryDirectory() as folder, \
            Journal.open(Path(folder), [plan.fingerprint_of(chunk) for chunk in plan.chunks]) as journal:
        result = make_take(plan, sampler, wan.open_stream, journal, writer, ChunkReports(plan, tell))
        return writer.finish(result.segments, {"waveform": opening[None, None], "sample_rate": SAMPLE_RATE}, {}, target)


def encode_speech(speech: Tensor) -> Tensor:
    """(N,) at 16 kHz -> (rows, 5, 16), a row per frame."""
    silence = silence_after(len(speech), SAMPLE_RATE, PUPPET.rate_hz, PUPPET.chunk_frames, PUPPET.overlap_frames)
    return mel_steps(level_loudness(speech, SAMPLE_RATE), 0, (len(speech) + silence) // STEP)


def plan_puppet_take(inputs: Inputs, samples: int, person: Tensor) -> ChunkPlan:
    """`person`: the picture, whose proportions the plan's own size takes where it is connected to Plan Take."""
    chosen = choose_settings(PUPPET, person[None] if "reference" in inputs else None, width=inputs["width"],
                             height=inputs["height"], fps=exact_fps(inputs["fps"]) if inputs["fps"] else None,
                             chunk_frames=inputs["chunk_frames"], overlap_frames=inputs["overlap_frames"])
    clock = Timeline(chosen.fps)
    return plan_take(clock, clock.frames_for_samples(samples, SAMPLE_RATE), chosen.chunk_frames, chosen.overlap_frames,
                     chosen.width, chosen.height, seed_step=inputs["seed_step"])


def anchors(inputs: Inputs | None, clock: Timeline) -> tuple[Technique, ...]:
    if inputs is None:
        return ()
    latents = inputs["distance"]
    latents = clock.distance_in_latents(int(latents)) if inputs["unit"] == "pixel frames" else latents
    return (LookaheadAnchor(latents, inputs["placement"], inputs["index"], None, parse_schedule(inputs["schedule"])),)


def skips(inputs: Inputs | None) -> tuple[Technique, ...]:
    return () if inputs is None else (ReferenceSkip(inputs["mode"], inputs["radius"], inputs["factor"]),)


def read_speech(path: Path) -> Tensor:
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
