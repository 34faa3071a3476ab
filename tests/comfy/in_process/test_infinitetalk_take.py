"""What a chunk of InfiniteTalk is given of pictures: padding, CLIP vision, the frames of a video that is dubbed."""
import pytest
import torch

pytest.importorskip("comfy.ldm.wan.model_multitalk")
from infinitetalk_models import features, load, load_vae, session  # noqa: E402
from lodestar.backbones import attach  # noqa: E402
from lodestar.nodes.one_chunk import LodestarOneChunk  # noqa: E402
from lodestar.techniques.lookahead_anchor import LookaheadAnchor  # noqa: E402


@pytest.fixture(scope="module")
def model(tiny_models):
    return load(tiny_models)


def conditions_of(take, context_of=lambda chunk: None):
    """What every condition of each chunk is given."""
    inputs = take.inputs
    return [inputs.backbone.chunk_inputs(inputs.request(chunk, context_of(chunk), inputs.reference)).conditions
            for chunk in inputs.plan.chunks]


def test_the_padding_is_the_picture_where_nothing_is_known(model, tiny_models, tmp_path):
    """Stable Video Infinity: [what is known | the picture to the end], of which the first latent is marked."""
    picture = torch.rand(1, 64, 64, 3)
    padded = attach.with_technique(model, LookaheadAnchor(placement="padding"))
    take = session(padded, tiny_models, tmp_path, features(), picture)
    take.check()
    known = torch.randn(1, 16, 3, 8, 8)
    first, second, _ = conditions_of(take, lambda chunk: known if chunk.index else None)
    wanted = take.inputs.encode(picture.expand(33, -1, -1, -1))
    assert torch.equal(first["concat_latent_image"], wanted)
    assert torch.equal(second["concat_latent_image"][:, :, 3:], wanted[:, :, 3:])
    assert torch.equal(second["concat_latent_image"][:, :, :3], known)
    assert all(given["concat_mask"][:, :, 0].eq(0).all() and given["concat_mask"][:, :, 1:].eq(1).all()
               for given in (first, second))
    grey = conditions_of(session(model, tiny_models, tmp_path, features(), picture))[0]["concat_latent_image"]
    assert (grey[:, :, 2:] - wanted[:, :, 2:]).abs().max() > 1e-3


def test_a_model_without_such_channels_refuses_padding(tiny_models, wan):
    padded, text = attach.with_technique(wan.load(tiny_models, "wan21_t2v"), LookaheadAnchor(placement="padding")), [
        [torch.zeros(1, 4, 4096), {}]]
    with pytest.raises(ValueError, match="anchor: placement 'padding' fills channels .* text-to-video has none"):
        LodestarOneChunk.execute(padded, text, text, load_vae(tiny_models), 64, 64, 17, None, torch.rand(1, 64, 64, 3))


def test_padding_is_no_span_and_needs_the_picture_itself(model, tiny_models, tmp_path):
    padded = attach.with_technique(model, LookaheadAnchor(placement="padding"))
    with pytest.raises(ValueError, match="reference: .*none came"):
        session(padded, tiny_models, tmp_path, features()).check()
    with pytest.raises(ValueError, match="anchor: got latents, but placement 'padding'"):
        LookaheadAnchor(placement="padding", latents=torch.zeros(1, 16, 1, 8, 8))
    assert attach.patch_of(padded).backbone.extra_latents(padded, (1, 16, 9, 8, 8), attach.techniques_of(padded),
                                                          attach.patch_of(padded).position) == 0
