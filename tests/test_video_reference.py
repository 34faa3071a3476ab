"""Video reference (TAVR): which tokens are kept and where they stand, which frames are chosen."""
from itertools import product

import pytest
import torch
from lodestar.techniques.layout import REFERENCES, Layout
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.reference_tokens import (
    Tokens,
    all_tokens,
    farthest,
    latent_frames,
    tokens_in_boxes,
    tokens_in_masks,
)
from lodestar.techniques.technique import ChunkPosition, lay_out, sort_techniques
from lodestar.techniques.video_reference import VideoReference

GRID = 5, 7     # rows, columns
pytestmark = pytest.mark.once


def reference(frames=3, **options):
    return VideoReference(torch.zeros(1, 16, frames, 10, 14), Tokens(all_tokens(frames, GRID)), **options)


def test_a_token_belongs_to_a_box_that_it_meets():
    """By its definition, cell by cell; a box that ends on a cell's edge does not meet the next."""
    boxes = [(0.2, 0.3, 0.55, 0.61), (2 / 7, 1 / 5, 4 / 7, 3 / 5), (0.5, 0.5, 0.5001, 0.5001)]
    kept = tokens_in_boxes(boxes, GRID)
    for (left, top, right, bottom), frame in zip(boxes, kept, strict=True):
        for row, column in product(*map(range, GRID)):
            meets = row / 5 < bottom and (row + 1) / 5 > top and column / 7 < right and (column + 1) / 7 > left
            assert frame[row, column] == meets
    assert kept[1].sum() == 4 and kept[2].sum() == 1


def test_a_box_over_all_is_no_selection():
    assert torch.equal(tokens_in_boxes([(0, 0, 1, 1)] * 2, GRID), all_tokens(2, GRID))
    assert torch.equal(tokens_in_boxes([(0.2, 0.2, 0.8, 0.8)], GRID, grow=1), all_tokens(1, GRID))
    assert torch.equal(tokens_in_masks(torch.ones(2, 40, 56), GRID), all_tokens(2, GRID))


def test_a_box_grows_by_its_own_size():
    small = tokens_in_boxes([(3 / 7, 2 / 5, 4 / 7, 3 / 5)], GRID)
    grown = tokens_in_boxes([(3 / 7, 2 / 5, 4 / 7, 3 / 5)], GRID, grow=0.5)
    assert small.sum() == 1 and grown.sum() == 9 and grown[0, 1:4, 2:5].all()


def test_a_mask_is_as_the_box_of_its_shape():
    mask = torch.zeros(1, 50, 70)
    mask[0, 20:30, 30:40] = 1
    for grow in (0, 0.5, 1.0):
        assert torch.equal(tokens_in_masks(mask, GRID, grow),
                           tokens_in_boxes([(3 / 7, 2 / 5, 4 / 7, 3 / 5)], GRID, grow)), grow


def test_frames_without_a_face_are_whole_or_left_out():
    box, blank = (0.4, 0.4, 0.5, 0.5), torch.zeros(1, 20, 28)
    assert tokens_in_boxes([box, None], GRID)[1].all() and tokens_in_masks(blank, GRID).all()
    left = Tokens(tokens_in_boxes([box, None], GRID, when_empty="none"))
    assert left.frame_tokens == (2, 0) and left.places.tolist() == [[0, 2, 2], [0, 2, 3]]
    with pytest.raises(ValueError, match="regions: no token of the video lies in them"):
        Tokens(tokens_in_masks(blank, GRID, when_empty="none"))


def test_a_latent_has_the_tokens_of_all_its_frames():
    keep = torch.zeros(5, *GRID, dtype=torch.bool)
    keep[0, 0, 0] = keep[1, 1, 1] = keep[4, 2, 2] = True
    kept = latent_frames(keep, [(0,), (1, 2, 3, 4)])
    assert Tokens(kept).places.tolist() == [[0, 0, 0], [1, 1, 1], [1, 2, 2]]


def test_frames_that_differ_most_are_chosen_and_of_near_equals_the_sharper():
    features = torch.tensor([[0.0], [0.1], [5.0], [9.8], [10.0]])
    assert farthest(features, 3, torch.tensor([9.0, 1, 1, 5, 1])) == [0, 2, 3]
    assert farthest(features, 2, torch.tensor([9.0, 1, 1, 1, 5])) == [0, 4]
    assert farthest(features, 9, torch.ones(5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("placement", "times"), [
    ("ahead", (8, 9, 10)), ("before", (-4, -3, -2)), ("own", (0, 1, 2))])
def test_it_stands_where_the_placement_says(placement, times):
    layout, _ = lay_out(Layout.of_chunk(6), (reference(placement=placement),), ChunkPosition())
    span = layout[REFERENCES]
    assert span.times == times and span.clean and span.closed and span.tokens is not None


def test_it_sees_only_itself_and_is_seen_by_all():
    layout, seen = lay_out(Layout.of_chunk(2), (reference(),), ChunkPosition())
    assert seen == {(query, key): 0.0 for query in (2, 3, 4) for key in (0, 1)} and layout.frames == 5


def test_keyframes_and_skips_are_of_pictures_not_of_the_video():
    """Whatever the order of the nodes: an anchor's place is the anchor's."""
    keyframe = NarrativeKeyframes().plus(9, torch.ones(1, 16, 1, 10, 14))
    anchor = LookaheadAnchor(latents=torch.zeros(1, 16, 1, 10, 14))
    nodes = reference(placement="own"), keyframe, ReferenceSkip(), anchor
    layout, seen = lay_out(Layout.of_chunk(6), sort_techniques(nodes), ChunkPosition())
    assert [span.name for span in layout.spans] == ["chunk", "anchor", REFERENCES]
    assert layout["anchor"].latents is keyframe.keyframes[0][1]
    assert not any(query < 6 for query, _ in seen)


@pytest.mark.parametrize(("options", "said"), [
    ({"placement": "behind"}, "placement: got 'behind'"), ({"offload": "disk"}, "keep: got 'disk'"),
    ({"distance": 0.5}, "distance: got 0.5 latent frames")])
def test_what_it_cannot_be_is_said(options, said):
    with pytest.raises(ValueError, match=said):
        reference(**options)
