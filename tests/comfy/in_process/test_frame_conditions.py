"""What belongs to each latent frame, cut to a window: against lists written latent by latent, and on real models."""
import types

import pytest
import torch
from lodestar.backbones import attach
from lodestar.backbones.frame_conditions import WINDOW, Cut, Window, cut_conditions, window_of
from lodestar.backbones.longcat.backbone import LongCatBackbone
from lodestar.backbones.wan.base import Wan
from lodestar.backbones.wan.s2v import WanS2V
from lodestar.backbones.wan.s2v_audio import ENTRIES
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.technique import ChunkPosition

TOTAL = 9
WINDOWS = [(0, 1, 2), (3, 4, 5), (8,), (0,), (0, 5, 6), (7, 8, 0, 1), (4, 2, 3), tuple(range(TOTAL))]


def core(*latents, anchor=None, total=TOTAL):
    found = types.SimpleNamespace(index_list=list(latents), total_frames=total)
    return found if anchor is None else types.SimpleNamespace(**vars(found), causal_anchor_index=anchor)


# each convention written down: entries of the latents of a window, one latent after the other

def one_each(latents):
    return list(latents)


def four_each(latents):
    return [entry for latent in latents for entry in range(4 * latent, 4 * latent + 4)]


def causal(latents):
    """A VAE's pixel frames: latent 0 has one. What opens a cut has one before its own four, as latent 0 of a clip."""
    found = []
    for place, latent in enumerate(latents):
        if place == 0 and latent == 0:
            found += [0]
        elif place == 0:
            found += [4 * latent - 4, 4 * latent - 3, 4 * latent - 2, 4 * latent - 1, 4 * latent]
        elif latent == 0:
            found += [0, 0, 0, 0]
        else:
            found += [4 * latent - 3, 4 * latent - 2, 4 * latent - 1, 4 * latent]
    return found


CONVENTIONS = {"c_concat": (Wan.frame_conditions["c_concat"], one_each, TOTAL),
               "control_video": (WanS2V.frame_conditions["control_video"], one_each, TOTAL),
               "audio_embed": (ENTRIES, four_each, 4 * TOTAL),
               "audio": (LongCatBackbone.frame_conditions["audio"], causal, 4 * TOTAL - 3)}


@pytest.mark.once
@pytest.mark.parametrize("latents", WINDOWS)
@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_cut_has_each_latents_own_entries(name, latents):
    how, naive, entries = CONVENTIONS[name]
    assert how.count_latents(entries) == TOTAL
    value = torch.arange(entries).expand(2, 3, entries)
    value = value if how.dim in (2, -1) else value.movedim(-1, how.dim)
    assert how.entries(latents) == naive(latents)
    assert how.of(value, latents)[0, 0].tolist() == naive(latents)


@pytest.mark.once
@pytest.mark.parametrize("before", [0, 1])
def test_a_condition_ends_with_the_latent_and_may_begin_before_it(before):
    value, cuts = torch.arange(4 * (TOTAL + before) - 3)[None, None], {"audio": Cut(2, 4, 1)}
    options = {"context_window": core(2, 3)}
    cut = cut_conditions({"audio": value, "text": 5}, cuts, options, 2)
    assert cut["audio"].flatten().tolist() == causal((2 + before, 3 + before)) and cut["text"] == 5
    for wrong, frames in ((value[..., :4 * TOTAL - 4 - 3], 2), (value, 3)):
        with pytest.raises(ValueError, match="audio: the context window has latents 2 to 3 of 9 and the call"):
            cut_conditions({"audio": wrong}, cuts, options, frames)


@pytest.mark.once
def test_the_window_is_ours_or_cores():
    assert window_of({}) is None
    assert window_of({"context_window": core(4, 5)}) == Window((4, 5), TOTAL)
    assert window_of({"context_window": core(4, 5, anchor=0)}) == Window((0, 4, 5), TOTAL)
    assert window_of({"context_window": core(4, 5, anchor=-1)}) == Window((4, 5), TOTAL)
    own = Window((2, 3), TOTAL)
    assert window_of({WINDOW: own}) is own and window_of({WINDOW: own, "context_window": core(4)}) is own


@pytest.mark.once
def test_what_core_cuts_is_cut_by_us_in_our_own_windows_alone():
    value, cuts = torch.arange(TOTAL)[None, None], Wan.frame_conditions
    for options, left in (({}, range(TOTAL)), ({"context_window": core(4, 5)}, range(TOTAL)),
                          ({WINDOW: Window((4, 5), TOTAL)}, (4, 5))):
        assert cut_conditions({"c_concat": value}, cuts, options, 2)["c_concat"].flatten().tolist() == [*left]


@pytest.mark.parametrize("latents", [(0, 1, 2), (3, 4, 5), (0, 4, 5)])
@pytest.mark.parametrize("name, condition", [("wan21_i2v", "c_concat"), ("wan22_s2v", "control_video")])
def test_a_window_of_ours_is_a_call_on_what_belongs_to_it(tiny_models, wan, name, condition, latents):
    """The model given everything and its window equals the model given that window's part."""
    model = wan.load(tiny_models, name)
    patched = attach.install_techniques(model, (LookaheadAnchor(latents=wan.random(1, 16, 1, *wan.SIZE, seed=4)),),
                             ChunkPosition())
    whole = wan.random(1, 20 if condition == "c_concat" else 16, TOTAL, *wan.SIZE, seed=7)
    x = wan.random(1, 16, 3, *wan.SIZE, seed=8)
    silent = {"audio_embed": None} if condition == "control_video" else {}
    found = wan.apply(patched, x, options={WINDOW: Window(latents, TOTAL)}, **{condition: whole}, **silent)
    assert torch.equal(found, wan.apply(patched, x, **{condition: whole[:, :, list(latents)]}, **silent))
    assert not torch.equal(found, wan.apply(patched, x, **{condition: whole[:, :, 6:]}, **silent))
