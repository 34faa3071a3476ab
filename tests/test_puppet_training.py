"""The puppet's training: what a batch is made of, variants as LoRAs, and what is exported."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lodestar.training.puppet import lora, train
from lodestar.training.puppet.export import CONFIGS, PACK, export, weights_file
from lodestar.training.puppet.latents import FRAMES, LATENTS, MARGIN, PICTURES, RE_ENCODED, REFERENCE, lips
from lodestar.training.puppet.layouts import SHARES, Config, levels, sample
from lodestar.training.puppet.network import CHUNK, CONTEXT, load_trained, puppet
from lodestar.training.puppet.speech import load_tracks
from lodestar.training.puppet.world import World
from safetensors.torch import load_file, save_file

CLIPS = 6
GOLDEN = Path(__file__).parent / "golden" / "puppet"


@pytest.fixture(scope="module")
def clips():
    """Values that say where they come from: clip * 1000 + latent, picture, or feature frame."""
    clip = torch.arange(CLIPS).float() * 1000

    def grid(*places: int) -> torch.Tensor:
        return torch.arange(torch.tensor(places).prod().item()).float().view(places)

    latents = (clip[:, None] + grid(LATENTS))[:, None, :, None, None].expand(-1, 16, -1, 2, 2)
    re_encoded = (clip[:, None, None] + 100 * grid(len(RE_ENCODED))[:, None] + grid(CONTEXT) + 500)
    pictures = (clip[:, None] + grid(len(PICTURES)) + 900)
    features = (clip[:, None] + grid(FRAMES + 2 * MARGIN))[:, :, None, None].expand(-1, -1, 5, 16).clone()
    features[CLIPS - 1] = -1       # nobody speaks
    lips = (clip[:, None] % 3000 / 1000 + grid(LATENTS))[:, :, None, None].expand(-1, -1, 2, 2)
    videos = clip[:, None, None] + 2000 * CLIPS * grid(2)[:, None] + 700 + grid(REFERENCE)
    return {"latents": latents, "audio": features, "lips": lips, "silent": torch.arange(CLIPS) == CLIPS - 1,
            "re-encoded": re_encoded[:, :, None, :, None, None].expand(-1, -1, 16, -1, 2, 2),
            "videos": videos[:, :, None, :, None, None].expand(-1, -1, 16, -1, 2, 2),
            "pictures": pictures[:, :, None, None, None].expand(-1, -1, 16, 2, 2)}


def samples(clips, count=200, **changes):
    config = Config("test", batch=4, null_audio=changes.pop("null_audio", 0.0), **changes)
    return [sample(config, clips, step) for step in range(count)]


def in_layout(clips, layout: str, count=80, **changes):
    return samples(clips, count, shares={layout: 1.0}, **changes)


def where(latents: torch.Tensor) -> torch.Tensor:
    """(B, n): which latent, picture or feature frame it is, whoever's."""
    return latents[:, 0, :, 0, 0] % 1000


@pytest.mark.parametrize(("layout", "known", "references"), [
    ("speech", 0, {0, 1}), ("picture", 1, {0, 1}), ("re-encoded", CONTEXT, {0, 1}), ("latents", CONTEXT, {0, 1}),
    ("pictures", CONTEXT, {2, 3, 4}), ("video", CONTEXT, {3, 4, 5, 6})])
