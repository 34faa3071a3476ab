"""What a hand-over costs in pixels on a static scene: latents as sampled against latents that went through the VAE."""
import comfy.sd
import comfy.utils
import pytest
import torch
from lodestar.backbones.vae import encode_frames, open_stream
from lodestar.techniques.latent_stitch import LatentStitch

pytestmark = pytest.mark.once

CONTEXT, HANDOVERS = 3, 4


@pytest.fixture(scope="module")
def vae(tiny_models):
    path = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))


class StaticTail:
    """A take whose every latent shows the same scene."""

    def __init__(self, vae, latents):
        self.held, self.vae = latents, vae

    def latents(self, count):
        return self.held[:, :, -count:]

    def frames(self, count):
        stream = open_stream(self.vae)
        return torch.cat([*stream.push(self.held), *stream.flush()])[-count:]


def pixel_errors(vae, mode):
    """Mean absolute pixel error of the handed-over scene against the first chunk's, after each hand-over."""
    with torch.inference_mode():
        scene = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1)).repeat(4 * CONTEXT - 3, 1, 1, 1)
        tail = StaticTail(vae, encode_frames(vae, scene))
        first, errors = tail.frames(1), []
        for _ in range(HANDOVERS):
            context = LatentStitch(mode).handover(tail, CONTEXT, lambda frames: encode_frames(vae, frames))
            tail = StaticTail(vae, context)
            errors.append((tail.frames(1) - first).abs().mean().item())
    return errors


def test_stitching_loses_nothing_and_re_encoding_wears_the_picture_down(vae, record_property):
    stitched, encoded = pixel_errors(vae, "stitch"), pixel_errors(vae, "re-encode")
    record_property("re-encode pixel errors", encoded)
    assert stitched == [0.0] * HANDOVERS
    assert min(encoded) > 0.01      # random weights: a trained VAE loses less, but never nothing


def test_a_young_take_hands_over_a_whole_number_of_latents(vae):
    """5 frames were decoded where 9 are wanted: the re-encoded context is what fits, never a VAE's unannounced cut."""
    class Young(StaticTail):
        def frames(self, count):
            return super().frames(count)[-7:]

    with torch.inference_mode():
        tail = Young(vae, torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(2)))
        context = LatentStitch("re-encode").handover(tail, CONTEXT, lambda frames: encode_frames(vae, frames))
    assert context.shape[2] == 2
