"""A chunk without ComfyUI is the chunk that ComfyUI's sampler makes, techniques and guidance included."""
from fractions import Fraction

import comfy.samplers
import pytest
import torch
from draws import random
from lodestar.backbones import attach
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.backbones.speech_guider import SpeechGuider
from lodestar.networks.longcat.config import LongCatConfig
from lodestar.networks.longcat.network import LongCat
from lodestar.pipelines.headless import longcat_sampling as headless
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.technique import ChunkPosition

SIZE, FRAMES, KNOWN = (8, 8), 9, 2
SIGMAS = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])


def story(into):
    """Keyframes at 1 s and 2 s, in the space that `into` makes of latents."""
    frames = (into(random(1, 16, 1, *SIZE, seed=seed)) for seed in (11, 12))
    return NarrativeKeyframes().plus(Fraction(1), next(frames)).plus(Fraction(2), next(frames))


@pytest.mark.parametrize(("techniques", "audio_scale", "references", "known", "start"), [
    ((), 1.0, 1, KNOWN, None), ((), 1.0, 0, 0, None), ((), 1.0, 0, KNOWN, None),
    ((LookaheadAnchor(3),), 1.0, 1, 0, None), ((LookaheadAnchor(3),), 1.0, 2, KNOWN, None),
    ((LookaheadAnchor(1, "in chunk", 5),), 1.0, 1, KNOWN, 1),
    ((LookaheadAnchor(1, "in chunk", 5), ReferenceSkip("hard", 2)), 1.0, 1, KNOWN, None),
    ((LookaheadAnchor(1, "in chunk", 5), ReferenceSkip("soft", 1, 0.4)), 3.0, 1, KNOWN, None)])
def test_headless_equals_the_host(tiny_models, techniques, audio_scale, references, known, start):
    """`start`: of the chunk, in seconds, where there is a story."""
    folder = tiny_models / "models" / "diffusion_models"
    model = load_longcat(str(folder / "lodestar_tiny_longcat_avatar15.safetensors"))
    weights = {name: tensor.float() for name, tensor in model.model.diffusion_model.state_dict().items()}
    network = LongCat(LongCatConfig.from_weights(weights), torch.nn, headless.attention, torch.float32)
    network.load_state_dict(weights)
    out, into = model.model.process_latent_out, model.model.process_latent_in
    head, reference = random(1, 16, known, *SIZE, seed=8), random(1, 16, references, *SIZE, seed=6)
    noise, audio = random(1, 16, FRAMES, *SIZE, seed=1), random(1, 1, 4 * FRAMES - 3, 5, 5, 64, seed=5)
    position = ChunkPosition(start_seconds=Fraction(start or 0))
    theirs, ours = (techniques if start is None else (story(space), *techniques) for space in (torch.clone, into))
    speech = {"audio_windows": audio, **({"reference_latents": [reference]} if references else {})}
    guider = SpeechGuider(attach.install_techniques(model, theirs, position), [[None, speech]], [[None, speech]],
                           audio_scale, audio_scale, False)
    mask = torch.ones(1, 1, FRAMES, *SIZE)
    mask[:, :, :known] = 0
    latent = torch.cat([head, out(torch.zeros(1, 16, FRAMES - known, *SIZE))], 2)
    with torch.inference_mode():
        served = guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), SIGMAS, denoise_mask=mask,
                               disable_pbar=True, seed=1)
        alone = headless.sample(network, noise, SIGMAS, headless.Request(
            into(head) if known else None, into(reference) if references else None, audio, ours, position, audio_scale))
    assert torch.allclose(out(alone)[:, :, known:], served[:, :, known:], atol=1e-4)
    assert torch.equal(alone[:, :, :known], into(head))
