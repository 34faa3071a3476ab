"""Rolling Window on ComfyUI's models: levels for each latent, anchors that move along, against streams by hand."""
import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode
from draws import random
from families import FAMILIES, SIZE, FamilyChunk, load_family
from lodestar.backbones import attach
from lodestar.backbones.high_low_guider import HighLowGuider
from lodestar.backbones.speech_guider import guide_speech
from lodestar.host.rolling_sampler import RollingSampler, check_levels
from lodestar.nodes.student_schedule import LodestarStudentSchedule
from lodestar.techniques.colour_match import ColourMatch
from lodestar.techniques.projected_guidance import Projection
from lodestar.techniques.rolling_window import noise_seed
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.technique import ChunkPosition
from lodestar.techniques.temporal_anchor import TemporalAnchor

ONE_LEVEL = tuple(name for name, family in FAMILIES.items() if family.exists and name.startswith(
    ("animate", "cogvideox", "hunyuan")))
ANOTHER_MEMORY = ("liveavatar",)
IN_TAKES = ("humo_1_7b", "humo_17b")    # whose references stand behind a clip
ROLLING = [name for name, family in FAMILIES.items() if family.exists and name not in (
    *ONE_LEVEL, *ANOTHER_MEMORY, *IN_TAKES) and not family.sound]     # which is a second stream with the same level
EULER, EVEN = comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.8, 0.5, 0.3, 0.0])
LATENTS = 6


@pytest.fixture(scope="module", params=ROLLING)
def chunk(request, tiny_models) -> FamilyChunk:
    return FamilyChunk(FAMILIES[request.param], load_family(request.param, tiny_models / "models"))


@pytest.fixture(scope="module")
def t2v(tiny_models) -> FamilyChunk:
    return FamilyChunk(FAMILIES["wan21_t2v"], load_family("wan21_t2v", tiny_models / "models"))


def sample(chunk, sampler, sigmas, *techniques, latents=LATENTS, model=None, mask=None, given=None, seed=1):
    """A clip, as SamplerCustomAdvanced makes it."""
    inputs = chunk.inputs(chunk=0, latents=latents)
    guider = chunk.guider_at(chunk.guider(chunk.model if model is None else model), techniques, inputs, chunk=0)
    latent = torch.zeros_like(inputs.samples) if given is None else given
    with torch.inference_mode():
        return guider.sample(random(*inputs.samples.shape, seed=seed), latent, sampler, sigmas, denoise_mask=mask,
                             disable_pbar=True, seed=1)


def test_one_block_of_even_levels_that_keeps_its_path_is_euler(chunk):
    wanted = sample(chunk, EULER, EVEN)
    found = sample(chunk, RollingSampler(LATENTS, 4, "keep"), EVEN)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_stream_on_every_family(chunk):
    anchors = TemporalAnchor(2), StyleAnchor(latents=chunk.picture(5))
    sigmas = torch.tensor([1.0, 0.8, 0.5, 0.0])
    made = sample(chunk, RollingSampler(2, 1, "fresh"), sigmas, *anchors)
    assert made.shape[2] == LATENTS and made.isfinite().all()
    for fewer in (anchors[:1], anchors[1:]):
        assert (sample(chunk, RollingSampler(2, 1, "fresh"), sigmas, *fewer) - made).abs().max() > 1e-3
    other = anchors[0], StyleAnchor(latents=chunk.picture(6))
    assert (sample(chunk, RollingSampler(2, 1, "fresh"), sigmas, *other) - made).abs().max() > 1e-3


