"""LongCat as a ComfyUI MODEL, through ComfyUI's own sampling, against the same network called by hand."""
import comfy.lora
import comfy.model_management
import comfy.samplers
import pytest
import rounding
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_easycache import EasyCacheNode
from golden_longcat import as_int8
from lodestar.backbones.longcat.loader import fill
from lodestar.backbones.longcat.model import Float8Operations, LongCatModelConfig
from lodestar.backbones.longcat.operations import PackedOperations
from lodestar.networks.longcat.config import AudioConfig, LongCatConfig
from lodestar.networks.longcat.lora import ordinary
from lodestar.networks.longcat.versions import AVATAR_15, VERSIONS
from safetensors.torch import load_file

SAMPLED = rounding.sampled(blocks=2, steps=3)
CPU = torch.device("cpu")
KINDS = ["BASE", "AVATAR", "AVATAR15"]
NULL = [[torch.zeros(1, 16, 4096), {}]]


@pytest.fixture(params=KINDS)
def model(request, tiny_models, longcat):
    return longcat.load(tiny_models, getattr(longcat, request.param))


@pytest.fixture
def avatar(tiny_models, longcat):
    return longcat.load(tiny_models, longcat.AVATAR15)


def audio_in(model, longcat):
    """An avatar's audio features, for the headless call."""
    return {} if model.model.diffusion_model.config.audio is None else {"audio": longcat.speech(model)}


def with_option(model, **options):
    clone = model.clone()
    clone.model_options["transformer_options"] = {**clone.model_options["transformer_options"], **options}
    return clone


# ---------------------------------------------------------------- the same outputs

@pytest.mark.parametrize("batch", [1, 2])
def test_the_velocity_is_minus_the_network(model, longcat, batch):
    x, audio = longcat.noise(batch=batch), audio_in(model, longcat)
    audio = {name: value.repeat(batch, *[1] * 5) for name, value in audio.items()}
    with torch.inference_mode():
        got = model.model.apply_model(x, torch.full((batch,), 0.7), c_crossattn=longcat.text().expand(batch, -1, -1),
                                      transformer_options={}, **audio)
    assert torch.equal(got, x - 0.7 * longcat.velocity(longcat.headless(model), x, 0.7, **audio))


def test_a_sampler_s_run_is_euler_by_hand(model, longcat):
    network, audio, other = longcat.headless(model), audio_in(model, longcat), longcat.text(seed=4)

    def guided(x, sigma):
        positive = longcat.velocity(network, x, sigma, **audio)
        negative = longcat.velocity(network, x, sigma, other, **audio)
        return negative + 2.5 * (positive - negative)

    got = longcat.sample(model, longcat.prompt(model), longcat.prompt(model, seed=4), cfg=2.5)
    torch.testing.assert_close(got, longcat.euler(model, guided), atol=SAMPLED, rtol=0)


def test_custom_sampling_gives_the_same(avatar, longcat):
    guider = comfy.samplers.CFGGuider(avatar)
    guider.set_conds(longcat.prompt(avatar), longcat.prompt(avatar, seed=4))
    guider.set_cfg(2.5)
    sigmas = comfy.samplers.calculate_sigmas(avatar.get_model_object("model_sampling"), "simple", 3)
    with torch.inference_mode():
        got = guider.sample(longcat.noise(), torch.zeros_like(longcat.noise()), comfy.samplers.sampler_object("euler"),
                            sigmas, disable_pbar=True)
    wanted = longcat.sample(avatar, longcat.prompt(avatar), longcat.prompt(avatar, seed=4), cfg=2.5)
    assert torch.equal(got, wanted)


def test_first_frames_with_a_mask_of_0_stay_and_are_clean_to_the_model(model, longcat):
    network, audio = longcat.headless(model), audio_in(model, longcat)
    latent, mask = longcat.noise(seed=8), torch.ones(1, 1, longcat.FRAMES, *longcat.SIZE)
    mask[:, :, :2] = 0
    known = model.model.process_latent_in(latent)[:, :, :2]

    def noisy_only(x, sigma):
        whole = torch.cat([known, x[:, :, 2:]], 2)
        answer = longcat.velocity(network, whole, sigma, clean=(2,), **audio)
        answer[:, :, :2] = 0
        return answer

    got = longcat.sample(model, longcat.prompt(model), latent=latent, mask=mask)
    torch.testing.assert_close(got[:, :, :2], latent[:, :, :2], atol=1e-5, rtol=0)
    torch.testing.assert_close(got[:, :, 2:], longcat.euler(model, noisy_only)[:, :, 2:], atol=SAMPLED, rtol=0)


