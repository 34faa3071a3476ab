"""Custom background (TAVR): which tokens of a scene stay, when it stands, what holds it from the second chunk on."""
import pytest
import torch
from lodestar.techniques.closed_span import closed_spans, hides_frames
from lodestar.techniques.custom_background import CustomBackground, tokens_around, without_person
from lodestar.techniques.layout import BACKGROUND, REFERENCES, Layout
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.reference_tokens import Tokens, all_tokens
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.technique import ChunkPosition, lay_out, sort_techniques
from lodestar.techniques.video_reference import VideoReference

GRID = 4, 5     # rows, columns
pytestmark = pytest.mark.once


def person(left=2, right=3):
    mask = torch.zeros(40, 50)
    mask[10:40, 10 * left:10 * right] = 1
    return mask


def scene(**fields):
    return CustomBackground(torch.ones(1, 16, 1, 8, 10), tokens_around(person(), GRID), **fields)


def video(frames=2, **fields):
    return VideoReference(torch.zeros(1, 16, frames, 8, 10), Tokens(all_tokens(frames, GRID)), **fields)


def test_tokens_that_the_person_touches_are_dropped():
    mask = person()
    mask[0, 0] = 1      # a single pixel of a further token
    left = {(row, column) for row in range(4) for column in range(5)} - {(1, 2), (2, 2), (3, 2), (0, 0)}
    assert {tuple(place[1:]) for place in tokens_around(mask, GRID).places.tolist()} == left


@pytest.mark.parametrize(("mask", "said"), [
    (torch.zeros(40, 50), "mask: it is empty, so there is nobody to draw"),
    (torch.ones(40, 50), "mask: it covers all of the picture, so nothing is left of the scene")])
def test_a_mask_of_all_or_nothing_is_refused(mask, said):
    with pytest.raises(ValueError, match=said):
        tokens_around(mask, GRID)


def test_nothing_of_who_stood_there_is_left():
    pictures = [torch.full((1, 40, 50, 3), 0.5), torch.full((1, 40, 50, 3), 0.5)]
    pictures[1][:, person() > 0.5] = torch.rand(300, 3)
    one, other = (without_person(picture, person()) for picture in pictures)
    assert torch.equal(one, other) and torch.equal(one, pictures[0])


def test_it_stands_before_the_chunk_and_behind_the_video():
    """Whatever the order of the nodes; each sees itself alone, and the chunk sees both."""
    layout, seen = lay_out(Layout.of_chunk(2), sort_techniques((scene(), video(placement="before"))), ChunkPosition())
    assert layout[REFERENCES].times == (-3, -2) and layout[BACKGROUND].times == (-1,)
    assert [span.name for span in layout.spans] == ["chunk", REFERENCES, BACKGROUND]
    spans = (0, 0, 1, 1, 2)
    assert seen == {(query, key): 0.0 for query in range(2, 5) for key in range(5) if spans[query] != spans[key]}


def test_a_scene_that_moves_is_a_clip_up_to_the_chunk():
    """One mask for all of it; the video of the person makes room, from the second chunk on as well."""
    clip = CustomBackground(torch.ones(1, 16, 3, 8, 10), tokens_around(person(), GRID, 3))
    assert torch.equal(clip.tokens.keep, scene().tokens.keep.expand(3, -1, -1))
    later = ChunkPosition(chunk=1, opening=torch.full((1, 16, 1, 8, 10), 5.0))
    for position, times in ((ChunkPosition(), (-3, -2, -1)), (later, (-1,))):
        layout, _ = lay_out(Layout.of_chunk(2), sort_techniques((clip, video(placement="before"))), position)
        assert layout[BACKGROUND].times == times and layout[REFERENCES].times == (-5, -4)
    ahead, _ = lay_out(Layout.of_chunk(2), sort_techniques((clip, video())), ChunkPosition())
    assert ahead[REFERENCES].times == video().times(Layout.of_chunk(2))


def test_the_takes_first_latent_holds_it_from_the_second_chunk_on():
    """All of it, the person with the place; unless the picture is kept."""
    later = ChunkPosition(chunk=1, opening=torch.full((1, 16, 1, 8, 10), 5.0))
    for technique, position, first in ((scene(), ChunkPosition(), False), (scene(), later, True),
                                       (scene(then="keep"), later, False)):
        span = lay_out(Layout.of_chunk(2), (technique,), position)[0][BACKGROUND]
        assert span.closed and span.latents is (later.opening if first else technique.latents)
        assert span.tokens is (None if first else technique.tokens)


def test_a_picture_that_two_want_at_one_time_stands_once():
    """A stream's picture is its first latent: Style Anchor has it in front of the window already."""
    picture = torch.full((1, 16, 1, 8, 10), 5.0)
    stream = ChunkPosition(chunk=1, reference=picture, opening=picture.clone(), rolls=True)
    once, seen = lay_out(Layout.of_chunk(2), sort_techniques((scene(), StyleAnchor())), stream)
    assert [span.name for span in once.spans] == ["chunk", "anchor"] and not seen
    for others in ((scene(), StyleAnchor(distance=-2)), (scene(), StyleAnchor(latents=picture + 1))):
        both, _ = lay_out(Layout.of_chunk(2), sort_techniques(others), stream)
        assert [span.name for span in both.spans] == ["chunk", "anchor", BACKGROUND]


def test_closed_spans_hide_no_frame_of_the_call():
    assert list(closed_spans((video(), ReferenceSkip(), scene()))) == [REFERENCES, BACKGROUND]
    assert not hides_frames((video(), scene())) and hides_frames((video(), ReferenceSkip()))


@pytest.mark.parametrize(("fields", "said"), [
    ({"then": "nothing"}, "then: got 'nothing', wanted one of the take's first frame, keep"),
    ({"tokens": Tokens(all_tokens(2, GRID))}, "image: got a scene of 1 latents and tokens of 2, wanted as many")])
def test_what_it_cannot_be_is_said(fields, said):
    with pytest.raises(ValueError, match=said):
        CustomBackground(**{"latents": torch.ones(1, 16, 1, 8, 10), "tokens": scene().tokens, **fields})