def test_every_layout_continues_from_what_it_says(clips, layout, known, references):
    seen = set()
    for given in in_layout(clips, layout):
        shown = given.front.shape[2] - known
        seen.add(shown)
        assert given.noisy.shape[2] == CHUNK - known and given.block == 0
        assert given.clean == (*((shown,) if layout == "video" else (1,) * shown), *((known,) if known else ()))
        assert given.times[shown:] == tuple(range(CHUNK))
        noisy, whose = where(given.noisy), given.noisy[:, 0, 0, 0, 0] // 1000
        first = int(noisy[0, 0]) - known
        assert torch.equal(noisy, (first + known + torch.arange(CHUNK - known).float()).expand_as(noisy))
        assert (first == 0) == (layout in ("speech", "picture")) and (layout != "re-encoded" or first in RE_ENCODED)
        head = given.front[:, 0, shown:, 0, 0]
        assert torch.equal(head // 1000, whose[:, None].expand_as(head))
        assert torch.equal(head % 1000, (500 + 100 * RE_ENCODED.index(first) + torch.arange(CONTEXT).float()
                                         if layout == "re-encoded" else first + torch.arange(known).float()
                                         ).expand_as(head))
        talk = given.audio[0, 0, :, 2, 0, 0]      # the middle of each chunk
        assert (talk == -1).all() or torch.equal(talk % 1000, MARGIN + 4 * first + torch.arange(4 * CHUNK - 3.0))
    assert seen == references


def test_a_flexible_reference_stands_at_its_own_time(clips):
    found = [given for given in in_layout(clips, "latents") if len(given.times) > CHUNK]
    for given in found:
        first = int(where(given.noisy)[0, 0]) - CONTEXT
        assert given.times[0] == (PICTURES[int(where(given.front)[0, 0]) - 900] - 4 * first) / 4
        assert 0 <= given.times[0] <= CHUNK - 1 + 20
    assert len({given.times[0] for given in found}) > 20 and len(found) > 60


def test_several_pictures_are_of_different_frames_at_any_times(clips):
    times = set()
    for given in in_layout(clips, "pictures"):
        shown = given.front.shape[2] - CONTEXT
        assert len(set(where(given.front)[0, :shown].tolist())) == shown
        times |= set(given.times[:shown])
    assert len(times) > 150 and 0 <= min(times) < 2 and 28 < max(times) <= CHUNK - 1 + 20


def test_a_video_is_ahead_of_the_window_from_the_same_scene_or_another(clips):
    scenes = set()
    for given in in_layout(clips, "video"):
        shown = given.front.shape[2] - CONTEXT
        assert given.times[:shown] == tuple(given.times[0] + latent for latent in range(shown))
        assert CHUNK <= given.times[0] <= CHUNK + 7
        video = given.front[:, 0, :shown, 0, 0]
        assert torch.equal(video % 1000, (700 + torch.arange(shown).float()).expand_as(video))
        scenes |= set((video[:, 0] // (2000 * CLIPS)).tolist())
    assert scenes == {0, 1}


def test_a_level_for_each_block_and_none_lower_than_the_one_before(clips):
    known, pictures, generator = set(), 0, torch.Generator().manual_seed(0)
    for given in in_layout(clips, "levels", lips=0.0):
        front = given.front.shape[2]
        picture = bool(front) and given.times[0] == -1
        known.add(front - picture)
        pictures += picture
        assert given.noisy.shape[2] == 8 and given.block == 2
        assert given.times[int(picture):] == tuple(range(front - picture + 8))
        assert given.clean == (1,) * picture + ((front - picture,) if front > picture else ())
        found = levels(given, 3.0, generator)
        assert found.shape == (4, 8) and (found.diff(dim=1) >= 0).all() and (found[:, ::2] == found[:, 1::2]).all()
        assert 0 < found.min() and found.max() < 1 and (found[:, 0] < found[:, -1]).all()
        assert given.audio.shape[2] == 4 * (front - picture + 8) - 3
    assert known == {0, 1, 2, 3, 4} and 25 < pictures < 55
    one = levels(in_layout(clips, "latents", 1)[0], 3.0, generator)
    assert (one == one[:, :1]).all() and len(one.unique()) == 4


def test_the_base_has_all_layouts_and_the_decay_larger_batches(clips):
    blocks = [given.block for given in samples(clips, 300)]
    assert 0.13 < np.mean([block > 0 for block in blocks]) < 0.27 and set(SHARES) == set(Config("test").shares)
    assert len(sample(Config("test"), clips, 0, 16).noisy) == 16


def test_the_inferior_variants_differ_in_what_they_are_named_for(clips):
    plain = {"shares": {"picture": 0.5, "latents": 0.5}}
    fixed = [given.times[0] for given in samples(clips, reference="fixed", **plain) if len(given.times) > CHUNK]
    assert set(fixed) == {CHUNK - 1 + 3.0}
    unstitched = samples(clips, shares={"speech": 0.1, "picture": 0.25, "re-encoded": 0.65})
    heads = [where(given.front)[0, -1] for given in unstitched if given.front.shape[2] >= CONTEXT]
    assert heads and all(head >= 500 for head in heads)
    assert not any(len(given.times) > CHUNK for given in samples(clips, reference="none", **plain))


@pytest.mark.parametrize(("silence", "value"), [("encoded", -1), ("null", 0)])
def test_without_speech_the_features_are_silence_or_zeros(clips, silence, value):
    of_the_silent = [given.audio[row] for given in samples(clips, 60, silence=silence) for row in range(4)
                     if given.noisy[row, 0, 0, 0, 0] // 1000 == CLIPS - 1]
    assert of_the_silent and all((audio == value).all() for audio in of_the_silent)


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


@pytest.mark.parametrize("text", [
    '{"name": "x", "reference": "sometimes"}', '{"name": "x", "silence": "loud"}', '{"name": "x", "modes": [1]}',
    '{"name": "x", "shares": {"speech": 0.5, "song": 0.5}}', '{"name": "x", "shares": {"speech": 0.5}}'])
def test_a_config_that_means_nothing_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="wanted"):
        Config.read(path)


def test_every_config_of_the_pack_can_be_read():
    paths = sorted(CONFIGS.glob("*.json"))
    configs = [Config.read(path) for path in paths]
    assert [config.name for config in configs] == [path.stem for path in paths]
    assert [config.name for config in configs if not config.base] == ["puppet"]


# ---------------------------------------------------------------- the network, its variants, what is exported

def test_the_network_begins_at_zero_and_is_as_small_as_it_should_be():
    network = puppet()
    assert 4.2e6 < sum(weight.numel() for weight in network.parameters()) < 5e6
    x = torch.randn(1, 16, 3, 8, 8)
    with torch.no_grad():
        assert not network(x, torch.tensor([500.0]), audio=torch.randn(1, 1, 9, 5, 5, 16)).any()


def shaken(model: torch.nn.Module, amount: float) -> torch.nn.Module:
    for weight in model.parameters():
        weight.data += amount * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    return model


def asked(network) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    x, audio = (torch.randn(shape, generator=draw) for shape in ((1, 16, 3, 8, 8), (1, 1, 9, 5, 5, 16)))
    with torch.no_grad():
        return network(x, torch.tensor([500.0]), audio=audio)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_what_is_exported_is_what_was_trained(tmp_path):
    network = shaken(puppet(), 0.02)
    plain = asked(network)
    for name in ("puppet", "puppet_unstitched"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.json").write_text(json.dumps({"loss": [[25, 1.5], [50, 1.25]],
                                                              "precisions": ["float32"]}))
    save_file({key: weight.half() for key, weight in network.state_dict().items()},
              tmp_path / "puppet" / "puppet.safetensors")
    variant = lora.attach(network, 8)
    assert torch.equal(asked(network), plain)       # a LoRA is nothing at first
    shaken(variant, 0.02)
    changed = asked(network)
    save_file(lora.layout(variant.state_dict()), tmp_path / "puppet_unstitched" / "puppet_unstitched.safetensors")
    assert export(tmp_path, tmp_path) == [weights_file(name, tmp_path) for name in ("puppet", "puppet_unstitched")]
    base = weights_file("puppet", tmp_path)
    assert 0 < apart(asked(load_trained(base)), plain) < 5e-4
    variant = weights_file("puppet_unstitched", tmp_path)
    assert apart(asked(load_trained(variant, base)), changed) < 2e-3 < apart(plain, changed)
    assert variant.stat().st_size < 0.1 * base.stat().st_size
    record = json.loads((tmp_path / "puppet" / "puppet_unstitched.json").read_text())
    assert record["steps"] == 50 and record["loss"] == [[25, 1.5], [50, 1.25]] and record["precisions"] == ["float32"]
    assert record["config"].endswith("puppet_unstitched.json") and len(record["commit"]) == 40
    assert record["base"] == "puppet"
    with pytest.raises(ValueError, match="got a LoRA, wanted the weights that it belongs to"):
        load_trained(weights_file("puppet_unstitched", tmp_path))


def test_a_variant_learns_in_its_lora_alone(clips, tmp_path):
    base = tmp_path / "base.safetensors"
    save_file({key: weight.half().contiguous() for key, weight in shaken(puppet(), 0.02).state_dict().items()}, base)
    config = Config("puppet_small", base="puppet", rank=2, batch=1, steps=3, shares={"levels": 0.5, "video": 0.5})
    path = train.train(config, clips, tmp_path / "run", base, 1)
    assert path == tmp_path / "run" / "puppet_small.safetensors"
    weights = load_file(path)
    ups = [tensor for name, tensor in weights.items() if name.endswith("lora_up.weight")]
    assert len(ups) == 6 * len(lora.TRAINED) and all(up.any() and up.shape[1] == 2 for up in ups)
    assert {name.rsplit(".", 1)[-1] for name in weights} == {"weight", "alpha"}
    assert apart(asked(load_trained(path, base)), asked(load_trained(base))) > 5e-6     # the rate is still warming up


def test_the_base_is_trained_in_slices(clips, tmp_path):
    config = Config("puppet", batch=1, steps=2)
    assert train.train(config, clips, tmp_path, None, 0) is None
    assert (tmp_path / "puppet_so_far.safetensors").is_file() and not (tmp_path / "puppet.safetensors").is_file()
    assert train.train(config, clips, tmp_path, None, 5) == tmp_path / "puppet.safetensors"


def test_all_weights_of_the_pack_stay_small():
    shown = [path.stat().st_size for path in (PACK / "models").rglob("*.safetensors")]
    assert len(shown) >= 3 and sum(shown) <= 25_000_000
