"""The claims about a video of the person: what its conditions lay out, whose video each take sees, the background."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from averages import Averages
from lodestar.experiments.claims import conditions, measures, reels
from lodestar.experiments.claims import takes as claims_takes
from lodestar.pipelines.headless import longcat_sampling as headless
from lodestar.training.puppet.network import puppet
from lodestar.training.puppet.speech import load_tracks
from lodestar.training.puppet.world import World

pytestmark = pytest.mark.once
CONDITIONS = conditions.CONDITIONS


@pytest.fixture(scope="module")
def world():
    return World(load_tracks(Path(__file__).parent / "golden" / "puppet"), held_out=1)


@pytest.fixture(scope="module")
def players(world):
    return claims_takes.cast(world, Averages(), 2, 3, silent=False)


@pytest.fixture(scope="module")
def reel(players, world):
    return reels.film(players, Averages(), world.size)


def test_a_video_stands_ahead_of_the_chunk_and_beside_it(players, reel):
    """Without a picture; of the head's tokens or of all, with sound or without."""
    known, kept = torch.zeros(2, 16, 4, 8, 8), {}
    for name, latents in (("video 13", 4), ("video 21", 6), ("video 49", 13), ("video whole", 6), ("video sound", 6)):
        asked = claims_takes.request(CONDITIONS[name], players, 1, known, 9, 13, reel)
        pictures, times, visibility, (span,) = headless.arrange_sequence(asked, 13, 4)
        assert not pictures and times == tuple(range(13)) and not visibility
        assert span.times == tuple(range(15, 15 + latents)) and span.latents.shape == (2, 16, latents, 8, 8)
        assert (span.audio is not None) == (name == "video sound")
        kept[name] = reel.counts(CONDITIONS[name])
    assert span.audio.shape == (2, 1, 21, 5, 5, 16) and kept["video sound"] == kept["video 21"]
    assert 0 < kept["video 21"]["tokens"] < kept["video whole"]["tokens"] == 6 * 16
    assert kept["video whole"]["attention"] == 9 * 16 * (13 * 16 + 6 * 16)


def test_each_character_sees_its_own_video(players, reel):
    """A batch's takes are those of each alone, and another video is another take."""
    network, sigmas = puppet(), torch.tensor([1.0, 0.5, 0.0])
    torch.manual_seed(0)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    known, noise = torch.randn(2, 16, 4, 8, 8), torch.randn(2, 16, 13, 8, 8)
    asked = claims_takes.request(CONDITIONS["video 13"], players, 1, known, 9, 13, reel)

    def made(rows, videos):
        (video,) = asked.techniques
        given = replace(asked, conditioning=known[rows], audio=asked.audio[rows],
                        techniques=(replace(video, latents=video.latents[videos]),))
        return headless.sample(network, noise[rows], sigmas, given)

    with torch.inference_mode():
        both, alone, other = made([0, 1], [0, 1]), made([1], [1]), made([1], [0])
    assert torch.allclose(both[1:], alone, atol=1e-4) and (alone - other).abs().max() > 1e-3


def test_the_background_is_measured_where_nobody_ever_is(world):
    take = world.take(5)
    true = take.frames(np.arange(4), 64)[None].float() / 255
    room = measures.empty_room(take.identity, 64).float()[None, None] / 255
    anybody = (true != room).any(-1).any(1)
    assert measures.away_from_room(true, room, true) == 0
    assert measures.away_from_room(true + anybody[:, None, ..., None], room, true) == 0
    assert measures.away_from_room(true + 0.1, room, true).item() == pytest.approx(0.1, abs=1e-5)
