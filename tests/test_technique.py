"""The table of techniques: each in its place of the order, whoever asks; who answers what."""
import importlib
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import pytest
import torch
from lodestar.techniques.closed_span import ClosedSpan
from lodestar.techniques.colour_match import ColourMatch, match_colours
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.layout import Layout
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.technique import (
    ORDER,
    ChunkPosition,
    Technique,
    find_conditioning_cache,
    find_handover,
    finishing_frames,
    lay_out,
    sort_techniques,
)

ALL = (LatentStitch(), LookaheadAnchor(), NarrativeKeyframes(), ReferenceSkip(), ConditioningCache("RAM"),
       ColourMatch())


def test_every_technique_has_its_place_in_the_order():
    for path in (Path(__file__).resolve().parents[1] / "techniques").glob("*.py"):
        importlib.import_module(f"lodestar.techniques.{path.stem}")
    direct = [kind for kind in Technique.__subclasses__() if kind is not ClosedSpan] + ClosedSpan.__subclasses__()
    assert sorted(kind.__name__ for kind in direct if kind.__module__.startswith("lodestar.")) == \
        sorted(ORDER) == sorted(set(ORDER))


def test_the_order_of_the_nodes_does_not_matter():
    assert all(sort_techniques(nodes) == ALL for nodes in permutations(ALL))
    near, far = LookaheadAnchor(3), LookaheadAnchor(9)
    assert sort_techniques((far, near)) == sort_techniques((near, far)) == (near, far)


def test_a_technique_of_another_pack_stands_where_what_it_inherits_does():
    class Theirs(Technique):
        pass

    class Stitch(LatentStitch):
        pass

    own = Stitch()
    assert sort_techniques((*ALL[1:], own)) == (own, *ALL[1:])
    with pytest.raises(ValueError, match="technique: got Theirs, which has no place in the order"):
        sort_techniques((*ALL, Theirs()))


def test_those_who_answer_are_found():
    assert find_handover(ALL) is ALL[0] and find_handover(ALL[1:]) is None
    assert find_conditioning_cache(ALL) == "RAM" and find_conditioning_cache(ALL[:-2]) is None
    assert [technique.stacks for technique in ALL] == [False, True, False, False, False, False]
    assert finishing_frames(ALL) == ALL[-1:] and not finishing_frames(ALL[:-1])


def test_a_keyframe_outside_the_take_says_so():
    story = NarrativeKeyframes()
    for seconds in (0, 4, 5, 9):
        story = story.plus(Fraction(seconds), torch.zeros(1, 16, 1, 2, 2))
    said = story.take_notices(Fraction(5))
    assert [sentence.split(" ")[3] for sentence in said] == ["0", "5", "9"]
    assert not ReferenceSkip().take_notices(Fraction(5))


def test_a_cache_is_in_vram_or_offloaded_to_ram():
    with pytest.raises(ValueError, match="kv_cache: got 'disk', wanted one of VRAM, RAM"):
        ConditioningCache("disk")


def test_a_keyframe_takes_the_place_of_what_stands_ahead_and_of_nothing_else():
    """Two anchors have one name."""
    style, ahead, key = (torch.full((1, 16, 1, 2, 2), value) for value in (7.0, 8.0, 9.0))
    techniques = sort_techniques((NarrativeKeyframes().plus(Fraction(1), key), StyleAnchor(latents=style),
                                  LookaheadAnchor(3.0, latents=ahead)))
    spans = lay_out(Layout.of_chunk(4), techniques, ChunkPosition())[0].references
    assert [(span.times, span.latents.unique().item()) for span in spans] == [((-1.0,), 7.0), ((6.0,), 9.0)]


def test_a_picture_of_one_lightness_gives_no_colours():
    frames, fade = torch.rand(2, 8, 8, 3), torch.zeros(1, 8, 8, 3)
    assert torch.equal(match_colours(frames, fade), frames)
    assert "no colours to give" in ColourMatch().picture_notice(fade)
    picture = torch.rand(1, 8, 8, 3)
    assert not torch.equal(match_colours(frames, picture), frames) and ColourMatch().picture_notice(picture) is None
