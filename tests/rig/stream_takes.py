"""Streams of a tiny model in Long Take: a session, and the latents of its chunks."""
import types
from dataclasses import replace

import folder_paths
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from families import load_vae
from lodestar.backbones import attach
from lodestar.backbones.omniavatar.backbone import OmniAvatarBackbone
from lodestar.backbones.omniavatar.speech import FAMILY
from lodestar.host.chunk_sampler import Sampling
from lodestar.host.rolling_sampler import RollingSampler
from lodestar.host.session import TakeSession
from lodestar.host.stream_chunk_sampler import StreamChunkSampler
from lodestar.host.take_inputs import TakeInputs
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.techniques.flow_schedules import student_levels
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.temporal_anchor import TemporalAnchor

SECONDS, RATE, BLOCK = 2, 16000, 2


def features(backbone) -> dict | None:
    if backbone.audio_shape is None:
        return None
    layers, width = backbone.audio_shape
    rate = 32.0 if backbone.fps == 16 else 25.0
    made = tuple(torch.randn(1, int(rate * SECONDS), width, generator=torch.Generator().manual_seed(layer)) for layer in
                 range(layers))
    return {"encoded_audio": made[-1], "encoded_audio_all_layers": made, "rate_hz": rate,
            "audio_samples": SECONDS * RATE, **({"family": FAMILY} if isinstance(backbone, OmniAvatarBackbone) else {})}


def session(chunk, tiny_models, output, block=BLOCK, sampler=None, picture=True, seconds=SECONDS) -> TakeSession:
    model = attach.with_technique(attach.with_technique(chunk.model, TemporalAnchor(2)), StyleAnchor())
    audio = {"waveform": torch.zeros(1, 1, seconds * RATE), "sample_rate": RATE}
    take = LodestarPlanTake.execute(model=model, audio=audio, fps=0.0, script="", width=64, height=64, chunk_frames=17,
                                    overlap_frames=-1, seed_step=1, max_seconds=0.0, block_latents=block).args[0]
    folder_paths.set_output_directory(str(output))
    sampling = Sampling(Noise_RandomNoise(3), chunk.guider(model), sampler or RollingSampler(BLOCK, 1, "fresh"),
                        student_levels("even", 3, 1, 5.0))
    shown = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4)) if picture else None
    inputs = TakeInputs(model, load_vae(chunk.family, tiny_models / "models"), take.plan, shown,
                        features(chunk.backbone))
    return TakeSession(inputs, sampling, take, types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None))


def make_stream(take, name, broken_after=None):
    """The take's latents of each chunk; `broken_after` so many, the take ends with an error."""
    made = []

    class Recording(StreamChunkSampler):
        def sample(self, chunk, past):
            if len(made) == broken_after:
                raise OSError("broken off")
            pieces = list(super().sample(chunk, past))
            made.append(torch.cat(pieces, 2))
            yield from pieces

    with torch.inference_mode():
        finished = replace(take, make_sampler=Recording).make(name, False)
    return finished, made
