"""Which timestep modulates which token of S2V, as ComfyUI's own function shares the entries out."""
import comfy.ldm.wan.model
import pytest
import torch
from lodestar.backbones import attach
from lodestar.backbones.wan.s2v_timesteps import columns, entries, motion_tokens
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.technique import ChunkPosition

SIZES = [(480, 832), (720, 1280), (480, 480), (224, 352), (64, 64), (400, 720), (240, 240), (1088, 1920)]


@pytest.fixture(scope="module")
def model(tiny_models, wan):
    return wan.load(tiny_models, "wan22_s2v")


def entry_of_each_token(tokens, count):
    """ComfyUI's answer, with entries that say their number."""
    return comfy.ldm.wan.model.repeat_e(torch.arange(count, dtype=torch.float32)[None, :, None],
                                        torch.empty(1, tokens, 0))[0, :, 0]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_token_gets_its_own_timestep_at_every_length(model, size):
    height, width = size[0] // 8, size[1] // 8
    frame = height * width // 4
    motion = motion_tokens(model.model.diffusion_model.frame_packer, (1, 16, 19, height, width))
    for latents in range(1, 22):
        for references in range(4):
            own, clean = columns(latents, frame, references, motion)
            noisy, total = latents * frame, (latents + references) * frame + motion
            given = entry_of_each_token(total, entries(own + clean + references))
            assert (given[:noisy] < 2 * own).all(), (latents, references)
            over = int((given[noisy:] < 2 * own).sum())
            assert over == 0 if noisy % 2 == 0 else over <= 9, (latents, references, over)
            if latents in (20, 21) and frame % 2 == 0:
                assert (own, clean) == (latents, 0)     # as ComfyUI has it


@pytest.mark.parametrize(("size", "frames", "references", "changed"), [
    ((28, 44), 5, 1, True), ((28, 44), 20, 1, False), ((30, 30), 4, 0, True), ((8, 8), 6, 2, False)])
def test_the_model_modulates_no_noisy_token_as_clean(model, wan, monkeypatch, size, frames, references, changed):
    """Every token's modulation, in every block and in the head, beside that of the last token, which is clean."""
    wrong, shared = [], []
    noisy = frames * size[0] * size[1] // 4

    def spy(e, x):
        out = repeat_e(e, x)
        clean = (out == e[:, -1:]).all(-1)[0]
        wrong.append((int(clean[:noisy].sum()), int((~clean[noisy:]).sum())))
        shared.append(e.shape[1])
        return out

    repeat_e = comfy.ldm.wan.model.repeat_e
    conditions = {"audio_embed": wan.random(1, 25, 1024, frames * 4, seed=5),
                  "reference_latent": wan.random(1, 16, references, *size, seed=6) if references else None,
                  "reference_motion": wan.random(1, 16, 19, *size, seed=7),
                  "control_video": torch.zeros(1, 16, frames, *size)}
    x = wan.random(1, 16, frames, *size, seed=1)
    monkeypatch.setattr(comfy.ldm.wan.model, "repeat_e", spy)
    techniques = (LookaheadAnchor(4),) if references else ()
    wan.apply(attach.install_techniques(model, techniques, ChunkPosition()), x, **conditions)
    assert wrong and set(wrong) == {(0, 0)}
    assert (set(shared) != {entries(frames + references)}) == changed
    wrong.clear()
    wan.apply(model, x, **conditions)
    assert (set(wrong) == {(0, 0)}) != changed      # and so does ComfyUI alone, where nothing is changed


def test_timesteps_of_each_latent_from_another_node_stay(model, wan):
    """They are that node's count."""
    from lodestar.backbones.wan.call import WanCall
    from lodestar.backbones.wan.s2v_timesteps import with_exact_timesteps
    call = WanCall.bind(None, (wan.random(1, 16, 5, 28, 44), torch.full((1, 5), 0.7)),
                        {"reference_motion": wan.random(1, 16, 19, 28, 44)})
    assert with_exact_timesteps(call) is call