def test_a_latent_that_is_known_whole_comes_back(avatar, longcat):
    latent = longcat.noise(seed=8)
    got = longcat.sample(avatar, longcat.prompt(avatar), latent=latent, mask=torch.zeros(1, 1, 5, *longcat.SIZE))
    torch.testing.assert_close(got, latent, atol=1e-5, rtol=0)


@pytest.mark.parametrize("known", [0, 2])
def test_reference_latents_stand_in_front_at_index_10(avatar, longcat, known):
    """As upstream: each sees itself alone and has timestep 0; two of them are two spans."""
    network, pictures = longcat.headless(avatar), [longcat.noise(1, seed=9), longcat.noise(1, seed=10)[:, :, 0]]
    clean = avatar.model.process_latent_in(torch.cat([pictures[0], pictures[1][:, :, None]], 2))
    latent = longcat.noise(seed=8)
    mask = torch.ones(1, 1, longcat.FRAMES, *longcat.SIZE)
    mask[:, :, :known] = 0
    context = avatar.model.process_latent_in(latent)[:, :, :known]

    def predict(x, sigma):
        whole = torch.cat([clean, context, x[:, :, known:]], 2)
        answer = longcat.velocity(network, whole, sigma, clean=(1, 1, known) if known else (1, 1),
                                  times=(10, 10, *range(longcat.FRAMES)), audio=longcat.speech(avatar))[:, :, 2:]
        answer[:, :, :known] = 0
        return answer

    got = longcat.sample(avatar, longcat.prompt(avatar, reference_latents=pictures), latent=latent, mask=mask)
    torch.testing.assert_close(got[:, :, known:], longcat.euler(avatar, predict)[:, :, known:], atol=SAMPLED, rtol=0)


def test_two_speakers_and_their_masks_reach_the_network(avatar, longcat):
    streams = torch.cat([longcat.speech(avatar), longcat.speech(avatar, seed=6)], 1)
    masks = torch.zeros(1, 3, 64, 64)
    masks[:, 0, :, :32], masks[:, 1, :, 32:] = 1, 1
    latent, mask = longcat.noise(seed=8), torch.ones(1, 1, longcat.FRAMES, *longcat.SIZE)
    mask[:, :, :1] = 0
    network, known = longcat.headless(avatar), avatar.model.process_latent_in(latent)[:, :, :1]

    def predict(x, sigma):
        whole = torch.cat([known, x[:, :, 1:]], 2)
        return torch.cat([torch.zeros_like(known), longcat.velocity(network, whole, sigma, clean=(1,), audio=streams,
                                                                    speaker_masks=masks)[:, :, 1:]], 2)

    said = longcat.prompt(avatar, audio_windows=streams, speaker_masks=masks)
    got = longcat.sample(avatar, said, latent=latent, mask=mask)
    torch.testing.assert_close(got[:, :, 1:], longcat.euler(avatar, predict)[:, :, 1:], atol=SAMPLED, rtol=0)


def test_a_person_whose_mask_covers_no_token_is_refused(avatar, longcat):
    streams, masks = torch.cat([longcat.speech(avatar)] * 2, 1), torch.ones(1, 3, 64, 64)
    masks[:, 1] = 0
    with pytest.raises(ValueError, match="mask of speaker 2 is too small"):
        longcat.sample(avatar, longcat.prompt(avatar, audio_windows=streams, speaker_masks=masks))


# ---------------------------------------------------------------- conditions

def test_an_avatar_without_speech_gets_unconditional_audio(avatar, longcat):
    zeros = torch.zeros_like(longcat.speech(avatar))
    silent = longcat.sample(avatar, [[longcat.text(), {}]])
    assert torch.equal(silent, longcat.sample(avatar, longcat.prompt(avatar, audio_windows=zeros)))
    assert not torch.equal(silent, longcat.sample(avatar, longcat.prompt(avatar)))


