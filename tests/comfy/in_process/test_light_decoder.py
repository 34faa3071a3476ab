"""ComfyUI's tiny autoencoders as decoders of a take: streamed as they decode whole, and refused for other latents."""
import json
from pathlib import Path

import comfy.latent_formats
import comfy.sd
import comfy.utils
import pytest
import torch
from light_models import light_vae
from lodestar.backbones.light_decoder import LightStream, check_light_decoder
from lodestar.backbones.vae import encode_frames, open_stream
from lodestar.training.puppet import light_decoder
from lodestar.training.puppet.face_probe import load_face_probe
from lodestar.training.puppet.hosts import wan_vae
from lodestar.training.puppet.speech import load_tracks
from lodestar.training.puppet.vae import SIZE
from lodestar.training.puppet.world import World

GOLDEN = Path(__file__).parents[2] / "golden" / "puppet"
CHANNELS = {"lighttaew2_1": 16, "lighttaew2_2": 48}


@pytest.fixture(scope="module", params=CHANNELS.values(), ids=CHANNELS)
def vae(request):
    return light_vae(request.param)


@pytest.fixture(scope="module")
def decoded(vae):
    latents = torch.randn(1, vae.latent_channels, 7, 4, 6, generator=torch.Generator().manual_seed(0))
    return latents, vae.decode(latents)[0].clamp(0, 1)


@pytest.mark.parametrize("cuts", [(7,), (1, 1, 1, 1, 1, 1, 1), (3, 4)])
def test_a_stream_gives_the_frames_of_the_whole_decode(vae, decoded, cuts):
    latents, whole = decoded
    stream = open_stream(vae)
    assert isinstance(stream, LightStream)
    frames = [group for piece in latents.split(cuts, 2) for group in stream.push(piece)] + list(stream.flush())
    assert len(frames[0]) == 1 and torch.cat(frames).shape == whole.shape == (25, 4 * vae.spacial_compression_decode(),
                                                                             6 * vae.spacial_compression_decode(), 3)
    assert whole.std() > 0.02 and (torch.cat(frames) - whole).abs().max() < 1e-6


def test_a_stream_that_begins_later_is_the_same_behind_its_warm_up(vae):
    latents = torch.randn(1, vae.latent_channels, 14, 2, 2)
    whole, later = ([group for group in open_stream(vae).push(piece)] for piece in (latents, latents[:, :, 4:]))
    assert open_stream(vae).warmup_latents == 9
    assert (whole[-1] - later[-1]).abs().max() < 1e-6 < (whole[5] - later[1]).abs().max()


def test_the_picture_can_be_encoded_with_it_or_it_says_that_it_cannot(vae, comfyui_version):
    pictures = torch.rand(1, 64, 64, 3)
    if comfyui_version == "0.7.0" and vae.latent_channels == 48:
        with pytest.raises(ValueError, match="only decodes in this ComfyUI. Connect the model's own VAE"):
            encode_frames(vae, pictures)
    else:
        assert encode_frames(vae, pictures).shape[:3] == (1, vae.latent_channels, 1)


# ---------------------------------------------------------------- the puppet's, trained

def test_a_narrow_decoder_is_the_same_in_comfyuis_widths(tmp_path):
    """As Load VAE takes its file, for Wan's latents, but for what bf16 rounds."""
    torch.manual_seed(0)
    narrow = light_decoder.light_network((16, 8, 8, 8))
    for weight in narrow.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
        weight.data = weight.data.bfloat16().float()
    light_decoder.save(narrow, tmp_path / "light.safetensors")
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(tmp_path / "light.safetensors")), dtype=torch.float32)
    check_light_decoder(vae, comfy.latent_formats.Wan21(), "the puppet")
    latents = torch.randn(1, 16, 3, 4, 6)
    with torch.inference_mode():
        wanted = light_decoder.decode(narrow, latents)[0].movedim(0, -1) / 2 + 0.5
        loaded = light_decoder.decode(light_decoder.load_light(tmp_path / "light.safetensors"), latents)
    frames = torch.cat(list(open_stream(vae).push(latents)))
    assert wanted.std() > 0.1 and torch.allclose(frames, wanted.clamp(0, 1), atol=1e-4)
    assert torch.allclose(loaded[0].movedim(0, -1) / 2 + 0.5, wanted, atol=1e-4)


def test_it_is_trained_in_slices_with_the_critic_at_the_end(tmp_path, monkeypatch):
    for name, value in (("WIDTHS", (16, 8, 8, 8)), ("CLIPS", 1), ("FRAMES", (5,)), ("TESTED_FRAMES", 5)):
        monkeypatch.setattr(light_decoder, name, value)
    asked, add = [], light_decoder.add_critic_loss
    monkeypatch.setattr(light_decoder, "add_critic_loss", lambda *args: asked.append(args[-1]) or add(*args))
    vae, world = wan_vae(light_decoder.WIDTHS[1]).eval().requires_grad_(False), World(load_tracks(GOLDEN), size=SIZE)
    assert light_decoder.train(vae, tmp_path, world, 0, steps=4) is None
    path = light_decoder.train(vae, tmp_path, world, 5, steps=4)
    assert path == tmp_path / "light_decoder.safetensors" and asked == [True]
    assert json.loads((tmp_path / "log.json").read_text())["precisions"]
    found = light_decoder.gate(vae, light_decoder.load_light(path), world, load_face_probe(), clips=1)
    assert found["full"].keys() == found["light"].keys() >= {"psnr", "sharpness", "lips", "ms"}


def test_another_familys_is_refused_by_name():
    wan, hunyuan = light_vae(16), light_vae(16, torch.float16)
    formats = comfy.latent_formats
    check_light_decoder(wan, formats.Wan21(), "Wan 2.1 T2V")
    check_light_decoder(hunyuan, formats.HunyuanVideo(), "HunyuanVideo")
    for vae, latent_format, says in (
            (light_vae(48), formats.Wan21(), "48 channels, Wan makes 16. Load lighttaew2_1"),
            (wan, formats.Wan22(), "16 channels, Wan makes 48. Load lighttaew2_2"),
            (hunyuan, formats.Wan21(), "takes it for HunyuanVideo's, since it is of 16 channels in half precision"),
            (wan, formats.HunyuanVideo(), "takes it for Wan's"),
            (wan, formats.Mochi(), "There is none for Wan: leave light_decoder open")):
        with pytest.raises(ValueError, match=says):
            check_light_decoder(vae, latent_format, "Wan")
