"""LongCat's golden sampling loops: whole segments by the pack's network, schedules, guidance, layout and hand-over.

The loop itself is Euler's: the deterministic step that every ComfyUI sampler node offers.
"""
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import golden
import torch
from golden_pieces import schedule_kind
from torch import Tensor


@dataclass
class Segment:
    """What stands before the noisy latents and what it is made into at the end."""
    clean: Tensor               # (1, C, n, h, w), reference first
    spans: tuple[int, ...]
    times: tuple[float, ...]
    visibility: dict
    shown: Tensor               # the clean latents of the finished segment

    @property
    def frames(self) -> int:
        return self.clean.shape[2]


def segment_of(call: dict, stitches: bool) -> Segment:
    """AT2V, AI2V or continuation, by what the case brings; `stitches`: Avatar 1.0 opens with the last latents."""
    from lodestar.techniques.layout import Layout, Span
    from lodestar.techniques.reference_skip import ReferenceSkip
    noise = call["noise"]
    total = noise.shape[2]
    opening = call.get("image_latent", call.get("context", noise[:, :, :0]))
    if "prev_latents" not in call:
        spans = (opening.shape[2],) if opening.shape[2] else ()
        return Segment(opening, spans, tuple(range(total)), {}, opening)
    count = call["num_context_latents"]
    opening = call["prev_latents"][:, :, -count:] if stitches else call["reencoded"]
    times = (call["ref_img_index"], *range(total))
    visibility = {}
    if call["mask_frame_range"]:
        layout = Layout((Span("reference", times[:1]), Span("context", times[1:1 + count]),
                         Span("chunk", times[1 + count:], clean=False)))
        visibility = dict(ReferenceSkip("upstream", call["mask_frame_range"]).visibility(layout))
    return Segment(torch.cat([call["ref_latent"], opening], 2), (1, count), times, visibility, call["reencoded"])


def predictor(network, call: dict, segment: Segment, cached: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """(noisy latents, sigma) -> the guided raw output for the noisy latents."""
    from lodestar.techniques import speech_guidance
    from lodestar.techniques.kv_cache import standing
    people, audio = call.get("masks"), call.get("audio")
    if people is not None:
        from lodestar.techniques.speaker_masks import fitted_masks
        people = fitted_masks(people, *call["bucket_hw"])[None]
    if audio is not None:
        audio = audio[None] if people is not None else audio[:, None]
    cache = standing(network.make_caches(segment.clean, segment.spans), segment.times) if cached else ()
    ahead = 0 if cached else segment.frames
    spans, times = ((), segment.times[segment.frames:]) if cached else (segment.spans, segment.times)

    def forward(text: str, audio: Tensor | None, latents: Tensor, sigma: Tensor) -> Tensor:
        whole = latents if cached else torch.cat([segment.clean, latents], 2)
        timestep = (sigma * 1000).repeat(1, whole.shape[2])
        timestep[:, :ahead] = 0
        return network(whole, timestep, call[text][:, 0], call[f"{text}_mask"], clean=spans,
                       times=times, visibility=segment.visibility, audio=audio, speaker_masks=people, cache=cache)

    def avatar(latents: Tensor, sigma: Tensor) -> Tensor:
        scales = call.get("text_guidance_scale", 1.0), call.get("audio_guidance_scale", 1.0)
        weights = speech_guidance.shares(*scales)
        wanted = ("pos", audio), ("neg", audio), ("neg", torch.zeros_like(audio))
        made = [forward(*one, latents, sigma) if weight else None
                for one, weight in zip(wanted, weights, strict=True)]
        return speech_guidance.combine_predictions(made, weights)[:, :, ahead:]

    def base(latents: Tensor, sigma: Tensor) -> Tensor:
        positive, scale = forward("pos", None, latents, sigma), call.get("guidance_scale", 1.0)
        if scale > 1:
            positive = speech_guidance.zero_guided(positive, forward("neg", None, latents, sigma), scale)
        return positive[:, :, ahead:]

    return base if audio is None else avatar


def loop(name: str, fixtures: golden.Fixtures, dit_of: Callable) -> dict[str, Tensor]:
    from lodestar.techniques.flow_schedules import schedule
    call = fixtures.call(name)
    dit = dit_of(fixtures.folder.parent / call["model"])
    newer = "v15" in call["model"]
    segment = segment_of(call, stitches=not newer)
    cached = bool(segment.frames) and call.get("use_kv_cache", "prev_latents" in call and "nocache" not in name)
    sigmas = schedule(schedule_kind(call, newer), call["steps"], call["shift"])
    latents = call["noise"][:, :, segment.shown.shape[2]:]
    predict, kept = predictor(dit.network, call, segment, cached), {"timesteps": sigmas[:-1] * 1000}
    for step, sigma in enumerate(sigmas[:-1]):
        velocity = -predict(latents, sigma)
        latents = latents + (sigmas[step + 1] - sigma) * velocity
        if step == 0:
            kept |= {"step0_pred": velocity, "step0_sample": latents}
    return {**kept, "latents": torch.cat([segment.shown, latents], 2)}


def runner(fixtures: golden.Fixtures, dit_of: Callable) -> Callable[[str], dict]:
    return partial(loop, fixtures=fixtures, dit_of=dit_of)
