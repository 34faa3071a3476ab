"""LongCat's network against the authors' outputs (tests/golden/longcat), and what holds for any weights and size."""
import subprocess
import sys
from pathlib import Path

import golden
import pytest
import torch
from golden_longcat import as_int8
from lodestar.networks.longcat.config import AudioConfig, LongCatConfig
from lodestar.networks.longcat.lora import is_official, ordinary
from lodestar.networks.longcat.network import LongCat
from lodestar.networks.packed import PackedLayers, quantize_int8, state_of
from lodestar.techniques.kv_cache import standing
from torch.utils.flop_counter import FlopCounterMode

FOLDER = Path(__file__).with_name("golden") / "longcat"
FIXTURES = {path.parent.name: golden.Fixtures(path.parent) for path in sorted(FOLDER.rglob("cases.json"))}
AVATAR_10, AVATAR_15 = AudioConfig(12 * 768), AudioConfig(5 * 1280)
SMALL = LongCatConfig(hidden=64, depth=2, heads=2, ffn=256, caption=24, adaln=20,
                      audio=AudioConfig(12, intermediate=16, output=24, tokens=3))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return LongCat(SMALL, torch.nn, golden.plain_attention).eval().requires_grad_(False)


def inputs(batch: int = 1, frames: int = 8, speakers: int = 1) -> dict:
    """A continuation: one reference, two context frames, the rest noise."""
    generator = torch.Generator().manual_seed(frames)

    def draw(*shape):
        return torch.randn(batch, *shape, generator=generator)

    timestep = torch.full((batch, frames), 700.0)
    timestep[:, :3] = 0
    return {"x": draw(16, frames, 4, 6), "timestep": timestep, "text": draw(7, 24), "clean": (1, 2),
            "times": (9.5, *range(frames - 1)), "visibility": {(4, 0): 0.0, (5, 0): 0.5},
            "audio": draw(speakers, 4 * (frames - 2) + 1, 5, 3, 4)}


# ---------------------------------------------------------------- the authors' outputs

@pytest.mark.parametrize(("folder", "name"), [(folder, name) for folder, found in FIXTURES.items()
                                              for name in found.cases])
def test_a_golden_case(folder, name):
    fixtures = FIXTURES[folder]
    with torch.no_grad():
        result = golden.compare(name, fixtures, golden.runner_of(fixtures, golden.Host()))
    assert result.passed, result.row(0)


def test_the_subset_is_small_enough_for_the_pack():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 6_000_000


def test_a_changed_number_and_an_unknown_folder_fail(tmp_path):
    for name in ("rope", "riddle"):
        (tmp_path / name).mkdir()
        for path in (FOLDER / "rope").iterdir():
            text = path.read_bytes().replace(b'"dim": 256', b'"dim": 254') if path.suffix == ".json" else \
                path.read_bytes()
            (tmp_path / name / path.name).write_bytes(text)
    ran = subprocess.run([sys.executable, golden.__file__, str(tmp_path)], capture_output=True, text=True)
    cases = len(FIXTURES["rope"].cases)
    assert ran.returncode == 1 and f"{cases - 1} passed, {cases + 1} failed" in ran.stdout
    assert "no runner knows this folder" in ran.stdout and "shape (6, 254), wanted (6, 256)" in ran.stdout


# ---------------------------------------------------------------- equivalences

def test_cached_and_uncached_agree(small):
    call = inputs()
    whole = small(**call)[:, :, 3:]
    call["x"], clean = call["x"][:, :, 3:], call["x"][:, :, :3]
    call["timestep"] = call["timestep"][:, 3:]
    caches = small.make_caches(clean, call.pop("clean"))
    call["cache"], call["times"] = standing(caches, call["times"]), call["times"][3:]
    assert (small(**call) - whole).abs().max() < 1e-5
    assert sum(cache.bytes for cache in caches) == SMALL.depth * 2 * 3 * 6 * SMALL.hidden * 4


