"""What LongCat keeps for a sampling run: nothing that a step would wait for, nothing of another reference or place."""
import comfy.model_management
import pytest
import torch
from lodestar.backbones import attach
from lodestar.backbones.longcat.model import LongCatNetwork
from lodestar.backbones.ram_blocks import RamBlocks
from lodestar.backbones.sampling_run import RUN, Run
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "item", "allclose", "masked_select")


@pytest.fixture(scope="module")
def avatar(tiny_models, longcat):
    return longcat.load(tiny_models, longcat.AVATAR15)


def filled(blocks: RamBlocks, count: int) -> list[tuple[torch.Tensor, ...]]:
    pairs = [tuple(torch.randn(1, 6, 2, 4, generator=torch.Generator().manual_seed(10 * block + part))
                   for part in range(2)) for block in range(count)]
    for pair in pairs:
        blocks.park(*pair)
    return pairs


def same(one, other) -> bool:
    return all(torch.equal(*tensors) for tensors in zip(one, other, strict=True))


# ---------------------------------------------------------------- in RAM

@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_next_block_is_under_way_while_one_works(count):
    blocks = RamBlocks(torch.device("cpu"))
    pairs, buffers = filled(blocks, count), blocks.buffers
    for index in [*range(count)] * 3:
        given = blocks[index]
        assert same(given, pairs[index])
        other = buffers[1 - blocks.turn]
        assert given is buffers[blocks.turn] and same(other, pairs[(index + 1) % count]), "sent before it is asked for"
    assert blocks.buffers is buffers and len(blocks) == count and all(map(same, blocks, pairs))
    blocks.close()
    assert not blocks.host and not blocks.buffers


def test_a_call_that_was_broken_off_costs_one_copy_and_nothing_else():
    blocks = RamBlocks(torch.device("cpu"))
    pairs = filled(blocks, 4)
    for index in (0, 1, 2, 0, 1, 3, 3, 0):
        assert same(blocks[index], pairs[index])


def test_two_caches_parked_together_share_one_copy():
    """Each asks for its own pair of the block at work; the second to ask moves nothing."""
    blocks, sent = RamBlocks(torch.device("cpu")), []
    for seed in range(3):
        blocks.park(*(torch.full((1, 2, 1, 1), 10.0 * seed + part) for part in range(4)))
    send, caches = blocks.send, [blocks.pairs(index) for index in range(2)]
    blocks.send = lambda index: sent.append(index) or send(index)
    for index in [*range(3)] * 2:
        for number, cache in enumerate(caches):
            first = 10 * index + 2 * number
            assert [part.unique().item() for part in cache[index]] == [first, first + 1]
    assert sent == [0, 1, 2, 0, 1, 2, 0]
    assert [len(cache) for cache in caches] == [3, 3]
    assert [[part.unique().item() for part in pair] for pair in caches[1]] == [[2, 3], [12, 13], [22, 23]]


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_in_ram_gives_the_same_bits_and_is_let_go(avatar, longcat, cfg, monkeypatch):
    closed, close = [], RamBlocks.close
    monkeypatch.setattr(RamBlocks, "close", lambda self: closed.append(len(self)) or close(self))
    results = [sampled(attach.with_technique(avatar, ConditioningCache(offload)), longcat, cfg)
               for offload in ("VRAM", "RAM")]
    assert torch.equal(*results) and closed == [len(avatar.model.diffusion_model.blocks)]


def test_memory_is_let_go_when_a_run_is_broken_off(avatar, longcat, monkeypatch):
    closed, close = [], RamBlocks.close
    monkeypatch.setattr(RamBlocks, "close", lambda self: closed.append(self) or close(self))

    def stop(*_):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        sampled(attach.with_technique(avatar, ConditioningCache("RAM")), longcat, callback=stop)
    assert len(closed) == 1


# ---------------------------------------------------------------- steps

def sampled(model, longcat, cfg=1.0, callback=None, masks=None, known=2):
    """Three steps after `known` conditioning frames and a reference, with two speakers where there are masks."""
    import comfy.sample
    latent, mask = longcat.noise(seed=8), torch.ones(1, 1, longcat.FRAMES, *longcat.SIZE)
    mask[:, :, :known] = 0
    values = {"reference_latents": [longcat.noise(1, seed=9)]}
    if masks is not None:
        values |= {"speaker_masks": masks,
                   "audio_windows": torch.cat([longcat.speech(model, seed=seed) for seed in (5, 6)], 1)}
    prompts = [longcat.prompt(model, seed=seed, **values) for seed in (3, 4)]
    with torch.inference_mode():
        return comfy.sample.sample(model, longcat.noise(), 3, cfg, "euler", "simple", *prompts, latent, denoise=1.0,
                                   noise_mask=mask, disable_pbar=True, callback=callback)


