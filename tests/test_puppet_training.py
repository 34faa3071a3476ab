"""The puppet's training: what a batch is made of, and a run that is ended and taken up again."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lodestar.training.puppet import train
from lodestar.training.puppet.latents import ENCODED_AFRESH, FRAMES, HEARD, LATENTS, PICTURES, lips
from lodestar.training.puppet.network import CHUNK, CONTEXT, puppet, trained
from lodestar.training.puppet.run import Run
from lodestar.training.puppet.ship import PACK, ship, shipped
from lodestar.training.puppet.speech import load_tracks
from lodestar.training.puppet.world import World
from safetensors.torch import load_file, save_file

CLIPS = 6
GOLDEN = Path(__file__).parent / "golden" / "puppet"


@pytest.fixture(scope="module")
def clips():
    """Numbers that say where they come from: clip * 1000 + latent, picture, or row of speech."""
    clip = torch.arange(CLIPS).float() * 1000

    def grid(*places: int) -> torch.Tensor:
        return torch.arange(torch.tensor(places).prod().item()).float().view(places)

    latents = (clip[:, None] + grid(LATENTS))[:, None, :, None, None].expand(-1, 16, -1, 2, 2)
    afresh = (clip[:, None, None] + 100 * grid(len(ENCODED_AFRESH))[:, None] + grid(CONTEXT) + 500)
    pictures = (clip[:, None] + grid(len(PICTURES)) + 900)
    heard = (clip[:, None] + grid(FRAMES + 2 * HEARD))[:, :, None, None].expand(-1, -1, 5, 16).clone()
    heard[CLIPS - 1] = -1       # nobody speaks
    lips = (clip[:, None] % 3000 / 1000 + grid(LATENTS))[:, :, None, None].expand(-1, -1, 2, 2)
    return {"latents": latents, "heard": heard, "lips": lips, "silent": torch.arange(CLIPS) == CLIPS - 1,
            "afresh": afresh[:, :, None, :, None, None].expand(-1, -1, 16, -1, 2, 2),
            "pictures": pictures[:, :, None, None, None].expand(-1, -1, 16, 2, 2)}


def samples(clips, count=200, **changes):
    config = train.Config("test", batch=4, null_audio=changes.pop("null_audio", 0.0), **changes)
    return [train.sample(config, clips, step) for step in range(count)]


def test_every_mode_continues_from_what_it_says(clips):
    kinds = set()
    for given in samples(clips):
        reference = len(given.times) > CHUNK
        assert given.clean == (1,) * reference + ((known,) if (known := given.front.shape[2] - reference) else ())
        noisy, whose = given.noisy[:, 0, :, 0, 0] % 1000, given.noisy[:, 0, 0, 0, 0] // 1000
        first = int(noisy[0, 0]) - known
        assert torch.equal(noisy, (noisy[:1, :1] + torch.arange(noisy.shape[1])).expand_as(noisy))
        assert given.noisy.shape[2] + known == CHUNK
        head = given.front[:, 0, int(reference):, 0, 0]
        assert torch.equal(head // 1000, whose[:, None].expand_as(head).floor()) or not head.numel()
        if head.shape[1] == CONTEXT and (head % 1000 >= 500).all():
            kinds.add("afresh")
            assert first in ENCODED_AFRESH
        elif head.shape[1] == CONTEXT:
            kinds.add("stitched")
            assert torch.equal(head[0] % 1000, first + torch.arange(CONTEXT).float()) and first > 0
        else:
            kinds.add(f"{head.shape[1]} known")
            assert first == 0
        if reference:
            place = int(given.front[0, 0, 0, 0, 0] % 1000) - 900
            assert given.times[0] == (PICTURES[place] - 4 * first) / 4
            assert 0 <= given.times[0] <= CHUNK - 1 + 20
        assert given.times[-CHUNK:] == tuple(range(CHUNK))
        spoken = given.audio[0, 0, :, 2, 0, 0]      # the middle of each window
        assert (spoken == -1).all() or torch.equal(spoken % 1000, HEARD + 4 * first + torch.arange(4 * CHUNK - 3.0))
    assert kinds == {"0 known", "1 known", "afresh", "stitched"}


def test_the_inferior_variants_differ_in_what_they_are_named_for(clips):
    fixed = [given.times[0] for given in samples(clips, reference="fixed") if len(given.times) > CHUNK]
    assert set(fixed) == {CHUNK - 1 + 3.0}
    unstitched = samples(clips, modes=(0.1, 0.25, 0.65, 0.0))
    heads = [given.front[0, 0, -1, 0, 0] % 1000 for given in unstitched if given.front.shape[2] >= CONTEXT]
    assert heads and all(head >= 500 for head in heads)
    assert not any(len(given.times) > CHUNK for given in samples(clips, reference="none"))


@pytest.mark.parametrize(("silence", "heard"), [("encoded", -1), ("null", 0)])
def test_who_does_not_speak_hears_silence_or_nothing(clips, silence, heard):
    of_the_silent = [given.audio[row] for given in samples(clips, 60, silence=silence) for row in range(4)
                     if given.noisy[row, 0, 0, 0, 0] // 1000 == CLIPS - 1]
    assert of_the_silent and all((audio == heard).all() for audio in of_the_silent)


def test_who_does_not_speak_can_be_left_out(clips):
    assert not any((given.audio == -1).any() for given in samples(clips, 60, silence="left out"))


def test_lips_count_more_than_the_rest(clips):
    for given in samples(clips, 60, lips=2.0):
        whose, noisy = given.noisy[:, 0, :, 0, 0] // 1000, given.noisy[:, 0, :, 0, 0] % 1000
        wanted = 1 + 2.0 * (whose % 3 + noisy)      # what the fixture says of that clip and latent
        assert torch.allclose(given.weight[:, 0, :, 0, 0], wanted / wanted.mean(), rtol=1e-3)


def test_lips_are_where_the_mouth_is():
    take = World(load_tracks(GOLDEN), size=96).take(3)
    found = lips(take, np.arange(4), 96)
    assert found.shape == (4, 12, 12) and found.min() == 0 and found.amax((1, 2)).min() > 0.5
    assert (found > 0).float().mean() < 0.15 and not found[:, :4].any() and not found[:, 10:].any()


def test_null_audio_is_as_frequent_as_asked(clips):
    nulls = [bool((audio == 0).all()) for given in samples(clips, 300, null_audio=0.3) for audio in given.audio]
    assert 0.25 < np.mean(nulls) < 0.35


@pytest.mark.parametrize("text", ['{"name": "x", "reference": "sometimes"}', '{"name": "x", "silence": "loud"}'])
def test_a_config_that_means_nothing_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="wanted one of"):
        train.Config.read(path)


def test_every_shipped_config_can_be_read():
    folder = train.Path(train.__file__).parent / "configs"
    configs = [train.Config.read(path) for path in sorted(folder.glob("*.json"))]
    assert [config.name for config in configs] == [path.stem for path in sorted(folder.glob("*.json"))]


def little() -> torch.nn.Module:
    torch.manual_seed(0)
    first, last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)
    return torch.nn.Sequential(first, torch.nn.SiLU(), last)


def run(folder, *ends: int) -> tuple[torch.nn.Module, Run]:
    """Trained up to each of `ends`, every time by a Run of its own, as after a restart."""
    for end in ends:
        model = little()
        going = Run(folder, model, end, 1e-2)

        def step(index: int, model=model) -> torch.Tensor:
            x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(index))
            return (model(x) - x.flip(1)).square().mean()
        going.train(step, 1)
    return model, going


def test_a_run_in_slices_is_the_run_in_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "learning_rate", lambda self: 1e-2)
    whole, one = run(tmp_path / "one", 12)
    sliced, three = run(tmp_path / "three", 3, 7, 12)
    assert one.done == three.done == 12
    assert all(map(torch.equal, whole.state_dict().values(), sliced.state_dict().values()))
    assert all(torch.equal(one.averaged[name], three.averaged[name]) for name in one.averaged)


def test_the_rate_falls_to_what_is_to_be_left(tmp_path):
    for left in (1.0, 0.25):
        going = Run(tmp_path, little(), 1000, 1e-2, left=left)
        going.done = 500
        assert going.learning_rate() == pytest.approx(1e-2 * (1 + left) / 2)
        going.done = 1000
        assert going.learning_rate() == pytest.approx(1e-2 * left)


def test_it_learns_and_writes_its_log(tmp_path):
    run(tmp_path, 200)
    log = json.loads((tmp_path / "log.json").read_text())
    assert [step for step, _ in log] == list(range(25, 201, 25)) and log[-1][1] < 0.5 * log[0][1]


def test_the_network_begins_at_zero_and_is_as_small_as_it_should_be():
    network = puppet()
    assert 3.5e6 < sum(weight.numel() for weight in network.parameters()) < 4.5e6
    x = torch.randn(1, 16, 3, 8, 8)
    with torch.no_grad():
        assert not network(x, torch.tensor([500.0]), audio=torch.randn(1, 1, 9, 5, 5, 16)).any()


def test_what_ships_is_what_was_trained(tmp_path):
    network = puppet()
    for weight in network.parameters():
        weight.data += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    for name in ("puppet_stem", "puppet", "puppet_unstitched"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.json").write_text(json.dumps([[25, 1.5], [50, 1.25]]))
        save_file({key: weight.half() for key, weight in network.state_dict().items()},
                  tmp_path / name / f"{name}.safetensors")
    assert ship(tmp_path, tmp_path) == [shipped(name, tmp_path) for name in ("puppet", "puppet_unstitched")]
    x, audio = torch.randn(1, 16, 3, 8, 8), torch.randn(1, 1, 9, 5, 5, 16)
    with torch.no_grad():
        made, half, rows = (one(x, torch.tensor([500.0]), audio=audio)
                            for one in (network, trained(shipped("puppet", tmp_path)),
                                        trained(shipped("puppet_unstitched", tmp_path))))
    assert 0 < (half - made).norm() / made.norm() < 5e-4 < (rows - made).norm() / made.norm() < 1e-2
    assert shipped("puppet_unstitched", tmp_path).stat().st_size < 0.55 * shipped("puppet", tmp_path).stat().st_size
    scales = [one.dtype for name, one in load_file(shipped("puppet_unstitched", tmp_path)).items() if "_scale" in name]
    assert len(scales) > 50 and set(scales) == {torch.float16}
    told = json.loads((tmp_path / "puppet" / "puppet_unstitched.json").read_text())
    assert told["steps"] == 50 and told["loss"] == [[25, 1.5], [50, 1.25]] and told["stem"]["steps"] == 50
    assert told["config"].endswith("puppet_unstitched.json") and len(told["commit"]) == 40


def test_all_that_ships_stays_small():
    shown = [path.stat().st_size for path in (PACK / "models").rglob("*.safetensors")]
    assert len(shown) >= 4 and sum(shown) <= 25_000_000
