"""RoPE at position 5,000 of a model in bfloat16, on every family with rotary positions, against a float64 oracle.

ComfyUI counts positions in the model's dtype, where bfloat16 merges them from 256 on. What stands in the table is what
the first block rotates by, whoever computed it.
"""
import comfy.model_management
import pytest
import torch
from families import FAMILIES, LATENTS, FamilyChunk
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.lookahead_anchor import LookaheadAnchor

FAR = 5000              # latent frames ahead
LONG = 262              # latents: more than bfloat16 counts
ROUNDED = FAR * torch.finfo(torch.float32).eps      # an angle in float32


def in_bfloat16(model):
    """The model computing in bfloat16 on weights in float32, as ComfyUI runs one on a card that has bfloat16 alone."""
    for layer in model.model.diffusion_model.modules():
        if hasattr(layer, "comfy_cast_weights"):
            layer.comfy_cast_weights = True
    model.model.manual_cast_dtype = torch.bfloat16
    comfy.model_management.load_models_gpu([model])
    return model


def rotations(values):
    """Of what a block is given, the rotations: cosine and sine (tokens, channel pairs), which must be float32."""
    for value in (getattr(value, "rope", value) for value in values):
        if isinstance(value, torch.Tensor) and value.shape[-2:] == (2, 2) and value.ndim > 3:
            value = value[..., 0, 0], value[..., 1, 0]
        elif not (isinstance(value, tuple) and len(value) == 2 and value[0].ndim == 2):
            continue
        assert value[0].dtype == value[1].dtype == torch.float32
        if all(torch.equal(part[:, ::2], part[:, 1::2]) for part in value):     # one number for both of a pair
            value = tuple(part[:, ::2] for part in value)
        return tuple(part.reshape(-1, part.shape[-1]).double() for part in value)
    raise AssertionError("the block is given no rotations")


def rotations_of_first_block(chunk, *techniques, latents=LATENTS):
    """What was sampled, and the first block's rotations: as it is called, or where it has other ways in (Wan-Animate 2)
    as a replacement of it would be."""
    network, model, seen = chunk.model.model.diffusion_model, chunk.model.clone(), []

    def record(_, args, kwargs):
        given = (*args, *kwargs.values())
        assert any(getattr(value, "dtype", None) == torch.bfloat16 for value in given)
        seen.append(rotations(given))

    def replace_block(args, originals):
        record(None, (args["img"], args["pe"]), {})
        return originals["original_block"](args)

    model.model_options["transformer_options"]["patches_replace"] = {"dit": {("double_block", 0): replace_block}}
    block = (getattr(network, "blocks", None) or network.double_blocks)[0]
    hook = block.register_forward_pre_hook(record, with_kwargs=True)
    try:
        made = chunk.sample(*techniques, chunk=0, steps=1, latents=latents, model=model)
    finally:
        hook.remove()
    return made, *seen[-1]


def token_at(cosine, sine, time):
    """The (cosine, sine) of the first token of the frame at `time`: the time axis comes first and begins with a turn of
    1 per step, and no other axis turns that token. AssertionError where no frame stands there."""
    turns = torch.tensor([time], dtype=torch.float64)
    there = ((cosine[:, 0] - turns.cos()).abs() + (sine[:, 0] - turns.sin()).abs() < 2 * ROUNDED).nonzero().flatten()
    assert len(there), f"no frame stands at {time}"
    first = there[sine[there].ne(0).sum(1).argmin()]
    pairs = int(sine[first].ne(0).sum())
    return cosine[first, :pairs], sine[first, :pairs]


def check(cosine, sine, time):
    """The frame at `time` turns by time * theta^(-i / pairs), as far as float32 angles are exact."""
    slowest = token_at(cosine, sine, 1)[1]
    pairs = len(slowest)
    theta = round(float(slowest[-1].arcsin()) ** (-pairs / (pairs - 1)))
    angles = time * float(theta) ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
    found = token_at(cosine, sine, time)
    assert torch.allclose(found[0], angles.cos(), atol=ROUNDED, rtol=0)
    assert torch.allclose(found[1], angles.sin(), atol=ROUNDED, rtol=0)


@pytest.fixture(scope="module")
def half(request, tiny_models):
    family = FAMILIES[request.param]
    if not family.exists:
        pytest.skip("this ComfyUI does not have it")
    return FamilyChunk(family, in_bfloat16(family.load(tiny_models / "models")))


@pytest.mark.parametrize("half", [name for name, family in FAMILIES.items() if not family.sound], indirect=True)
def test_an_anchor_stands_at_5005_exactly(half):
    """Families of picture and sound count in seconds, in whole numbers and by ComfyUI's own code (test_ltx,
    test_minimax_h3)."""
    anchor = LookaheadAnchor(FAR, latents=None if half.family.own_reference else half.picture(12))
    _, cosine, sine = rotations_of_first_block(half, anchor)
    size = getattr(half.backbone, "per_frame", 1)       # latents of a token frame, which has its first one's time
    last = LATENTS - 1 + half.inputs(0).before
    for time in (*range(1, LATENTS // size), (last + FAR) / size):
        check(cosine, sine, time)


@pytest.mark.parametrize("half", ["wan21_t2v", "wan22_s2v", "humo_1_7b"], indirect=True)
def test_a_long_latent_counts_exactly_once_a_technique_is_on_the_model(half):
    """With none the model is bit-identical to ComfyUI's, and counts as it does."""
    _, cosine, sine = rotations_of_first_block(half, LatentStitch(), latents=LONG)
    for time in (1, 257, LONG - 1):
        check(cosine, sine, time)


def test_with_no_technique_it_counts_as_core_does(tiny_models):
    chunk = FamilyChunk(FAMILIES["wan21_t2v"], in_bfloat16(FAMILIES["wan21_t2v"].load(tiny_models / "models")))
    plain, cosine, sine = rotations_of_first_block(chunk, latents=LONG)
    with pytest.raises(AssertionError, match="no frame stands at 257"):
        check(cosine, sine, 257)
    inputs = chunk.inputs(0, latents=LONG)
    assert torch.equal(plain, chunk.run(chunk.guider(chunk.model), inputs, 1))