class Waits(TorchDispatchMode):
    """Operations whose answer the processor needs, or how large it is."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        by_mask = function.__name__.startswith("index.") and any(place.dtype == torch.bool for place in args[1]
                                                                 if place is not None)
        if function.__name__.split(".")[0] in WAITS or by_mask:
            self.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("place", ["VRAM", "RAM"])
@pytest.mark.parametrize("speakers", [1, 2])
def test_no_step_waits_for_the_card(avatar, longcat, monkeypatch, place, speakers):
    """From the wrapper down to the last layer, the first step included."""
    masks = torch.zeros(1, 3, 64, 64)
    masks[:, 0, :, :32], masks[:, 1, :, 32:] = 1, 1
    model = attach.with_technique(attach.with_technique(avatar, ConditioningCache(place)), ReferenceSkip())
    model, found, call = attach.with_technique(model, LookaheadAnchor(30)), [], attach.Patch.__call__

    def watched(*args, **kwargs):
        with Waits() as waits:
            result = call(*args, **kwargs)
        found.append(waits.found)
        return result
    monkeypatch.setattr(attach.Patch, "__call__", watched)
    sampled(model, longcat, 3.0, masks=masks if speakers > 1 else None)
    assert len(found) >= 3 and not any(found)


def test_conditions_are_on_the_device_before_the_first_step(avatar, longcat):
    values = {"reference_latents": [longcat.noise(1)], "audio_windows": longcat.speech(avatar),
              "cross_attn": longcat.text(), "speaker_masks": torch.ones(1, 3, 64, 64)}
    conds = avatar.model.extra_conds(noise=longcat.noise(), device=torch.device("meta"), **values)
    tensors = {name: cond.cond for name, cond in conds.items() if torch.is_tensor(cond.cond)}
    assert set(tensors) == {"c_crossattn", "audio", "speaker_masks", "reference"}
    assert {tensor.device.type for tensor in tensors.values()} == {"meta"}


def test_rows_are_made_once_in_a_run(avatar, longcat, monkeypatch):
    from lodestar.networks.longcat import network
    made, rows = [], network.rope_frequencies
    monkeypatch.setattr(network, "rope_frequencies", lambda *args, **how: made.append(args) or rows(*args, **how))
    sampled(attach.install_techniques(avatar, (), attach.ChunkPosition()), longcat, 3.0)
    assert len(made) == 1
    sampled(avatar, longcat)
    assert len(made) == 1 + 3, "without a store of ours they are made in each step"


# ---------------------------------------------------------------- whose they are

@pytest.mark.parametrize("changes", [
    {"reference_key": "another", "reference": 99}, {"num_cond_frames": 1}, {"x": (1, 16, 5, 6, 8)},
    {"x": (1, 16, 4, 8, 8)}, {"reference_key": None}])
def test_a_call_on_other_clean_frames_is_not_given_these(avatar, longcat, monkeypatch, changes):
    """Another reference, another number of conditioning frames, a tile, fewer frames, a reference of unknown origin."""
    run, caching = Run((1, 16, longcat.FRAMES, *longcat.SIZE)), attach.with_technique(avatar, ConditioningCache())

    def call(model, x, **values):
        options = {**model.model_options["transformer_options"], "wrappers": model.wrappers, "cond_or_uncond": [0],
                   "uuids": ["a"], RUN: run}
        size, frames = x[3:], x[2]
        conds = {"c_crossattn": longcat.text(), "audio": longcat.speech(avatar, frames), "num_cond_frames": 2,
                 "reference_key": "a", **values}
        conds["reference"] = torch.randn(1, 16, 1, *size, generator=torch.Generator().manual_seed(
            values.get("reference", 9)))
        with torch.inference_mode():
            return model.model.apply_model(torch.randn(x, generator=torch.Generator().manual_seed(1)),
                                           torch.full((1,), 0.7), transformer_options=options, **conds)

    whole = (1, 16, longcat.FRAMES, *longcat.SIZE)
    call(caching, whole)
    x = changes.pop("x", whole) if "x" in changes else whole
    assert torch.allclose(call(caching, x, **changes), call(avatar, x, **changes), atol=1e-5)
    built, cached = [], LongCatNetwork.make_caches
    monkeypatch.setattr(LongCatNetwork, "make_caches", lambda *args, **how: built.append(1) or cached(*args, **how))
    call(caching, whole)
    assert not built, "the run's own are still there"
    comfy.model_management.soft_empty_cache()
