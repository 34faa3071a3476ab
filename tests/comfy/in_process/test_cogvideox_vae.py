"""CogVideoX's VAE as a stream: what its authors' decode in pairs gives, however a take is cut, without a seam."""
import pytest
import torch
from lodestar.backbones.cogvideox.stream import CogVideoXStream
from lodestar.backbones.vae import encode_frames, open_stream

rig = pytest.importorskip("cogvideox_models", reason="this ComfyUI has no CogVideoX", exc_type=ImportError)


@pytest.fixture(scope="module")
def vae(tiny_models):
    return rig.vae(tiny_models)


def streamed(vae, latents, cuts):
    stream, frames = open_stream(vae), []
    for first, end in zip((0, *cuts), (*cuts, latents.shape[2]), strict=True):
        frames += [group.clone() for group in stream.push(latents[:, :, first:end])]
    return torch.cat([*frames, *stream.flush()])


def in_pairs(vae, latents):
    """ComfyUI's own batched decode, which it has and does not use."""
    with torch.inference_mode():
        return vae.process_output(vae.first_stage_model._decode_batched(latents).float())[0].movedim(0, -1)


@pytest.mark.parametrize("cuts", [(), (1,), (2, 3), (3, 5, 8), (1, 2, 3, 4, 5, 6, 7, 8)])
def test_any_cut_gives_the_authors_frames(vae, cuts):
    latents = rig.picture(9, (4, 4))
    found = streamed(vae, latents, cuts)
    assert isinstance(open_stream(vae), CogVideoXStream)
    assert found.shape == (33, 32, 32, 3) and torch.equal(found, in_pairs(vae, latents))


@pytest.mark.parametrize(("latents", "frames"), [(1, 1), (2, 5), (3, 9), (4, 13), (8, 29)])
def test_each_latent_but_the_first_is_four_frames(vae, latents, frames):
    found = streamed(vae, rig.picture(latents, (4, 4)), ())
    assert len(found) == frames and found.isfinite().all()


def test_a_look_at_what_is_held_changes_nothing(vae):
    latents, stream = rig.picture(5, (4, 4)), open_stream(vae)
    frames = [*stream.push(latents[:, :, :2])]
    assert frames == [] and len(stream.peek()) == 5
    frames += [group.clone() for group in stream.push(latents[:, :, 2:4])]
    assert len(stream.peek()) == 4
    frames += [group.clone() for group in stream.push(latents[:, :, 4:])]
    assert stream.peek() is None and torch.equal(torch.cat(frames), in_pairs(vae, latents))


def test_a_fresh_stream_is_warm_after_its_warm_up(vae):
    """From an even latent on, as a resumed take begins."""
    warm = open_stream(vae).warmup_latents
    first = warm % 2 + 2
    latents = rig.picture((first + warm + 3) // 2 * 2 + 1, (2, 2))
    whole, fresh = in_pairs(vae, latents), streamed(vae, latents[:, :, first:], ())
    assert len(whole) == len(fresh) + 4 * first
    assert torch.allclose(whole[-8:], fresh[-8:], atol=1e-6)


def test_pictures_and_clips_are_encoded(vae):
    assert encode_frames(vae, torch.rand(1, 32, 32, 3)).shape == (1, 16, 1, 4, 4)
    assert encode_frames(vae, torch.rand(9, 32, 32, 3)).shape == (1, 16, 3, 4, 4)
