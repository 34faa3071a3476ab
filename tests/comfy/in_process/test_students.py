"""Causal students from their published files: the network is what core makes of the same weights, whatever the file;
files that are something else; what a stream gives them."""
import logging
from fractions import Fraction

import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import tiny_students
import torch
from draws import random
from families import FAMILIES, LATENTS, FamilyChunk, load_by_core, load_family, load_omni
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.omniavatar import student as omniavatar
from lodestar.backbones.omniavatar.model import OmniAvatarNetwork
from lodestar.backbones.student_files import StudentFiles
from lodestar.backbones.wan import live_avatar
from lodestar.backbones.wan import student as wan
from lodestar.host.rolling_sampler import RollingSampler, Stream, StreamSampler
from lodestar.nodes.load_student import LOADERS, file_path
from lodestar.techniques.flow_schedules import student_levels
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.rolling_window import Rolling
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.technique import ChunkPosition
from lodestar.techniques.temporal_anchor import TemporalAnchor
from lodestar.techniques.timeline import Timeline
from safetensors.torch import load_file, save_file

T2V, LORA = "lodestar_tiny_wan21_t2v.safetensors", "blocks.0.ffn.0"


@pytest.fixture(scope="module")
def folder(tiny_models):
    return tiny_models / "models" / "diffusion_models"


def load(file, chosen="ema", base=None):
    files = StudentFiles(file, chosen, base)
    return LOADERS[files.kind()](files)


def forward(model, channels=16, **extra):
    """One call of the network, at a level of its own for each of 3 latents."""
    comfy.model_management.load_models_gpu([model])
    with torch.inference_mode():
        return model.model.diffusion_model(random(1, channels, 3, 8, 8, seed=1), torch.tensor([[0.0, 500.0, 900.0]]),
                                           random(1, 12, 4096, seed=2), transformer_options={}, **extra)


def whole(state):
    """A network's own weights as a file has them."""
    return {f"model.{name}": weight for name, weight in state.items()}


# ---------------------------------------------------------------- what is loaded

@pytest.mark.parametrize(("chosen", "seed"), [("ema", "ema "), ("plain", "")])
def test_a_wan_student_is_core_s_own_network(folder, caplog, chosen, seed):
    weights = tiny_students.drawn(tiny_students.wan(16, 16), seed)
    core = comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options={"dtype": torch.float32})
    with caplog.at_level(logging.INFO):
        student = load(folder / tiny_students.SELF_FORCING, chosen)
    assert torch.equal(forward(student), forward(core))
    assert isinstance(backbones.find(student), wan.CausalWanBackbone) and student.model.model_sampling.shift == 5
    assert "left out: generator" in caplog.text and "critic (3 entries), step" in caplog.text


def test_avatarforcing_is_omniavatar_s_network_with_its_lora_at_half(folder, tiny_models, caplog):
    """The tiny OmniAvatar has the same base, LoRA and audio layers, in files of its own."""
    with caplog.at_level(logging.INFO):
        student = load(folder / tiny_students.AVATAR_FORCING)
    audio = {"audio": random(1, 4 * 14 * 64, 3, 1, 1, seed=3)}
    made = forward(student, 33, **audio)
    assert torch.equal(made, forward(load_omni(tiny_models / "models"), 33, **audio))
    assert isinstance(backbones.find(student), omniavatar.AvatarForcingBackbone)
    assert "LoRA of 60 layers at 0.5 of alpha by rank" in caplog.text


def test_avatarforcing_in_two_files_is_the_same(folder):
    """As OmniAvatar is published: what is added to Wan 2.1 T2V, and that."""
    one, two = load(folder / tiny_students.AVATAR_FORCING), omniavatar.load_student(StudentFiles(
        folder / "lodestar_tiny_omniavatar.pt", "ema", folder / "lodestar_tiny_omniavatar_wan21_t2v.safetensors"))
    assert torch.equal(forward(one, 33), forward(two, 33))


