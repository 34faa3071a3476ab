"""Reference Picture and Blank Prompt as a graph uses them: what is made, what is refused, and by which answer."""
from fractions import Fraction

import comfy.sd
import comfy.utils
import pytest
import torch
from lodestar.nodes.blank_prompt import LodestarBlankPrompt
from lodestar.nodes.reference_picture import LodestarReferencePicture
from lodestar.pipelines.take.plan import Take, plan_take
from lodestar.techniques.timeline import Timeline


@pytest.fixture(scope="module")
def vae(tiny_models):
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(
        str(tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors")))


@torch.inference_mode()
def fitted(vae, image, width=64, height=96, fit="crop"):
    latent, picture = LodestarReferencePicture.execute(image, vae, width, height, fit).args
    assert latent["samples"].shape == (1, 16, 1, height // 8, width // 8)
    assert picture.shape == (1, height, width, 3) and 0 <= picture.min() and picture.max() <= 1
    return picture


def test_the_size_comes_from_the_plan_where_none_is_typed(vae):
    image = halves(80, 70)
    plan = Take(plan_take(Timeline(Fraction(16)), 17, 17, 0, 64, 96), {})
    latent, picture = LodestarReferencePicture.execute(image, vae, 0, 0, "crop", plan).args
    assert torch.equal(picture, fitted(vae, image)) and latent["samples"].shape == (1, 16, 1, 12, 8)
    assert LodestarReferencePicture.execute(image, vae, 32, 32, "crop", plan).args[1].shape == (1, 32, 32, 3)
    with pytest.raises(ValueError, match="width, height: got 0 and 0; type both, or connect the plan"):
        LodestarReferencePicture.execute(image, vae, 0, 0, "crop")


def halves(height, width):
    """A picture that is black on the left and white on the right."""
    image = torch.zeros(1, height, width, 3)
    image[:, :, width // 2:] = 1
    return image


def test_the_first_picture_of_several_is_taken_as_it_is(vae):
    pictures = torch.rand(3, 96, 64, 3)
    assert torch.equal(fitted(vae, pictures), pictures[:1])


def test_the_latent_is_the_vae_s_own(vae):
    picture = torch.rand(1, 96, 64, 3)
    with torch.inference_mode():
        latent = LodestarReferencePicture.execute(picture, vae, 64, 96, "crop").args[0]["samples"]
        assert torch.equal(latent, vae.encode(picture))


def test_crop_cuts_the_middle_and_pad_keeps_all(vae):
    wide = halves(96, 16384)
    cropped, padded = fitted(vae, wide), fitted(vae, wide, 512, 64, "pad")
    assert cropped[..., :28, :].mean() < 0.02 and cropped[..., 36:, :].mean() > 0.98
    assert padded.amax(dim=(0, 2, 3)).count_nonzero() == 3        # 512 / 16384 of 96 rows
    assert padded[0, 32, :200].max() < 0.02 and padded[0, 32, 300:].min() > 0.98


def test_white_keeps_all_in_the_middle_of_white(vae):
    picture = fitted(vae, torch.zeros(1, 80, 40, 3), 128, 64, "white")
    assert picture[:, :, 48:80].max() == 0 and picture[:, :, :48].min() == picture[:, :, 80:].min() == 1


def test_a_large_picture_is_averaged_down_not_sampled(vae):
    stripes = (torch.arange(1920) % 2).float().expand(1, 2880, 1920)[..., None].expand(-1, -1, -1, 3)
    assert (fitted(vae, stripes) - 0.5).abs().max() < 0.01


def test_transparency_is_laid_on_white(vae):
    image = torch.zeros(1, 96, 64, 4)
    image[:, 48:, :, 3] = 1
    picture = fitted(vae, image)
    assert picture[:, :40].min() == 1 and picture[:, 56:].max() == 0


@pytest.mark.parametrize(("image", "complaint"), [
    (torch.rand(1, 300, 1, 3), "at least 8 pixels"),
    (torch.rand(0, 96, 64, 3), r"got shape \(0, 96"),
    (torch.rand(1, 96, 64, 1), "3 or 4 channels"),
    (torch.full((1, 96, 64, 3), torch.nan), "NaN"),
    (torch.full((1, 96, 64, 3), torch.inf), "infinite"),
], ids=["one pixel wide", "no picture", "grey", "NaN", "infinite"])
def test_what_is_no_picture_is_refused_by_name(vae, image, complaint):
    with pytest.raises(ValueError, match=f"image.*{complaint}"):
        LodestarReferencePicture.execute(image, vae, 64, 96, "crop")


@pytest.mark.parametrize("shape", [(8, 16384), (16384, 8)], ids=str)
@pytest.mark.parametrize("size", [(16, 1024), (1024, 16), (64, 96)], ids=str)
def test_a_picture_as_thin_as_a_thread_is_fitted_or_refused(vae, shape, size):
    image = torch.rand(1, *shape, 3)
    fitted(vae, image, *size, "pad")
    kept = min(shape[0] * size[0] / size[1], shape[1] * size[1] / size[0])
    if kept >= 8:
        fitted(vae, image, *size)
    else:
        with pytest.raises(ValueError, match="image: cropping .* leaves fewer than 8 pixels"):
            fitted(vae, image, *size)


def test_a_blank_prompt_says_the_same_however_long(tiny_models, wan):
    (short, options), = LodestarBlankPrompt.execute(1, 4096).args[0]
    (long, _), = LodestarBlankPrompt.execute(512, 4096).args[0]
    assert options == {} and long.shape == (1, 512, 4096) and not long.any()
    model = wan.load(tiny_models, "wan21_t2v")
    answers = [wan.apply(model, wan.noise(model), c_crossattn=text) for text in (short, long)]
    assert torch.allclose(*answers, atol=1e-5)
