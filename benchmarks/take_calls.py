"""What a real Long Take asks of the VAE and of attention, counted by hooks in this process on the tiny models."""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace

import torch
from lodestar.backbones import attach, find
from lodestar.pipelines.take.plan import Take, plan_take
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.timeline import Timeline
from rows import Row, show

MODELS = ("wan21_t2v", "wan21_i2v", "wan22_s2v", "omniavatar", "infinitetalk", "humo_17b", "cogvideox_5b",
          "cogvideox_15_i2v")
SIZE, CHUNK_FRAMES, OVERLAP_FRAMES = 64, 13, 5   # S2V packs motion frames by 8x8 latents: no smaller


@dataclass
class Count:
    """A whole take: calls of the VAE's encoder, frames out of its decoder, and how attention was called."""
    chunks: int
    frames: int
    encoder_calls: int = 0
    decoded_frames: int = 0
    attention_calls: int = 0
    masked: int = 0


def plan_for(model, chunks: int):
    """A plan of so many whole chunks, nothing trimmed."""
    backbone = find(model)
    clock = Timeline(Fraction(backbone.fps))
    overlap_frames = OVERLAP_FRAMES if backbone.overlap_frames else 0
    chunk, overlap = clock.latents_within_frames(CHUNK_FRAMES), clock.latents_within_frames(overlap_frames)
    frames = clock.frames_for_latents(chunk + (chunks - 1) * (chunk - overlap))
    return plan_take(clock, frames, CHUNK_FRAMES, overlap_frames, SIZE, SIZE)


def session(model, vae, plan):
    """The node's own session, fed as a graph would feed it: Basic Guider, two steps of euler, or VOID Sampler's."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_Basic, Noise_RandomNoise
    from lodestar.host.chunk_sampler import Sampling
    from lodestar.host.session import TakeSession
    from lodestar.host.take_inputs import TakeInputs
    guider = Guider_Basic(model)
    guider.set_conds([[torch.zeros(1, 16, 4096), {}]])
    speech = {"waveform": torch.zeros(1, 1, int(plan.seconds * 16000)), "sample_rate": 16000}
    features = features_for(find(model), float(plan.seconds))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    return TakeSession(TakeInputs(model, vae, plan, torch.rand(1, 80, 80, 3), features),
                       Sampling(Noise_RandomNoise(7), guider, sampler_for(model), sigmas),
                       Take(plan, speech), SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None))


def sampler_for(model):
    """Core's SAMPLER that the model takes."""
    import comfy.samplers
    euler = comfy.samplers.sampler_object("euler")
    try:
        find(model).check_sampler(euler)
    except ValueError:
        from comfy_extras.nodes_void import VOID_DDIM
        return VOID_DDIM()
    return euler


def features_for(backbone, seconds: float) -> dict | None:
    """Random audio features as the backbone takes them: one layer of S2V's 25 at 50 Hz, all of OmniAvatar's at 25."""
    if backbone.audio_shape is None:
        return None
    rate = 25 if backbone.fps == 25 else 50
    layers = (torch.randn(1, round(seconds * rate) + 1, backbone.audio_shape[1]),) * min(backbone.layers_taken)
    family = "omniavatar" if backbone.name == "OmniAvatar" else backbone.name
    return {"encoded_audio_all_layers": layers, "rate_hz": float(rate), "family": family}


def count(name: str, chunks: int, mode: str = "stitch") -> Count:
    """Make a take of `chunks` with the model `name`, an anchor in every chunk and the skip around it."""
    import folder_paths
    model, vae = in_process.tiny_model(name), in_process.tiny_vae()
    plan = plan_for(model, chunks)
    counted = Count(len(plan.chunks), plan.total_frames)

    def count_encode(_, args, output):
        counted.encoder_calls += 1

    def count_decode(_, args, output):
        counted.decoded_frames += sum(part.shape[2] for part in (output if isinstance(output, list) else [output]))

    def count_attention(function, *args, **kwargs):
        counted.attention_calls += 1
        counted.masked += kwargs.get("mask") is not None
        return function(*args, **kwargs)

    for technique in (LookaheadAnchor(placement="in chunk", index=2), ReferenceSkip(), LatentStitch(mode)):
        model = attach.with_technique(model, technique)
    model.model_options["transformer_options"]["optimized_attention_override"] = count_attention
    with ExitStack() as stack:
        stack.callback(folder_paths.set_output_directory, folder_paths.get_output_directory())
        folder_paths.set_output_directory(stack.enter_context(tempfile.TemporaryDirectory()))
        model_of_vae = vae.first_stage_model
        stack.callback(model_of_vae.encoder.register_forward_hook(count_encode).remove)
        stack.callback(model_of_vae.decoder.register_forward_hook(count_decode).remove)
        with torch.inference_mode():
            session(model, vae, plan).make("take", keep_chunks=False)
    return counted


def per_continuation(name: str, mode: str = "stitch") -> tuple[float, float, Count]:
    """(encoder calls per chunk after the first, frames decoded again per new frame, the longer of two takes)."""
    short, long = count(name, 2, mode), count(name, 4, mode)
    calls = (long.encoder_calls - short.encoder_calls) / (long.chunks - short.chunks)
    return calls, (long.decoded_frames - long.frames) / long.frames, long


def rows() -> Iterator[Row]:
    for name in MODELS:
        calls, again, take = per_continuation(name)
        yield Row(f"{name}: calls of the VAE's encoder per stitched chunk", f"{calls:g}", "0", calls == 0)
        yield Row(f"{name}: frames decoded again per new frame", f"{again:g}", "0", again == 0)
        yield Row(f"{name}: attention calls with a mask, under a hard skip", f"{take.masked} of {take.attention_calls}",
                  "0", take.masked == 0)
    calls, again, _ = per_continuation("wan21_t2v", "re-encode")
    yield Row("wan21_t2v handing over by re-encode, for comparison: encoder calls per chunk, frames decoded again per "
              "new frame", f"{calls:g}, {again:.3f}")


if __name__ == "__main__":
    show(rows)