def test_text_counts_as_512_rows(avatar, longcat):
    rows = longcat.random(1, 600, 4096, seed=3)
    record = longcat.sample(avatar, [[rows, {}]])
    assert torch.equal(record, longcat.sample(avatar, [[rows[:, :512], {}]]))
    short = longcat.sample(avatar, [[longcat.text(20), {}]])
    assert torch.equal(short, longcat.sample(avatar, [[torch.nn.functional.pad(longcat.text(20), (0, 0, 0, 492)), {}]]))
    assert torch.equal(longcat.sample(avatar, NULL), longcat.sample(avatar, [[torch.zeros(1, 512, 4096), {}]]))


@pytest.mark.parametrize(("conditioning", "says"), [
    ([[torch.zeros(1, 77, 768), {}]], "text of width 768, wanted 4096"),
    ([[torch.zeros(1, 9, 4096), {"reference_latents": [torch.zeros(1, 16, 1, 8, 6)]}]], r"\(1, 16, frames, 8, 8\)"),
    ([[torch.zeros(1, 9, 4096), {"reference_latents": [torch.zeros(1, 48, 1, 8, 8)]}]], "Wan 2.1 VAE"),
    ([[torch.zeros(1, 9, 4096), {"audio_windows": torch.zeros(1, 1, 17, 5, 12, 64)}]], "5 x 768, wanted 5 x 320")])
def test_what_belongs_to_another_model_is_refused(avatar, longcat, conditioning, says):
    with pytest.raises(ValueError, match=says):
        longcat.sample(avatar, conditioning)


def test_speech_for_the_base_model_is_refused(tiny_models, longcat):
    model = longcat.load(tiny_models, longcat.BASE)
    with pytest.raises(ValueError, match="base LongCat-Video, which has no audio conditioning"):
        longcat.sample(model, [[longcat.text(), {"audio_windows": torch.zeros(1, 1, 17, 5, 5, 64)}]])


# ---------------------------------------------------------------- other packs' hooks

def test_wrappers_and_patches_are_called(model, longcat):
    seen = []

    def note(name, answer=lambda values: values):
        return lambda values, *extra: (seen.append(name), answer(values, *extra))[1]

    def wrapper(executor, *args, **kwargs):
        seen.append(("wrapper", len(args), isinstance(args[-1], dict), set(kwargs) <= {"audio"}))
        return executor(*args, **kwargs)

    def attention(function, *args, **kwargs):
        seen.append("attention")
        return function(*args, **kwargs)

    hooked = with_option(model, optimized_attention_override=attention)
    hooked.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", wrapper)
    hooked.set_model_attn1_patch(note("attn1", lambda values: values["x"]))
    hooked.set_model_attn2_patch(note("attn2", lambda values: values["x"]))
    hooked.set_model_double_block_patch(note("after"))
    hooked.set_model_patch_replace(note("replaced", lambda values, extra: extra["original_block"](values)), "dit",
                                   "double_block", 1)
    assert torch.equal(longcat.sample(hooked, longcat.prompt(model), steps=1),
                       longcat.sample(model, longcat.prompt(model), steps=1))
    per_block = 3 if audio_in(model, longcat) else 2
    assert seen[0] == ("wrapper", 4, True, True)
    assert [seen.count(name) for name in ("attn1", "attn2", "after", "replaced")] == [2, 2, 2, 1]
    assert seen.count("attention") == 2 * per_block


def test_easycache_skips_steps(avatar, longcat):
    calls = []
    counted = avatar.clone()
    counted.set_model_double_block_patch(lambda values: (calls.append(values["block_index"]), values)[1])
    cached = EasyCacheNode.execute(counted, 0.5, 0.1, 0.95, False).result[0]
    got = longcat.sample(cached, longcat.prompt(avatar), longcat.prompt(avatar, seed=4), cfg=2.0, steps=10)
    assert 0 < calls.count(0) < 10 and torch.isfinite(got).all() and got.shape == longcat.noise().shape


def test_two_models_do_not_disturb_each_other(tiny_models, longcat):
    models = [longcat.load(tiny_models, getattr(longcat, kind)) for kind in KINDS]
    alone = [longcat.sample(model, longcat.prompt(model)) for model in models]
    assert all(torch.equal(longcat.sample(model, longcat.prompt(model)), before)
               for model, before in zip(reversed(models), reversed(alone), strict=True))