def test_what_clean_frames_offer_depends_on_nothing_else(small):
    call = inputs()
    changed = {**call, "text": -call["text"], "audio": -call["audio"], "timestep": call["timestep"] / 2,
               "x": torch.cat([call["x"][:, :, :3], -call["x"][:, :, 3:]], 2)}
    assert torch.equal(small(**call)[:, :, :3], small(**changed)[:, :, :3])
    moved = small.make_caches(call["x"][:, :, :3], call["clean"], times=(-4, 0, 1))
    for cache, other in zip(moved, small.make_caches(call["x"][:, :, :3], call["clean"]), strict=True):
        assert torch.equal(cache.places, other.places)
        assert all((one - two).abs().max() < 1e-5 for pair, pair_of in zip(cache.blocks, other.blocks, strict=True)
                   for one, two in zip(pair, pair_of, strict=True))


@pytest.mark.parametrize("speakers", [1, 2])
def test_a_batch_of_two_is_two_single_runs(small, speakers):
    call = inputs(batch=2, speakers=speakers)
    masks = torch.zeros(2, 3, 32, 48)
    masks[:, 0, :, :24], masks[:, 1, :, 24:] = 1, 1
    masks = masks if speakers > 1 else None
    both = small(**call, speaker_masks=masks)
    for row in range(2):
        one = {key: value[row:row + 1] if torch.is_tensor(value) else value for key, value in call.items()}
        alone = small(**one, speaker_masks=None if masks is None else masks[row:row + 1])
        assert (alone - both[row:row + 1]).abs().max() < 1e-5


def test_no_attention_call_carries_a_mask_and_a_batch_1_cache_serves_all(small):
    seen = []

    def attention(*args, **kwargs):
        seen.append((len(args), tuple(kwargs)))
        return golden.plain_attention(*args, **kwargs)

    network = LongCat(SMALL, torch.nn, attention).eval()
    network.load_state_dict(small.state_dict())
    call = inputs(batch=2)
    call["cache"] = standing(network.make_caches(call["x"][:1, :, :3], call.pop("clean")), call["times"])
    call.update(times=call["times"][3:], x=call["x"][:, :, 3:], timestep=call["timestep"][:, 3:])
    assert network(**call).shape == call["x"].shape
    assert set(seen) == {(4, ("transformer_options",))}


def test_one_latent_is_enough(small):
    x, audio = torch.randn(1, 16, 1, 4, 6), torch.zeros(1, 1, 1, 5, 3, 4)
    assert small(x, torch.tensor([500.0]), torch.zeros(1, 7, 24), audio=audio).shape == x.shape


def test_training_reaches_every_weight():
    torch.manual_seed(1)
    network = LongCat(SMALL, torch.nn, golden.plain_attention)
    network(**inputs()).square().mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


def test_hooks_of_other_packs_are_called(small):
    order = []

    def attn1(values):
        order.append(("attn1", values["transformer_options"]["block_index"]))
        return values["x"]

    def replaced(values, extra):
        order.append("replaced")
        return extra["original_block"](values)

    def after(values):
        order.append(("after", values["block_index"]))
        return values

    options = {"patches": {"attn1_patch": [attn1], "double_block": [after]},
               "patches_replace": {"dit": {("double_block", 1): replaced}}}
    assert torch.equal(small(**inputs(), transformer_options=options), small(**inputs()))
    assert order == [("attn1", 0), ("after", 0), "replaced", ("attn1", 1), ("after", 1)]
    assert set(options) == {"patches", "patches_replace"}


# ---------------------------------------------------------------- refusals

@pytest.mark.parametrize(("changes", "says"), [
    ({"audio": torch.zeros(1, 1, 25, 5, 12, 768)}, "5 x 9216, wanted 5 x 12"),
    ({"audio": torch.zeros(1, 1, 13, 5, 3, 4)}, "13 frames of speech for 5 latent frames"),
    ({"audio": torch.zeros(1, 2, 25, 5, 3, 4)}, "2 audio streams and no masks"),
    ({"times": range(3)}, "got 3, wanted one for each of the 8"),
    ({"x": torch.zeros(1, 16, 8, 5, 6)}, "6x5, wanted even")])
def test_what_does_not_fit_is_refused(small, changes, says):
    with pytest.raises(ValueError, match=says):
        small(**{**inputs(), **changes})


def test_only_clean_frames_are_cached(small):
    call = inputs()
    with pytest.raises(ValueError, match="only clean frames"):
        small.make_caches(call["x"], (1, 2))


# ---------------------------------------------------------------- the official sizes, without weights