def test_a_student_s_file_as_safetensors_or_in_shards_loads_alike(folder, tmp_path):
    weights = whole(tiny_students.drawn(tiny_students.wan(16, 16)))
    names = sorted(weights)
    save_file(weights, tmp_path / "one.safetensors")
    for index in (1, 2, 3):
        save_file({name: weights[name] for name in names[index - 1::3]},
                  tmp_path / f"s-0000{index}-of-00003.safetensors")
    expected = forward(load(folder / tiny_students.SELF_FORCING, "plain"))
    assert torch.equal(forward(load(tmp_path / "one.safetensors")), expected)
    assert torch.equal(forward(load(tmp_path / "s-00002-of-00003.safetensors")), expected)
    (tmp_path / "s-00003-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="is one of 3 shards, of which 1 are not beside it, s-00003-of-00003"):
        load(tmp_path / "s-00001-of-00003.safetensors")


def test_core_s_own_mark_of_a_causal_file_makes_no_other_network(folder, tmp_path):
    """ComfyUI would load it as its CausalWanModel, which calls no patch."""
    weights = tiny_students.drawn(tiny_students.wan(16, 16))
    save_file(weights, tmp_path / "ar.safetensors", metadata={"config": '{"transformer": {"causal_ar": true}}'})
    made = load(tmp_path / "ar.safetensors")
    assert isinstance(backbones.find(made), wan.CausalWanBackbone)
    assert torch.equal(forward(made), forward(load(folder / tiny_students.SELF_FORCING, "plain")))


@pytest.mark.parametrize(("alpha", "scale"), [(None, 0.5), (8.0, 2.0)])
def test_liveavatar_s_lora_is_at_its_own_scale(folder, tiny_models, tmp_path, alpha, scale):
    base = folder / "lodestar_tiny_wan22_s2v.safetensors"
    pairs = tiny_students.live_avatar()
    given = {} if alpha is None else {f"{LORA}.alpha": torch.tensor(alpha)}
    save_file({**pairs, **given}, tmp_path / "live.safetensors")
    made = load(tmp_path / "live.safetensors", base=base)
    comfy.model_management.load_models_gpu([made])
    changed = load_file(base)[f"{LORA}.weight"] + scale * (pairs[f"{LORA}.lora_B.default.weight"]
                                                           @ pairs[f"{LORA}.lora_A.default.weight"])
    assert torch.allclose(made.model.diffusion_model.state_dict()[f"{LORA}.weight"], changed, atol=1e-6)
    assert isinstance(backbones.find(made), live_avatar.LiveAvatarBackbone)
    with pytest.raises(ValueError, match="one cache of keys per level"):
        backbones.find(made).check_rolling()
    assert backbones.find(load_by_core("wan22_s2v", tiny_models / "models")).check_rolling() is None


def test_float_8_weights_take_a_student_s_lora(folder):
    files = StudentFiles(folder / tiny_students.AVATAR_FORCING)
    coarse, fine = (forward(omniavatar.load_student(files, dtype), 33) for dtype in ("fp8_e4m3fn", "default"))
    assert 0 < (coarse - fine).norm() / fine.norm() < 0.3


# ---------------------------------------------------------------- what a stream gives it

def test_each_latent_of_a_stream_has_the_sound_of_its_own_frames(folder):
    """Against the published rule, frame by frame: the picture's row stands for four, latent i has rows 4i-3 to 4i."""
    backbone = backbones.find(load(folder / tiny_students.AVATAR_FORCING))
    layers, width = backbone.audio_shape
    stream = torch.arange(60.0)[:, None] + torch.arange(layers)[:, None, None] * 1000 + torch.zeros(layers, 60, width)
    speech = Speech((tuple(layer[None] for layer in stream),), 25.0)

    def naive(latent):
        frames = [0] * 4 if latent == 0 else [4 * latent - 3 + step for step in range(4)]
        order = [layers - 1, *range(layers)]
        return torch.cat([stream[layer, frame] for frame in frames for layer in order])

    for first, count in ((0, 5), (1, 4), (6, 3)):
        made = backbone.audio_for(speech, Timeline(Fraction(25)), first, count)
        assert torch.equal(made[0, :, :, 0, 0].T, torch.stack([naive(first + latent) for latent in range(count)]))


def test_liveavatar_s_reference_stands_where_a_style_anchor_puts_it(tiny_models):
    """r latents from the chunk's first, as its authors have it: so far ahead of the last as Lookahead Anchor says."""
    chunk = FamilyChunk(FAMILIES["liveavatar"], load_family("liveavatar", tiny_models / "models"))
    made = chunk.sample(StyleAnchor(12.0), chunk=0, steps=1)
    assert torch.equal(made, chunk.sample(LookaheadAnchor(12.0 - LATENTS + 1), chunk=0, steps=1))
    assert not torch.equal(made, chunk.sample(StyleAnchor(30.0), chunk=0, steps=1))


def test_the_picture_of_avatarforcing_s_stream_is_known_clean_and_silent(folder, monkeypatch):
    """A latent at level 0, without sound, that a channel calls known, as the window's latents are not."""
    chunk = FamilyChunk(FAMILIES["avatarforcing"], load(folder / tiny_students.AVATAR_FORCING))
    comfy.model_management.load_models_gpu([chunk.model])
    network, rows, frames = chunk.model.model.diffusion_model, [], []
    forward_orig = OmniAvatarNetwork.forward_orig

    def record(self, x, t, *args, **kwargs):
        levels = t if t.ndim == 2 else t[:, None].expand(-1, x.shape[2])
        frames.extend(zip(x[0].unbind(1), levels[0], rows.pop().abs().amax(0), strict=True))    # of both branches
        return forward_orig(self, x, t, *args, **kwargs)

    network.audio_proj.register_forward_pre_hook(lambda module, given: rows.append(given[0]))
    monkeypatch.setattr(OmniAvatarNetwork, "forward_orig", record)
    picture, inputs = chunk.picture(5), chunk.inputs(chunk=0, latents=4)
    guider = chunk.guider_at(chunk.guider(chunk.model), (StyleAnchor(latents=picture),), inputs, chunk=0)
    with torch.inference_mode():
        guider.sample(random(*inputs.samples.shape, seed=1), torch.zeros_like(inputs.samples),
                      RollingSampler(2, 1, "fresh"), student_levels("even", 2, 1, 5.0), disable_pbar=True, seed=1)
    shown = chunk.model.model.process_latent_in(picture)[0, :, 0]
    seen = [(torch.allclose(frame[:16], shown), tuple(frame[32].unique().tolist()), level.item(), bool(row.any()))
            for frame, level, row in frames]
    assert {tuple(entry) for is_picture, *entry in seen if is_picture} == {((0.0,), 0.0, False)}
    assert all(known == (1.0,) for is_picture, known, *_ in seen if not is_picture)
    assert any(sound for *_, sound in seen)


@pytest.mark.parametrize(("student", "size", "passes", "given"), [
    ("Self-Forcing", 3, 4, 0), ("Causal-Forcing 2", 1, 2, 0), ("Causal-Forcing 4", 3, 4, 1)])
def test_a_stream_of_finished_blocks_is_core_s_own_autoregressive_one(folder, tmp_path, student, size, passes, given):
    """ComfyUI's CausalWanModel and sampler keep every key of a clip, rotated; here the last latents' stay unrotated.
    `given`: a picture opens the clip, which is a Style Anchor's here."""
    pytest.importorskip("comfy.ldm.wan.ar_model", reason="this ComfyUI has no causal Wan")
    save_file(tiny_students.drawn(tiny_students.wan(16, 16)), tmp_path / "ar.safetensors",
              metadata={"config": '{"transformer": {"causal_ar": true}}'})
    core = comfy.sd.load_diffusion_model(str(tmp_path / "ar.safetensors"), model_options={"dtype": torch.float32})
    noise, sigmas = random(1, 16, 9 + given, 8, 8, seed=1), student_levels(student, 1, passes, 5.0)
    picture = random(1, 16, 1, 8, 8, seed=5)

    def noise_of(block, level):
        if level == 0:
            return noise[:, :, given + block * size:given + (block + 1) * size]
        torch.manual_seed(7 + block * 1000 + level - 1)
        return torch.randn(1, 16, size, 8, 8)

    def sample(model, sampler, noise, *techniques):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds([[random(1, 12, 4096, seed=2), {}]], [[random(1, 12, 4096, seed=2), {}]])
        guider.set_cfg(1.0)
        if techniques:
            guider = attach.guider_at(guider, techniques, ChunkPosition(), {}, {})
        with torch.inference_mode():
            return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=7)

    if given:
        core.model_options["transformer_options"]["ar_config"] = {"initial_latent": picture}
    wanted = sample(core, comfy.samplers.ksampler("ar_video", {"num_frame_per_block": size}), noise)[:, :, given:]
    stream = Stream(Rolling(tuple(sigmas.tolist()), size, passes, "fresh"), 9 // size, noise_of, 1)
    anchors = TemporalAnchor(9), *((StyleAnchor(latents=picture),) if given else ())
    ours = load(folder / tiny_students.SELF_FORCING, "plain")
    found = sample(ours, StreamSampler(stream), noise[:, :, given:], *anchors)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


# ---------------------------------------------------------------- files of something else

def mutated(weights, change):
    changed = dict(weights)
    change(changed)
    return changed


@pytest.mark.parametrize(("change", "says"), [
    (lambda held: held.pop("model.blocks.1.ffn.2.bias"), "lacks 1 of .* weights: blocks.1.ffn.2.bias. It is"),
    (lambda held: held.pop("model.head.modulation"), "would know it by, such as head.modulation"),
    (lambda held: held.update({"model.patch_embedding.weight": torch.ones(128, 36, 1, 2, 2)}),
     "a patch embedding of 36 channels, wanted 16"),
    (lambda held: held.pop("model.patch_embedding.weight"), "has no patch embedding, wanted 16"),
    (lambda held: held.update({"model.blocks.0.self_attn.k.weight": torch.ones(64, 128)}),
     r"has blocks.0.self_attn.k.weight of \(64, 128\), wanted \(128, 128\)"),
    (lambda held: held.update({"model.vace_blocks.0.before_proj.bias": torch.ones(1)}), "holds model.vace_blocks.0")],
    ids=["a weight less", "no head", "image-to-video", "no patches", "another width", "VACE"])
def test_a_wan_student_that_is_not_whole_is_refused(tmp_path, change, says):
    save_file(mutated(whole(tiny_students.drawn(tiny_students.wan(16, 16))), change), tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=f"student_name: bad.safetensors .*{says}"):
        load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(("change", "says"), [
    (lambda held: held.pop("model.audio_proj.norm_out.bias"), "lacks 1 weights, audio_proj.norm_out.bias"),
    (lambda held: held.pop("model.audio_cond_projs.1.bias"), "lacks 1 of .* weights: audio_cond_projs.1.bias"),
    (lambda held: held.update({"model.patch_embedding.weight": torch.ones(128, 16, 1, 2, 2)}), "embedding of 16 chann"),
    (lambda held: held.update({"model.blocks.0.self_attn.q.lora_B.default.weight": torch.ones(128, 5)}),
     "the LoRA changes blocks.0.self_attn.q from 128 to 128")],
    ids=["no norm", "a block less", "no extra channels", "another rank"])
def test_an_avatarforcing_that_is_not_whole_is_refused(tmp_path, change, says):
    torch.save({"generator": mutated(tiny_students.avatar_forcing()["generator"], change)}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=f"student_name.*{says}"):
        load(tmp_path / "bad.pt")


def test_a_lora_without_its_base_or_beside_another_is_refused(folder, tiny_models):
    lora = tiny_models / "models" / "loras" / tiny_students.LIVE_AVATAR
    with pytest.raises(ValueError, match="base_name: none came, .*Choose Wan 2.2 S2V for LiveAvatar"):
        load(lora)
    with pytest.raises(ValueError, match="base_name: lodestar_tiny_longcat_video.safetensors has no patch embedding"):
        load(lora, base=folder / "lodestar_tiny_longcat_video.safetensors")
    with pytest.raises(ValueError, match="base_name: lodestar_tiny_wan21_i2v.safetensors has a patch embedding of 36"):
        load(lora, base=folder / "lodestar_tiny_wan21_i2v.safetensors")


def test_code_truncation_and_foreign_files_are_refused_in_one_line(folder, tmp_path):
    class Code:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"generator": {"model.patch_embedding.weight": Code()}}, tmp_path / "code.pt")
    data = (folder / tiny_students.SELF_FORCING).read_bytes()
    (tmp_path / "half.pt").write_bytes(data[:len(data) // 2])
    (tmp_path / "text.pt").write_text("<html>not found</html>", encoding="utf-8")
    cut = (folder / T2V).read_bytes()
    (tmp_path / "half.safetensors").write_bytes(cut[:len(cut) // 2])
    for name, says in (("code.pt", "which is code, and Lodestar runs no code"), ("half.pt", "it is cut short"),
                       ("text.pt", ""), ("half.safetensors", "it is cut short")):
        with pytest.raises(ValueError, match=f"student_name: {name} cannot be read: .*{says}") as refusal:
            load(tmp_path / name)
        assert "weights_only" not in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="student_name: .* is no student that Lodestar knows: it holds"):
        load(folder / "lodestar_tiny_longcat_video.safetensors")


def test_the_node_names_a_file_that_is_gone():
    with pytest.raises(ValueError, match="student_name: gone.pt is neither in models/diffusion_models nor in"):
        file_path("gone.pt")
