"""OmniAvatar's pieces that need no ComfyUI, against the authors' own, and its published files, good and bad."""
from pathlib import Path

import golden
import golden_omniavatar
import pytest
import torch
from lodestar.backbones.audio.families import Wav2Vec2
from lodestar.backbones.omniavatar import features
from lodestar.networks.omniavatar.audio import AudioPack, add_to_tokens, pack_frames
from lodestar.networks.omniavatar.settings import SIZES, chunk_frames, injected_blocks, speech_frames
from lodestar.networks.omniavatar.weights import check_base, read_published
from transformers import Wav2Vec2Config, Wav2Vec2Model

FIXTURES = golden.Fixtures(Path(__file__).with_name("golden") / "omniavatar")
OMNI = golden_omniavatar.OmniAvatar(FIXTURES, golden.Host())
WITHOUT_WAN = [name for name in OMNI.cases() if not name.startswith(("dit", "lora_case", "sample"))]
PATCH, PACK = "patch_embedding.weight", "audio_proj.proj.weight"


@pytest.fixture
def published():
    return dict(FIXTURES.load("lora_checkpoint.safetensors"))


@pytest.mark.parametrize("name", WITHOUT_WAN)
def test_a_golden_case(name):
    with torch.no_grad():
        result = golden.judge(name, OMNI.cases()[name]())
    assert result.passed, result.row(0)


def test_cases_that_need_comfyui_are_left_out_by_name():
    with pytest.raises(golden.LeftOut):
        OMNI.cases()["dit_chunk0"]()


# ---------------------------------------------------------------- chunks and speech

@pytest.mark.parametrize(("size", "frames"), list(zip(SIZES, (105, 105, 57), strict=True)))
def test_a_chunk_is_as_long_as_its_tokens_allow(size, frames):
    assert chunk_frames(*size) == frames
    area = size[0] * size[1]
    assert frames * area <= 30_000 * 1024 < (frames + 4) * area


def test_speech_is_padded_to_whole_chunks():
    assert [speech_frames(frames, 57) for frames in (1, 56, 57, 100, 101)] == [56, 56, 100, 100, 144]


def test_speech_comes_before_the_published_number_of_blocks():
    assert (len(injected_blocks(30)), len(injected_blocks(40))) == (14, 19)
    assert (injected_blocks(30)[0], injected_blocks(30)[-1]) == (2, 15)


def test_each_latent_s_tokens_get_their_own_sound_whatever_else_is_in_the_batch():
    rows = torch.arange(2 * 9 * 2.0).reshape(2, 9, 2)
    packed = pack_frames(rows)
    assert packed.shape == (2, 3, 8)
    assert torch.equal(packed[1, 0], rows[1, [0, 0, 0, 0]].flatten()) and \
        torch.equal(packed[1, 2], rows[1, 5:9].flatten())
    pack = AudioPack(8, 4, torch.nn)
    assert torch.equal(pack(packed)[1:], pack(packed[1:]))
    tokens, residual = torch.randn(2, 3 * 5, 4), torch.randn(2, 3, 4)
    added = add_to_tokens(tokens, residual)
    assert torch.equal(added[1, 7], tokens[1, 7] + residual[1, 1])


@pytest.mark.parametrize("segment_seconds", [2, 3])
def test_segments_of_speech_give_what_one_pass_gives(monkeypatch, segment_seconds):
    """Up to what lies beyond a segment: the random encoder's attention is all the difference there is."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                            conv_dim=[8] * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4)
    family = Wav2Vec2(Wav2Vec2Model(config).eval(), False, 0)
    prepared = features.prepare_speech(torch.randn(16_000 * 6), 150)
    cpu = torch.device("cpu")

    def first_states():     # what enters the first block, before attention
        with torch.no_grad():
            return torch.cat([piece[0] for piece in features.encode_speech(family, cpu, prepared, 150)], 1)

    whole = first_states()
    monkeypatch.setattr(features, "SEGMENT_SECONDS", segment_seconds)
    monkeypatch.setattr(features, "OVERLAP_SECONDS", 1)
    assert torch.allclose(first_states(), whole, atol=1e-5) and whole.shape == (1, 150, 32)


# ---------------------------------------------------------------- files

@pytest.mark.parametrize("prefix", ["", "module.", "model.", "base_model.model.", "diffusion_model."])
def test_a_published_file_is_read_under_any_of_its_prefixes(published, prefix):
    found = read_published({prefix + name: weight for name, weight in published.items()})
    assert sorted(found.pairs)[0] == "blocks.0.cross_attn.k" and set(found.whole) == {
        name for name in published if "lora_" not in name}


def test_every_loader_reads_the_pairs_at_half_their_size(published):
    pairs = read_published(published).ordinary_pairs()
    path = "diffusion_model.blocks.3.ffn.2"
    assert torch.equal(pairs[f"{path}.lora_up.weight"], published["blocks.3.ffn.2.lora_B.default.weight"])
    assert pairs[f"{path}.alpha"] / pairs[f"{path}.lora_down.weight"].shape[0] == 0.5


@pytest.mark.parametrize(("change", "says"), [
    (lambda weights: weights.pop(PACK), "lacks 1 weights, audio_proj.proj.weight"),
    (lambda weights: weights.pop("blocks.1.ffn.0.lora_B.default.weight"), "one half of a LoRA pair"),
    (lambda weights: weights.update(riddle=torch.ones(1)), "it holds riddle"),
    (lambda weights: weights.update({PATCH: torch.ones(48, 16, 1, 2, 2)}), "a patch embedding of 16 channels"),
    (lambda weights: [weights.pop(name) for name in list(weights) if "lora" in name], "no LoRA pairs")],
    ids=["cut short", "half a pair", "foreign", "no extra channels", "no pairs"])
def test_a_file_of_something_else_is_refused_by_what_it_holds(published, change, says):
    change(published)
    with pytest.raises(ValueError, match=says):
        read_published(published)


@pytest.mark.parametrize(("change", "says"), [
    (lambda base: base.clear(), "the base has 0 weights"),
    (lambda base: base.update({PATCH: torch.ones(48, 36, 1, 2, 2)}), "the base takes 36 channels, wanted 16"),
    (lambda base: base.update({PATCH: torch.ones(64, 16, 1, 2, 2)}), "64 wide with 6 blocks, OmniAvatar's file is 48"),
    (lambda base: [base.pop(name) for name in list(base) if name.startswith("blocks.5")], r"5 blocks.*48 wide with "
                                                                                          "speech in 2 blocks"),
    (lambda base: base.update({"blocks.2.ffn.0.weight": torch.ones(8, 48)}), "blocks.2.ffn.0 is changed from 48 to 96"),
    ], ids=["empty", "image-to-video", "other width", "other depth", "other layer"])
def test_a_base_of_another_size_is_refused_by_its_size(published, change, says):
    base = OMNI.base()
    change(base)
    with pytest.raises(ValueError, match=says):
        check_base(base, read_published(published))