def by_hand(chunk, sigmas, size, passes, recents, picture, distance, latents, renoise="fresh", reindex=True):
    """A dictionary of blocks and the visits from the definition; ComfyUI's own module, its frequencies and timesteps
    laid out here, one guidance branch after the other."""
    module, base = chunk.model.model.diffusion_model, chunk.model.model
    blocks, length = latents // size, (len(sigmas) - 1) // passes
    first = random(1, 16, latents, *SIZE, seed=1)
    state, done = {block: first[:, :, block * size:(block + 1) * size] for block in range(blocks)}, []
    clean = base.process_latent_in(picture)
    for step in range(blocks + length - 1):
        inside = [block for block in range(blocks) if step - length < block <= step]
        for each in range(passes):
            levels = [(step - block) * passes + each for block in inside]
            seen = done[-recents:] if recents else []
            frames = [*seen, *(state[block][:, :, frame:frame + 1] for block in inside for frame in range(size))]
            sigma = [0.0] * len(seen) + [sigmas[level] for level in levels for _ in range(size)]
            oldest = inside[0] * size - len(seen)
            rows = torch.cat([module.rope_encode(len(frames), *SIZE, dtype=torch.float32), module.rope_encode(
                1, *SIZE, t_start=distance if reindex else -oldest, dtype=torch.float32)], 1)
            x, times = torch.cat([*frames, clean], 2), torch.tensor([[1000 * level for level in sigma] + [0.0]])
            flows = [module.forward_orig(x, times, prompt[0][0], freqs=rows)[:, :, :len(frames)]
                     for prompt in (chunk.prompt(3), chunk.prompt(4))]
            flow = flows[1] + 2.0 * (flows[0] - flows[1])
            predicted = x[:, :, :-1] - torch.tensor(sigma).view(1, 1, -1, 1, 1) * flow
            for place, (block, level) in enumerate(zip(inside, levels, strict=True)):
                begin = len(seen) + place * size
                own, later = predicted[:, :, begin:begin + size], sigmas[level + 1]
                if renoise == "keep":
                    state[block] = state[block] + (later - sigmas[level]) * flow[:, :, begin:begin + size]
                else:
                    fresh = torch.randn(own.shape, generator=torch.Generator().manual_seed(
                        noise_seed(1, block, level + 1)))
                    state[block] = (1 - later) * own + later * fresh if later else own
        if step >= length - 1:
            done += list(state[inside[0]].split(1, 2))
    return base.process_latent_out(torch.cat(done, 2))


@pytest.mark.parametrize(("size", "passes", "levels", "recents", "distance", "latents", "renoise", "reindex"), [
    (2, 1, 3, 2, -1, 8, "fresh", True), (1, 2, 4, 3, 5, 5, "fresh", True), (3, 1, 1, 0, -1, 6, "fresh", True),
    (2, 1, 2, 1, -1, 6, "fresh", False), (1, 1, 3, 2, -2.5, 2, "keep", True)])
def test_a_stream_equals_one_by_hand(t2v, size, passes, levels, recents, distance, latents, renoise, reindex):
    sigmas = [*(1 - 0.9 * level / levels for level in range(levels)), 0.0]
    picture = t2v.picture(5)
    with torch.inference_mode():
        wanted = by_hand(t2v, sigmas, size, passes, recents, picture, distance, latents, renoise, reindex)
    found = sample(t2v, RollingSampler(size, passes, renoise), torch.tensor(sigmas), TemporalAnchor(recents),
                   StyleAnchor(distance, reindex, latents=picture), latents=latents)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_finished_latents_of_longcat_see_only_one_another(tiny_models):
    """They are its conditioning frames: what the window holds does not change what they are, so a stream over a given
    past is the same whatever their own predictions would be."""
    chunk = FamilyChunk(FAMILIES["longcat_video"], load_family("longcat_video", tiny_models / "models"))
    seen = []
    model = chunk.model.clone()

    def record(executor, x, timestep, *args, **kwargs):
        seen.append((x.shape[2], kwargs.get("num_cond_frames", 0), timestep.shape[-1]))
        return executor(x, timestep, *args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "zz_record", record)
    sample(chunk, RollingSampler(2, 1, "fresh"), torch.tensor([1.0, 0.5, 0.0]), TemporalAnchor(2), model=model)
    assert [call for call in seen if call[1]] and all(frames == times for frames, _, times in seen)
    assert [given for _, given, _ in seen] == [0, 0, 2, 2]