# ---------------------------------------------------------------- weights of every kind

def test_int8_is_the_dequantised_network(tiny_models, longcat):
    model = longcat.load(tiny_models, longcat.INT8)
    network, x = longcat.headless(model), longcat.noise()
    state = model.model.diffusion_model.state_dict()
    assert state["blocks.0.attn.qkv.weight"].dtype == torch.int8
    assert state["final_layer.linear.weight"].dtype == torch.float32
    with torch.inference_mode():
        got = model.model.diffusion_model(x, torch.tensor([700.0]), longcat.text(), audio=longcat.speech(model))
    torch.testing.assert_close(got, longcat.velocity(network, x, 0.7, audio=longcat.speech(model)), atol=1e-5, rtol=0)
    assert longcat.sample(model, longcat.prompt(model)).isfinite().all()


@pytest.mark.parametrize(("weight_dtype", "dtype"), [
    ("fp8_e4m3fn", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2), ("fp8_e4m3fn_fast", torch.float8_e4m3fn)])
def test_fp8_is_the_network_of_the_rounded_weights(tiny_models, longcat, weight_dtype, dtype):
    model, whole = (longcat.load(tiny_models, longcat.AVATAR15, kind) for kind in (weight_dtype, "default"))
    state = model.model.diffusion_model.state_dict()
    kinds = {name: tensor.dtype for name, tensor in state.items()}
    assert kinds["blocks.1.audio_cross_attn.kv_linear.weight"] == kinds["blocks.0.ffn.w2.weight"] == dtype
    kept = ("blocks.0.adaLN_modulation.1.weight", "blocks.0.attn.qkv.bias", "blocks.0.attn.q_norm.weight",
            "t_embedder.mlp.0.weight", "final_layer.linear.weight", "audio_proj.proj1.weight")
    assert {kinds[name] for name in kept} == {torch.float32}
    x, audio = longcat.noise(), longcat.speech(model)
    with torch.inference_mode():
        got, exact = (one.model.diffusion_model(x, torch.tensor([700.0]), longcat.text(), audio=audio)
                      for one in (model, whole))
    assert torch.equal(got, longcat.velocity(longcat.headless(model), x, 0.7, audio=audio))
    assert 1e-3 < ((got - exact).norm() / exact.norm()) < 0.2


