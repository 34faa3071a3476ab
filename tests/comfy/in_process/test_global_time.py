"""Global Time in core's own context windows: each window stands where it would in one call over all frames.

The proof lets a frame see itself and what stays put, nothing else: then windows that have their places give what one
call gives, and windows that all begin at 0 do not.
"""
import logging
from dataclasses import dataclass

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from families import FAMILIES, LATENTS, SIZE, FamilyChunk, load_family
from lodestar.nodes.global_time import LodestarGlobalTime
from lodestar.techniques.global_time import GlobalTime
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip

SAME = 1e-4         # between two ways to compute one thing, in float32
ACTS = ["wan21_t2v", "wan21_i2v", "wan22_ti2v", "wan22_s2v", "infinitetalk", "omniavatar", "longcat_avatar15"]


@dataclass(frozen=True, eq=False)
class SeesItself(ReferenceSkip):
    """A frame of the chunk sees itself and what is beside the chunk, which sees no frame of the chunk."""

    def visibility(self, layout):
        spans = filter(None, map(layout.find, ("chunk", "context")))
        own = [frame for span in spans for frame in layout.frame_indices(span)]
        return {(query, key): 0.0 for query in range(sum(len(span.times) for span in layout.spans))
                for key in own if key != query}

    def notice(self, layout, position):
        return None


@pytest.fixture
def chunk(request, tiny_models):
    if not FAMILIES[request.param].exists:
        pytest.skip("this ComfyUI does not have it")
    return FamilyChunk(FAMILIES[request.param], load_family(request.param, tiny_models / "models"))


def in_windows(chunk):
    """Three latents each, of six."""
    return WanContextWindowsManualNode.execute(chunk.model, 9, 4, "standard_static", 1, False, "flat", False).args[0]


def anchor(chunk):
    return LookaheadAnchor(3, latents=None if chunk.family.own_reference else chunk.picture(12))


@pytest.mark.parametrize("chunk", ACTS, indirect=True)
def test_windows_at_their_places_give_what_one_call_gives(chunk):
    still, windows = (anchor(chunk), SeesItself()), in_windows(chunk)
    whole = chunk.sample(*still, chunk=0, steps=1)
    placed, unplaced = (chunk.sample(*still, *more, chunk=0, steps=1, model=windows) for more in ((GlobalTime(),), ()))
    assert (placed - whole).abs().max() < SAME
    assert (unplaced - whole).abs().max() > 10 * SAME
    assert torch.equal(chunk.sample(*still, GlobalTime(), chunk=0, steps=1), whole)     # one call has its place already


@pytest.mark.parametrize("chunk", ["wan21_t2v", "wan22_s2v"], indirect=True)
def test_each_window_has_its_own_times_and_the_anchor_one(chunk):
    seen, model = [], in_windows(chunk)

    def record(args, extra):
        core = args["transformer_options"]["context_window"]
        before = getattr(core, "causal_anchor_index", None)
        seen.append(([*([before] if before is not None and before >= 0 else []), *core.index_list], args["pe"]))
        return extra["original_block"](args)

    model.model_options["transformer_options"]["patches_replace"] = {"dit": {("double_block", 0): record}}
    chunk.sample(anchor(chunk), GlobalTime(), chunk=0, steps=1, model=model)
    module = chunk.model.model.diffusion_model
    assert {frame for window, _ in seen for frame in window} == set(range(LATENTS)) and len(seen) > 2
    for window, rows in seen:
        times = [*window, LATENTS - 1 + 3]
        asked = torch.cat([module.rope_encode(1, *SIZE, t_start=time, dtype=torch.float32) for time in times], 1)
        assert torch.equal(rows[:, :asked.shape[1]], asked)


@pytest.mark.parametrize("chunk", ["wan21_t2v", "wan21_i2v", "wan22_ti2v"], indirect=True)
def test_where_nothing_stays_put_it_is_refused(chunk):
    with pytest.raises(ValueError, match="Global Time would change nothing here.*Add a Lookahead Anchor"):
        chunk.sample(GlobalTime(), chunk=0, steps=1, model=in_windows(chunk))


@pytest.mark.parametrize("chunk", ["wan22_s2v"], indirect=True)
def test_s2v_s_own_reference_and_motion_stay_put(chunk):
    windows = in_windows(chunk)
    for number in (0, 1):       # the second chunk has motion frames
        placed, unplaced = (chunk.sample(*more, chunk=number, steps=1, model=windows) for more in ((GlobalTime(),), ()))
        assert (placed - unplaced).abs().max() > 10 * SAME


@pytest.mark.parametrize("chunk", ["wan21_t2v"], indirect=True)
def test_the_node_says_once_a_run_where_no_windows_are(chunk, caplog):
    model = LodestarGlobalTime.execute(chunk.model).args[0]
    with caplog.at_level(logging.WARNING, "lodestar"):
        chunk.run(chunk.guider(model), chunk.inputs(0))
    assert [record.message for record in caplog.records] == [
        "global time is inactive: no context windows cut this latent into parts"]


@pytest.mark.slow
@pytest.mark.parametrize("chunk", ["wan21_t2v"], indirect=True)
def test_a_compiled_model_follows_the_windows(chunk):
    """As core's node compiles, which drops the guards on options."""
    torch._dynamo.reset()
    plain, compiled = in_windows(chunk), in_windows(chunk)
    set_torch_compile_wrapper(model=compiled, backend="eager", options={
        "guard_filter_fn": lambda guards: ["transformer_options" not in guard.name for guard in guards]})
    made, wanted = (chunk.sample(anchor(chunk), GlobalTime(), chunk=0, steps=1, model=model)
                    for model in (compiled, plain))
    assert (made - wanted).abs().max() < SAME