def official(config: LongCatConfig) -> LongCat:
    return LongCat(config, torch.nn, golden.plain_attention, dtype=torch.bfloat16, device="meta")


@pytest.mark.parametrize(("config", "keys", "size"), [
    (LongCatConfig(), 1022, 13_581_071_424 * 2),
    (LongCatConfig(audio=AVATAR_10), 1608, 15_871_660_096 * 2),
    (LongCatConfig(audio=AVATAR_15), 1608, 31_705_833_600)])
def test_official_sizes(config, keys, size):
    state = official(config).state_dict()
    assert len(state) == keys
    assert sum(tensor.nbytes for tensor in state.values()) == size
    assert LongCatConfig.from_weights(state) == config
    assert state["blocks.47.ffn.w1.weight"].shape == (11008, 4096)
    assert state["final_layer.linear.weight"].dtype == torch.bfloat16


def test_the_official_int8_size():
    config = LongCatConfig(audio=AVATAR_15)
    weights = as_int8(official(config).state_dict())
    network = LongCat(config, PackedLayers, golden.plain_attention, dtype=torch.bfloat16, device="meta")
    network.load_state_dict(state_of(weights), assign=True)
    state = network.state_dict()
    assert (len(state), sum(tensor.nbytes for tensor in state.values())) == (2241, 15_880_145_024)
    assert LongCatConfig.from_weights(weights) == config
    assert state["final_layer.linear.weight"].dtype == torch.bfloat16


def test_the_config_is_inferred_from_every_fixture():
    for fixtures in FIXTURES.values():
        if (fixtures.folder / "config.json").is_file():
            record = LongCatConfig.from_json(fixtures.config)
            assert LongCatConfig.from_weights(fixtures.load("model.safetensors")) == record
    with pytest.raises(ValueError, match="'x_embedder.proj.weight'"):
        LongCatConfig.from_weights({"img_in.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="another model"):
        LongCatConfig.from_json({"hidden_size": 1})


def test_int8_and_lora_files():
    scales = FIXTURES["avatar_v15_dit"].load("model_int8.safetensors")
    weights = FIXTURES["avatar_v15_dit"].load("model.safetensors")
    packed = quantize_int8(weights["blocks.0.attn.qkv.weight"])
    assert torch.allclose(packed.scale, scales["blocks.0.attn.qkv.weight_scale"], atol=1e-6)
    assert (packed.rows - scales["blocks.0.attn.qkv.weight_int8"]).abs().max() <= 1
    lora = FIXTURES["base_dit"].load("lora_official_layout.safetensors")
    assert is_official(lora) and not is_official(weights)
    pairs = ordinary(lora)
    up = pairs["diffusion_model.blocks.0.attn.qkv.lora_up.weight"]
    assert up.shape == (192, 12) and up[:64, 4:].abs().sum() == 0
    with pytest.raises(ValueError, match="wanted the official LongCat layout"):
        ordinary(weights)


def test_a_cached_step_costs_four_fifths_of_a_joint_one():
    """480 x 832, 1 + 4 clean and 20 noisy latents of the official size, counted without computing. Joint: every token
    sees every other; split: the model's own attention without a cache."""
    with torch.device("meta"):
        x, text, audio = torch.empty(1, 16, 25, 60, 104), torch.empty(1, 512, 4096), torch.empty(1, 1, 97, 5, 5, 1280)
        timestep = torch.zeros(1, 25)
    network = LongCat(LongCatConfig(depth=2, audio=AVATAR_15), torch.nn, golden.plain_attention, device="meta")

    def flops(run) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        return counter.get_total_flops()

    noisy = {"x": x[:, :, 5:], "timestep": timestep[:, 5:], "text": text, "audio": audio[:, :, :93]}
    cache = standing(network.make_caches(x[:, :, :5], (1, 4)), range(25))
    step = flops(lambda: network(**noisy, cache=cache))
    joint = flops(lambda: network(x, timestep, text, audio=audio))
    split = flops(lambda: network(**{**noisy, "x": x, "timestep": timestep, "clean": (1, 4)}))
    built = flops(lambda: network.make_caches(x[:, :, :5], (1, 4)))
    assert step / joint <= 0.802 and step / split <= 0.91
    assert (8 * step + built) / (8 * joint) <= 0.815