def test_longcat_s_finished_latents_are_computed_once_for_each_finished_block(tiny_models, monkeypatch):
    """With the same result as in each call, also in RAM; the store holds the newest alone."""
    chunk = FamilyChunk(FAMILIES["longcat_avatar15"], load_family("longcat_avatar15", tiny_models / "models"))
    network, made = chunk.model.model.diffusion_model, []
    make = network.make_caches
    monkeypatch.setattr(network, "make_caches", lambda x, *args, **kwargs: made.append(x.shape[2]) or make(
        x, *args, **kwargs))
    asked = RollingSampler(1, 2, "fresh"), torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
    anchor = StyleAnchor(latents=chunk.picture(5))
    found = [sample(chunk, *asked, TemporalAnchor(2, keep), anchor) for keep in ("VRAM", "RAM")]
    # one picture before anything is finished, then with 1 and 2 finished latents for each of the windows after that
    assert made == 2 * [1, 2, 3, 3, 3, 3]
    monkeypatch.setattr("lodestar.backbones.longcat.backbone.with_cache", lambda call, *_: call)
    wanted = sample(chunk, *asked, TemporalAnchor(2), anchor)
    assert len(made) == 12 and torch.equal(*found)
    assert (found[0] - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_given_picture_comes_back_as_it_was_and_the_blocks_follow_it(t2v):
    picture, mask = t2v.picture(5), torch.ones(1, 1, 7, *SIZE)
    given = torch.zeros(1, 16, 7, *SIZE)
    given[:, :, :1], mask[:, :, :1] = picture, 0
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    made = sample(t2v, RollingSampler(2, 1, "fresh"), sigmas, TemporalAnchor(1), latents=7, mask=mask, given=given)
    assert torch.allclose(made[:, :, :1], picture, atol=1e-5) and made.shape[2] == 7
    mask[:, :, 3] = 0
    with pytest.raises(ValueError, match="may keep the first latent"):
        sample(t2v, RollingSampler(2, 1, "fresh"), sigmas, latents=7, mask=mask, given=given)


@pytest.mark.parametrize("name", ONE_LEVEL)
def test_a_family_of_one_level_is_refused_by_name_beside_those_that_are_not(tiny_models, name):
    refused = FamilyChunk(FAMILIES[name], load_family(name, tiny_models / "models"))
    with pytest.raises(ValueError, match=f"model: {refused.backbone.name} takes one noise level for all.*one of: "
                       ) as refusal:
        sample(refused, RollingSampler(1, 1, "fresh"), torch.tensor([1.0, 0.5, 0.0]))
    listed = str(refusal.value).partition("one of: ")[2]
    assert "Wan 2.2 S2V" in listed and "OmniAvatar" in listed and refused.backbone.supported not in listed


def test_a_student_of_another_memory_is_refused_with_the_reason(tiny_models):
    refused = FamilyChunk(FAMILIES["liveavatar"], load_family("liveavatar", tiny_models / "models"))
    with pytest.raises(ValueError, match="model: LiveAvatar's stream remembers .*, one cache of keys per level"):
        sample(refused, RollingSampler(1, 1, "fresh"), torch.tensor([1.0, 0.5, 0.0]))


@pytest.mark.parametrize("name", IN_TAKES)
def test_a_family_whose_references_are_behind_the_clip_is_for_long_take(tiny_models, name):
    refused = FamilyChunk(FAMILIES[name], load_family(name, tiny_models / "models"))
    with pytest.raises(ValueError, match="sampler: HuMo .* behind the clip's last latent.*Window with Long Take"):
        sample(refused, RollingSampler(1, 1, "fresh"), torch.tensor([1.0, 0.5, 0.0]))


def test_what_does_not_fit_is_refused(t2v):
    two = torch.tensor([1.0, 0.5, 0.0])
    with pytest.raises(ValueError, match=r"got 7 latents.*21 frames \(6 latents\) or 29 frames \(8 latents\)"):
        sample(t2v, RollingSampler(2, 1, "fresh"), two, latents=7)
    with pytest.raises(ValueError, match="2 levels and a 0, which 4 passes do not divide"):
        sample(t2v, RollingSampler(2, 4, "fresh"), two)
    with pytest.raises(ValueError, match="falling levels that end in 0"):
        sample(t2v, RollingSampler(2, 1, "fresh"), torch.tensor([0.5, 1.0, 0.0]))
    with pytest.raises(ValueError, match="AvatarForcing was distilled for 4"):
        LodestarStudentSchedule.execute("AvatarForcing", 4, 2, 5.0)
    cached = EasyCacheNode.execute(t2v.model, 0.2, 0.1, 0.9, False).args[0]
    with pytest.raises(ValueError, match="EasyCache"):
        sample(t2v, RollingSampler(2, 1, "fresh"), two, model=cached)
    windows = WanContextWindowsManualNode.execute(t2v.model, 9, 4, "standard_static", 1, False, "flat", False).args[0]
    with pytest.raises(ValueError, match="context windows"):
        sample(t2v, RollingSampler(2, 1, "fresh"), two, model=windows)


def test_what_changes_nothing_says_so_once(chunk, caplog):
    """A temporal anchor without a rolling window, and colours of frames that other nodes decode."""
    sigmas, colours = torch.tensor([1.0, 0.5, 0.0]), ColourMatch()
    with caplog.at_level("WARNING", "lodestar"):
        sample(chunk, RollingSampler(2, 1, "fresh"), sigmas, TemporalAnchor(2), colours, ColourMatch(0.0))
        assert not [said for said in caplog.messages if "is inactive" in said]
        sample(chunk, EULER, sigmas, TemporalAnchor(0), ColourMatch(0.0))
        assert not [said for said in caplog.messages if "is inactive" in said]
        sample(chunk, EULER, sigmas, TemporalAnchor(2), colours)
        guider = chunk.guider(attach.with_technique(chunk.model, colours))
        outside = attach.guider_at(guider, (colours,), ChunkPosition(), chunk.inputs(chunk=0).conditions, {})
        chunk.run(outside, chunk.inputs(chunk=0))
    assert [said for said in caplog.messages if "is inactive" in said] == [
        "temporal anchor is inactive: no Rolling Window samples",
        "colour match is inactive: only Long Take matches the frames that it decodes"]


def test_a_model_without_any_technique_streams_too(t2v):
    """Nothing of the pack is on it when the sampler comes."""
    guider = t2v.guider(t2v.model)
    assert attach.patch_of(guider.model_patcher) is None
    with torch.inference_mode():
        made = guider.sample(random(1, 16, 6, *SIZE, seed=1), torch.zeros(1, 16, 6, *SIZE), RollingSampler(
            LATENTS, 4, "keep"), EVEN, disable_pbar=True, seed=1)
    wanted = sample(t2v, EULER, EVEN)
    assert (made - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_guider_that_goes_by_one_noise_level_is_refused(t2v):
    """Before a model is asked, in a take before it is loaded."""
    guided = guide_speech(t2v.model, t2v.prompt(3), t2v.prompt(4), 3.0, 3.0, False)
    check_levels(guided)
    guided.project_directions(Projection(-0.75, 55.0))
    for guider in (guided, HighLowGuider(t2v.model, t2v.model, t2v.prompt(3), t2v.prompt(4), 2.0, 2.0)):
        with pytest.raises(ValueError, match="guider: a pair of models, projected guidance"):
            guider.sample(random(1, 16, 6, *SIZE, seed=1), torch.zeros(1, 16, 6, *SIZE), RollingSampler(2, 1, "fresh"),
                          torch.tensor([1.0, 0.8, 0.5, 0.0]), disable_pbar=True, seed=1)