def test_fp8_multiplication_leaves_float32_alone(longcat):
    layer = Float8Operations.Linear(16, 16, dtype=torch.float8_e4m3fn).requires_grad_(False)
    layer.weight.copy_(longcat.random(16, 16))
    layer.bias.zero_()
    x = 1000 * longcat.random(2, 3, 16)     # beyond what float 8 holds
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight.float()))
    half = longcat.random(2, 3, 16).bfloat16()
    exact = torch.nn.functional.linear(half.float(), layer.weight.float())
    assert (layer(half.clone()).float() - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize(("flag", "stored", "error"), [
    ("bf16_unet", torch.bfloat16, 0.03), ("fp8_e4m3fn_unet", torch.float8_e4m3fn, 0.2),
    ("fp32_unet", torch.float32, 0)])
def test_the_server_s_flags_hold(tiny_models, longcat, monkeypatch, flag, stored, error):
    plain = longcat.load(tiny_models, longcat.BASE)
    monkeypatch.setattr(comfy.cli_args.args, flag, True)
    model = longcat.load(tiny_models, longcat.BASE)
    assert model.model.diffusion_model.blocks[0].attn.qkv.weight.dtype == model.model.get_dtype() == stored
    got, exact = (longcat.sample(one, longcat.prompt(one)) for one in (model, plain))
    assert (got - exact).norm() / exact.norm() <= error


@pytest.mark.parametrize(("stored", "error"), [(torch.bfloat16, 0.02), (torch.float8_e4m3fn, 0.1)])
def test_on_a_card_that_computes_in_bf16_the_float32_islands_hold(model, longcat, stored, error):
    """As the loader makes it there. ComfyUI itself would pick layers that do not cast where the two dtypes agree."""
    record = LongCatModelConfig(model.model.diffusion_model.config, model.model.version)
    record.set_inference_dtype(stored, None if stored == torch.bfloat16 else torch.bfloat16)
    card = record.get_model({}, device=torch.device("meta"))
    fill(card.diffusion_model, dict(model.model.diffusion_model.state_dict()), stored, torch.bfloat16)
    x, audio = longcat.noise(), audio_in(model, longcat)
    with torch.inference_mode():
        got = card.apply_model(x, torch.tensor([0.7]), c_crossattn=longcat.text(), transformer_options={}, **audio)
    rounded = torch.tensor(700.0).bfloat16().item() / 1000
    wanted = longcat.velocity(longcat.headless(model), x, rounded, **audio)
    assert ((x - got) / 0.7 - wanted).norm() / wanted.norm() < error


@pytest.mark.parametrize("kind", [*KINDS, "INT8"])
def test_low_vram_gives_the_same(tiny_models, longcat, kind):
    whole, small = (longcat.load(tiny_models, getattr(longcat, kind)) for _ in range(2))
    small.unpatch_model(CPU)
    small.patch_model(CPU, lowvram_model_memory=int(0.9 * small.model_size()))
    assert 0 < small.loaded_size() < small.model_size() and small.model.model_lowvram
    x, audio = longcat.noise(), audio_in(whole, longcat)
    with torch.inference_mode():
        got, wanted = (one.model.diffusion_model(x, torch.tensor([700.0]), longcat.text(), **audio)
                       for one in (small, whole))
    assert torch.equal(got, wanted)


def test_core_s_lora_loader_finds_every_key(tiny_models, longcat):
    model = longcat.load(tiny_models, longcat.BASE)
    pairs = ordinary(load_file(tiny_models / "models" / "loras" / f"{longcat.BASE}_lora.safetensors"))
    patches = comfy.lora.load_lora(pairs, comfy.lora.model_lora_keys_unet(model.model, {}))
    clone = model.clone()
    assert len(clone.add_patches(patches)) == len(patches) == len(pairs) / 3 == 14
    before, after = (longcat.sample(one, longcat.prompt(model)) for one in (model, clone))
    assert 0.01 < (after - before).norm() / before.norm() < 1.5


# ---------------------------------------------------------------- the official sizes

@pytest.mark.parametrize(("config", "version", "keys", "size"), [
    (LongCatConfig(), 0, 1022, 13_581_071_424 * 2),
    (LongCatConfig(audio=AudioConfig(12 * 768)), 1, 1608, 15_871_660_096 * 2),
    (LongCatConfig(audio=AudioConfig(5 * 1280)), 2, 1608, 31_705_833_600)])
def test_official_sizes(config, version, keys, size):
    record = LongCatModelConfig(config, VERSIONS[version])
    record.set_inference_dtype(torch.bfloat16, None)
    model = record.get_model({}, device=torch.device("meta"))
    state = model.diffusion_model.state_dict()
    assert len(state) == keys and sum(tensor.nbytes for tensor in state.values()) == size
    assert model.model_sampling.shift == (12, 12, 7)[version]
    assert model.model_sampling.timestep(torch.tensor(0.5)) == 500


def test_the_official_int8_size():
    record = LongCatModelConfig(LongCatConfig(audio=AudioConfig(5 * 1280)), AVATAR_15, PackedOperations)
    record.set_inference_dtype(torch.bfloat16, None)
    network = record.get_model({}, device=torch.device("meta")).diffusion_model
    fill(network, as_int8(network.state_dict()), torch.bfloat16, torch.bfloat16)
    state = network.state_dict()
    assert (len(state), sum(tensor.nbytes for tensor in state.values())) == (2241, 15_880_145_024)


def test_the_memory_estimate_counts_reference_frames(avatar):
    base, latents = avatar.model, [torch.zeros(1, 16, 1, 60, 104)] * 2
    shapes = {name: [shape] for name, shape in base.extra_conds_shapes(reference_latents=latents).items()}
    assert base.extra_conds_shapes() == {}
    ratio = base.memory_required([1, 16, 20, 60, 104], shapes) / base.memory_required([1, 16, 20, 60, 104])
    assert ratio == pytest.approx(22 / 20)
