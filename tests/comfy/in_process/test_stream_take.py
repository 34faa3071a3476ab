"""Long Take with Rolling Window: block by block, the same however it is cut into chunks, broken off and resumed."""
from dataclasses import replace

import av
import comfy.samplers
import killed_streams
import pytest
import torch
from families import FAMILIES, FamilyChunk, load_family
from lodestar.backbones import attach
from lodestar.host.stream_chunk_sampler import choose_chunk_sampler
from lodestar.pipelines.take import plan as plans
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.custom_background import CustomBackground
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_tokens import Tokens
from lodestar.techniques.video_reference import VideoReference
from stream_takes import BLOCK, make_stream, session


@pytest.fixture(scope="module", params=[name for name in (
    "wan21_t2v", "wan22_s2v", "longcat_video", "longcat_avatar15", "wan21_i2v", "omniavatar", "infinitetalk",
    "humo_1_7b", "humo_17b", "avatarforcing") if FAMILIES[name].exists])
def chunk(request, tiny_models) -> FamilyChunk:
    return FamilyChunk(FAMILIES[request.param], load_family(request.param, tiny_models / "models"))


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(plans, "CHUNK_SECONDS", 0.5)


@pytest.fixture(scope="module")
def t2v(tiny_models) -> FamilyChunk:
    return FamilyChunk(FAMILIES["wan21_t2v"], load_family("wan21_t2v", tiny_models / "models"))


def test_a_stream_is_as_long_as_the_speech_and_the_same_in_one_chunk(chunk, tiny_models, tmp_path, monkeypatch):
    take = session(chunk, tiny_models, tmp_path, seconds=1)
    plan = take.take.plan
    assert len(plan.chunks) > 1 and (plan.total_latents - 1) % BLOCK == 0 and plan.trimmed_frames < 4 * BLOCK + 4
    finished, made = make_stream(take, "take/cut")
    with av.open(str(finished.path)) as container:
        assert container.streams.video[0].frames == plan.total_frames == chunk.backbone.fps
    assert torch.allclose(made[0][:, :, :1], take.inputs.reference, atol=1e-5)
    monkeypatch.setattr(plans, "CHUNK_SECONDS", 100)
    whole = session(chunk, tiny_models, tmp_path, seconds=1)
    assert len(whole.take.plan.chunks) == 1
    one = make_stream(whole, "take/whole")[1][0]
    assert (torch.cat(made, 2) - one).abs().max() < 1e-4 * one.abs().max()


def with_video_and_scene(chunk: FamilyChunk) -> FamilyChunk:
    """With keys that each run computes again, of a scene that the take's first latent replaces."""
    keep = torch.zeros(3, 4, 4, dtype=torch.bool)
    keep[:, 1:3, 1:3] = True
    filmed = attach.with_technique(chunk.model, VideoReference(chunk.picture(40, 3), Tokens(keep)))
    return replace(chunk, model=attach.with_technique(filmed, CustomBackground(chunk.picture(41), Tokens(~keep[:1]))))


def test_a_broken_stream_goes_on_as_if_it_had_not_been(t2v, tiny_models, tmp_path):
    """To the bit, beside a video of the person and a scene as well."""
    t2v = with_video_and_scene(t2v)
    with pytest.raises(OSError, match="broken off"):
        make_stream(session(t2v, tiny_models, tmp_path / "one"), "take/one", broken_after=1)
    _, later = make_stream(session(t2v, tiny_models, tmp_path / "one"), "take/one")
    _, whole = make_stream(session(t2v, tiny_models, tmp_path / "two"), "take/one")
    assert len(later) == len(whole) - 1 and all(torch.equal(*pair) for pair in zip(later, whole[1:], strict=True))


def test_killed_at_its_writes_a_students_stream_ends_in_the_same_bytes(tiny_models, tmp_path):
    """AvatarForcing's, in the memory and in the journal, one after another; killed_streams.py has every write."""
    models = tiny_models / "models"
    student = killed_streams.load_chunk(models)
    writes, calm = killed_streams.list_writes(student, models, tmp_path / "calm")
    assert {"memory", "decoder", "frame", "block", "rename"} <= set(writes) and len(calm["chunks"]) > 1
    for kind, number in (("memory", 9), ("rename", 2)):
        killed_streams.kill_before(student, models, tmp_path / "killed", number, kind)
    assert killed_streams.same_take(killed_streams.make_again(student, models, tmp_path / "killed"), calm)


def test_the_window_costs_the_same_however_long_the_take(t2v, tiny_models, tmp_path):
    frames = []

    def record(executor, x, *args, **kwargs):
        frames.append(x.shape[2])
        return executor(x, *args, **kwargs)

    take = session(t2v, tiny_models, tmp_path, seconds=5)
    model = take.inputs.model.clone()
    model.add_wrapper_with_key("diffusion_model", "zz_record", record)
    guider = t2v.guider(model)
    make_stream(replace(take, inputs=replace(take.inputs, model=model), sampling=replace(take.sampling, guider=guider)),
         "take/count")
    blocks = (take.take.plan.total_latents - 1) // BLOCK
    assert len(frames) == blocks + 3 - 1 and set(frames[3:-3]) == {2 + 3 * BLOCK}


def test_what_does_not_belong_together_is_refused(t2v, tiny_models, tmp_path):
    for block, sampler, wanted in ((0, None, r"plan: it has chunks.*Set block_latents of Plan Take to 2"),
                                   (3, None, "plan: it has blocks of 3"),
                                   (2, comfy.samplers.sampler_object("euler"), "only a Rolling Window makes")):
        take = session(t2v, tiny_models, tmp_path, block, sampler)
        with pytest.raises(ValueError, match=wanted):
            choose_chunk_sampler(take.inputs, take.sampling, None)
    take = session(t2v, tiny_models, tmp_path, picture=False)
    with pytest.raises(ValueError, match="a stream begins with its picture"):
        choose_chunk_sampler(take.inputs, take.sampling, None)
    take = session(t2v, tiny_models, tmp_path)
    late = attach.with_technique(take.inputs.model, LookaheadAnchor(3.0, "in chunk", 2.0))
    with pytest.raises(ValueError, match="index: got 2, wanted 0 to 1, .* a stream's first block"):
        choose_chunk_sampler(replace(take.inputs, model=late), take.sampling, None)


def test_a_chunk_is_made_again_where_its_windows_look_into_another_speech(tiny_models, tmp_path):
    """Behind the chunk's own latents as well; what no window of it sees leaves it as it was."""
    chunk = FamilyChunk(FAMILIES["longcat_avatar15"], load_family("longcat_avatar15", tiny_models / "models"))
    take = session(chunk, tiny_models, tmp_path)
    first = take.take.plan.chunks[0]
    window = VideoWriter(64, 64, take.take.plan.timeline.fps)

    def fingerprints(changed_from):
        layers = [layer.clone() for layer in take.inputs.features["encoded_audio_all_layers"]]
        for layer in layers:
            layer[:, 4 * changed_from:] = 1.0
        features = {**take.inputs.features, "encoded_audio_all_layers": tuple(layers)}
        return replace(take, inputs=replace(take.inputs, features=features)).fingerprints(window)[0]

    own, ahead, later = map(fingerprints, (10_000, first.end_latent + 1, first.end_latent + 2 * BLOCK + 2))
    assert own[0] != ahead[0] and own[0] == later[0] and own[1] != later[1]
