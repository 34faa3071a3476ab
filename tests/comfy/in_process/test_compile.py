"""Beside core's TorchCompileModel, whose compiled graph forgets every guard on transformer_options."""
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from lodestar.backbones import attach
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.reference_tokens import Tokens, all_tokens
from lodestar.techniques.video_reference import VideoReference

INSIDE = {"placement": "in chunk", "index": 2}
PLACES = [{"distance": 3}, {"distance": 40}, INSIDE, {**INSIDE, "index": 4}]


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    """PyTorch gives up a function that it has compiled too often, in this process."""
    torch._dynamo.reset()


def forget_transformer_options(guards):
    """The guard filter of core's node."""
    return ["transformer_options" not in guard.name for guard in guards]


@pytest.mark.parametrize("name", ["wan21_t2v", "wan22_s2v"])
def test_a_compiled_model_follows_every_change_of_anchor_and_band(tiny_models, wan, name):
    model = wan.load(tiny_models, name)
    compiled = model.clone()
    set_torch_compile_wrapper(model=compiled, backend="eager", options={"guard_filter_fn": forget_transformer_options})
    x, latents = wan.noise(model), None if name.endswith("s2v") else wan.picture(model)
    results = [wan.apply(model, x)]
    assert torch.allclose(wan.apply(compiled, x), results[0], atol=1e-5)
    for place in PLACES:
        for skip in (ReferenceSkip(), ReferenceSkip(radius=2)):
            def patched(patcher, place=place, skip=skip):
                anchored = attach.with_technique(patcher, LookaheadAnchor(latents=latents, **place))
                return attach.with_technique(anchored, skip)

            results.append(wan.apply(patched(model), x))
            assert torch.allclose(wan.apply(patched(compiled), x), results[-1], atol=1e-5), (place, skip)
    assert torch.allclose(wan.apply(compiled, x), results[0], atol=1e-5)
    if name.endswith("s2v"):
        for audio in (wan.random(1, 25, 1024, 4 * wan.FRAMES, seed=seed) for seed in (30, 31)):
            others = [wan.apply(patched(patcher), x, audio_embed=audio) for patcher in (model, compiled)]
            assert torch.allclose(*others, atol=1e-5) and not torch.allclose(others[0], results[-1], atol=1e-3)
    assert len({result.sum().item() for result in results}) == 7     # ahead of the chunk both bands change nothing


def test_a_compiled_model_follows_every_change_of_captured_keys(tiny_models, wan):
    """Of a video of the person, whose pass is one of its own."""
    model = wan.load(tiny_models, "wan21_t2v")
    compiled = model.clone()
    set_torch_compile_wrapper(model=compiled, backend="eager", options={"guard_filter_fn": forget_transformer_options})
    x, results = wan.noise(model), [wan.apply(model, wan.noise(model))]
    for shown in (wan.picture(model), 2 * wan.picture(model)):
        video = VideoReference(shown, Tokens(all_tokens(1, tuple(side // 2 for side in shown.shape[3:]))))
        seen = [wan.apply(attach.with_technique(patcher, video), x) for patcher in (model, compiled)]
        assert torch.allclose(*seen, atol=1e-5) and not torch.allclose(seen[0], results[-1], atol=1e-4)
        results.append(seen[0])


@pytest.mark.parametrize("name", ["wan21_t2v", pytest.param("wan22_s2v", marks=pytest.mark.slow)])
def test_the_model_below_the_patch_is_still_compiled(tiny_models, wan, name):
    frames = []

    def backend(graph, inputs):
        frames.append(len(graph.graph.nodes))
        return graph.forward

    model = wan.load(tiny_models, name)
    compiled = attach.with_technique(model, LookaheadAnchor(latents=wan.picture(model), **INSIDE))
    compiled = attach.with_technique(compiled, ReferenceSkip())
    set_torch_compile_wrapper(model=compiled, backend=backend)
    wan.apply(compiled, wan.noise(model))
    before = len(frames)
    wan.apply(compiled, wan.noise(model, seed=5))
    assert sum(frames) > 100 and len(frames) == before       # compiled once, not again for the next step
