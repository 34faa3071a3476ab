"""A chunk without ComfyUI is the chunk that ComfyUI's sampler makes, techniques and guidance included."""
import comfy.samplers
import pytest
import torch
from lodestar.backbones import attach
from lodestar.backbones.longcat import headless
from lodestar.backbones.longcat.config import LongCatConfig
from lodestar.backbones.longcat.network import LongCat
from lodestar.backbones.longcat_files import load_longcat
from lodestar.backbones.speech_guider import SpeechGuider
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip

SIZE, FRAMES, KNOWN = (8, 8), 9, 2
SIGMAS = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(query, key, value, heads, **_):
    parts = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(("techniques", "audio_scale"), [
    ((), 1.0), ((LookaheadAnchor(3),), 1.0), ((LookaheadAnchor(1, "in chunk", 5), ReferenceSkip("hard", 2)), 1.0),
    ((LookaheadAnchor(1, "in chunk", 5), ReferenceSkip("soft", 1, 0.4)), 3.0)])
def test_headless_equals_the_host(tiny_models, techniques, audio_scale):
    path = tiny_models / "models" / "diffusion_models" / "lodestar_tiny_longcat_avatar15.safetensors"
    model = load_longcat(str(path))
    weights = {name: tensor.float() for name, tensor in model.model.diffusion_model.state_dict().items()}
    network = LongCat(LongCatConfig.from_weights(weights), torch.nn, attention, torch.float32)
    network.load_state_dict(weights)
    known, reference, noise = random(1, 16, KNOWN, *SIZE, seed=8), random(1, 16, 1, *SIZE, seed=6), \
        random(1, 16, FRAMES, *SIZE, seed=1)
    audio, out, into = random(1, 1, 4 * FRAMES - 3, 5, 5, 64, seed=5), model.model.process_latent_out, \
        model.model.process_latent_in
    for technique in techniques:
        model = attach.with_technique(model, technique)
    speech = {"audio_windows": audio, "reference_latents": [reference]}
    guider = SpeechGuider(model, [[None, speech]], [[None, speech]], audio_scale, audio_scale, False)
    mask = torch.ones(1, 1, FRAMES, *SIZE)
    mask[:, :, :KNOWN] = 0
    latent = torch.cat([known, out(torch.zeros(1, 16, FRAMES - KNOWN, *SIZE))], 2)
    with torch.inference_mode():
        served = guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), SIGMAS, denoise_mask=mask,
                               disable_pbar=True, seed=1)
        alone = headless.sample(network, noise, SIGMAS, headless.Request(
            into(known), into(reference), audio, techniques, audio_scale=audio_scale))
    assert torch.allclose(out(alone)[:, :, KNOWN:], served[:, :, KNOWN:], atol=1e-4)
    assert torch.equal(alone[:, :, :KNOWN], into(known))
