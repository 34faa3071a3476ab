"""LTX-2 with an anchor of ours, against diffusers, and the order in which the installed ComfyUI reads its streams."""
import inspect
import textwrap

import comfy.ldm.lightricks.av_model as av_model
import pytest
import torch
from einops import rearrange
from joint_models import LTX, LTX23, load_ltx
from ltx_runs import FRAMES, HEIGHT, SOUND, TOKENS, WIDTH, anchored, apart, locked, run, speech

NEWEST = "0.33.0"


@pytest.fixture(scope="module")
def model():
    return load_ltx(LTX)


def capture(executor_args, into):
    def wrapper(executor, *args, **kwargs):
        module, own = executor.class_obj, executor.class_obj._prepare_positional_embeddings

        def positions(coords, rate, dtype):
            into["coords"] = [part.clone() for part in coords]
            return own(coords, rate, dtype)

        module._prepare_positional_embeddings = positions
        into.update(x=[part.clone() for part in args[0]], t=args[1].clone(), at=kwargs["a_timestep"].clone(),
                    context=args[2].clone(), rate=args[4])
        try:
            made = executor(*args[:5], {**args[5], **executor_args}, *args[6:], **kwargs)
        finally:
            del module._prepare_positional_embeddings
        into["made"] = [part.clone() for part in made]
        return made
    return wrapper


def diffusers_twin(model, modulated):
    from diffusers.loaders.single_file_utils import convert_ltx2_transformer_to_diffusers as convert
    from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
    both = {"gated_attn": True, "cross_attn_mod": True, "audio_gated_attn": True, "audio_cross_attn_mod": True}
    twin = LTX2VideoTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, cross_attention_dim=48, audio_num_attention_heads=2,
        audio_attention_head_dim=16, audio_cross_attention_dim=32, num_layers=2, caption_channels=40, rope_type="split",
        use_prompt_embeddings=not modulated, **(both if modulated else {}))
    weights = {name: value.clone() for name, value in model.model.diffusion_model.state_dict().items()
               if "embeddings_connector" not in name}
    twin.load_state_dict({name.replace("prompt_adaln_single", "prompt_adaln"): value
                          for name, value in convert(weights).items()}, strict=False)
    return twin.eval()


def twin_makes(twin, seen, isolated):
    picture = rearrange(seen["x"][0], "b c f h w -> b (f h w) c")
    sound = rearrange(seen["x"][1], "b c t f -> b t (c f)")
    level = seen["t"].reshape(1, -1).expand(1, picture.shape[1])
    sound_level = seen["at"].reshape(1, -1).expand(1, sound.shape[1])
    coords = seen["coords"][0].float()
    coords[:, 0] /= seen["rate"]
    half = seen["context"].shape[-1] // 2 if seen["context"].shape[-1] == 80 and not isolated else 48
    text, sound_text = seen["context"][..., :half], seen["context"][..., half:]
    extra = {"isolate_modalities": True} if isolated else {}
    with torch.inference_mode():
        made = twin(picture, sound, text, sound_text, level * 1000, sound_level * 1000,
                    sigma=level.max(1).values * 1000, audio_sigma=sound_level.max(1).values * 1000,
                    video_coords=coords, audio_coords=seen["coords"][1].float(), use_cross_timestep=False,
                    return_dict=False, **extra)
    return (rearrange(made[0], "b (f h w) c -> b c f h w", h=HEIGHT, w=WIDTH),
            rearrange(made[1], "b t (c f) -> b c t f", c=8))


def test_with_an_anchor_it_is_what_diffusers_makes(model, comfyui_version):
    """The whole network where ComfyUI reads picture and sound in its authors' order, else each by itself."""
    pytest.importorskip("diffusers.models.transformers.transformer_ltx2")
    whole = reads_before(av_model)
    assert whole == (comfyui_version != NEWEST)
    own = model if whole else load_ltx(LTX23)
    twin, seen = diffusers_twin(own, modulated=not whole), {}
    flags = {} if whole else {"a2v_cross_attn": False, "v2a_cross_attn": False}
    for given in ({}, {"sound": speech(), "mask": locked()}):
        run(anchored(own, apart=False), wrap=capture(flags, seen), **given)
        assert seen["x"][0].shape[2] == FRAMES + 1
        assert apart(seen["made"], twin_makes(twin, seen, not whole)) < 3e-5


def reads_before(module) -> bool:
    """Whether the sound reads the picture's state of before the sound's own part was added to it, as the model was
    trained."""
    source = textwrap.dedent(inspect.getsource(module.BasicAVTransformerBlock.forward))
    norm = source.index("vx_norm3") if "vx_norm3" in source else len(source)
    return norm < source.index("self.audio_to_video_attn(")


def test_which_order_this_comfyui_has(model, comfyui_version):
    """Measured: with the sound's part of the picture made large, the sound changes only in the other order."""
    def strong(executor, *args, **kwargs):
        options = args[5]

        def override(function, q, k, v, *given, **named):
            made = function(q, k, v, *given, **named)
            return made * 50 if q.shape[1] == FRAMES * TOKENS and k.shape[1] == SOUND else made

        return executor(*args[:5], {**options, "optimized_attention_override": override}, *args[6:], **kwargs)

    one_block = load_ltx({**LTX, "num_layers": 1})
    same = torch.equal(run(one_block)[1], run(one_block, wrap=strong)[1])
    assert same == reads_before(av_model) == (comfyui_version != NEWEST)
