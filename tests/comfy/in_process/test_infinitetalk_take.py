"""What a chunk of InfiniteTalk is given of pictures (padding, CLIP vision, the frames of a video that is dubbed), and
the colours that a take keeps.
"""
import logging
from dataclasses import replace
from fractions import Fraction

import av
import comfy.clip_vision
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl, Types

pytest.importorskip("comfy.ldm.wan.model_multitalk")
from infinitetalk_models import features, load, load_patch, load_plain, load_vae, session  # noqa: E402
from lodestar.backbones import attach  # noqa: E402
from lodestar.backbones.audio.encoder import load_audio_encoder  # noqa: E402
from lodestar.backbones.speech_guider import SpeechGuider  # noqa: E402
from lodestar.host import take_inputs  # noqa: E402
from lodestar.host.finished_frames import FinishedFrames  # noqa: E402
from lodestar.nodes.colour_match import LodestarColourMatch  # noqa: E402
from lodestar.nodes.infinitetalk import LodestarInfiniteTalk  # noqa: E402
from lodestar.nodes.infinitetalk_sampler import LodestarInfiniteTalkSampler  # noqa: E402
from lodestar.nodes.one_chunk import LodestarOneChunk  # noqa: E402
from lodestar.nodes.two_speakers import LodestarTwoSpeakers  # noqa: E402
from lodestar.pipelines.take.video_writer import VideoWriter  # noqa: E402
from lodestar.techniques.colour_match import ColourMatch, lab_of_rgb  # noqa: E402
from lodestar.techniques.lookahead_anchor import LookaheadAnchor  # noqa: E402
from tiny_talk import ENCODER  # noqa: E402


@pytest.fixture(scope="module")
def model(tiny_models):
    return load(tiny_models)


def conditions_of(take, context_of=lambda chunk: None):
    """What every condition of each chunk is given."""
    inputs = take.inputs
    return [inputs.backbone.chunk_inputs(inputs.request(chunk, context_of(chunk), inputs.reference)).conditions
            for chunk in inputs.plan.chunks]


def test_the_padding_is_the_picture_where_nothing_is_known(model, tiny_models, tmp_path):
    """Stable Video Infinity: [what is known | the picture to the end], of which the first latent is marked."""
    picture = torch.rand(1, 64, 64, 3)
    padded = attach.with_technique(model, LookaheadAnchor(placement="padding"))
    take = session(padded, tiny_models, tmp_path, features(), picture)
    take.check()
    known = torch.randn(1, 16, 3, 8, 8)
    first, second, _ = conditions_of(take, lambda chunk: known if chunk.index else None)
    wanted = take.inputs.encode(picture.expand(33, -1, -1, -1))
    assert torch.equal(first["concat_latent_image"], wanted)
    assert torch.equal(second["concat_latent_image"][:, :, 3:], wanted[:, :, 3:])
    assert torch.equal(second["concat_latent_image"][:, :, :3], known)
    assert all(given["concat_mask"][:, :, 0].eq(0).all() and given["concat_mask"][:, :, 1:].eq(1).all()
               for given in (first, second))
    grey = conditions_of(session(model, tiny_models, tmp_path, features(), picture))[0]["concat_latent_image"]
    assert (grey[:, :, 2:] - wanted[:, :, 2:]).abs().max() > 1e-3


def test_a_model_without_such_channels_refuses_padding(tiny_models, wan):
    padded, text = attach.with_technique(wan.load(tiny_models, "wan21_t2v"), LookaheadAnchor(placement="padding")), [
        [torch.zeros(1, 4, 4096), {}]]
    with pytest.raises(ValueError, match="anchor: placement 'padding' fills channels .* text-to-video has none"):
        LodestarOneChunk.execute(padded, text, text, load_vae(tiny_models), 64, 64, 17, None, torch.rand(1, 64, 64, 3))


def test_padding_is_no_span_and_needs_the_picture_itself(model, tiny_models, tmp_path):
    padded = attach.with_technique(model, LookaheadAnchor(placement="padding"))
    with pytest.raises(ValueError, match="reference: .*none came"):
        session(padded, tiny_models, tmp_path, features()).check()
    with pytest.raises(ValueError, match="anchor: got latents, but placement 'padding'"):
        LookaheadAnchor(placement="padding", latents=torch.zeros(1, 16, 1, 8, 8))
    assert attach.patch_of(padded).backbone.extra_latents(padded.model, (1, 16, 9, 8, 8), attach.techniques_of(padded),
                                                          attach.patch_of(padded).position) == 0


def tiny_vision(width=1280):
    """Core's CLIP vision in a size of its own, which no file can have."""
    return seeded(comfy.clip_vision.ClipVisionModel({
        "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
        "image_size": 28, "patch_size": 14, "num_channels": 3, "projection_dim": 8, "hidden_act": "gelu",
        "layer_norm_eps": 1e-5, "model_type": "clip_vision_model"}))


def seeded(vision):
    generator = torch.Generator().manual_seed(1)
    for weight in vision.model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator).to(weight.dtype) * 0.05
    return vision


def test_clip_vision_sees_the_whole_picture_in_every_chunk(tiny_models, tmp_path):
    vision, picture = tiny_vision(), torch.rand(1, 96, 64, 3)
    model = LodestarInfiniteTalk.execute(load_plain(tiny_models), load_patch(tiny_models), 1.0, vision, 0.0).args[0]
    take = session(model, tiny_models, tmp_path, features(), picture)
    before, unreadable = take.fingerprints(VideoWriter(64, 64, take.take.plan.timeline.fps))
    seen = [given["clip_vision_output"] for given in conditions_of(take, lambda chunk: torch.zeros(1, 16, 3, 8, 8))]
    wanted = vision.encode_image(take.inputs.fitted_picture, crop=False)
    assert len(seen) == 3 and all(torch.equal(one.penultimate_hidden_states, wanted.penultimate_hidden_states)
                                  for one in seen)
    assert unreadable == [] and take.fingerprints(VideoWriter(64, 64, take.take.plan.timeline.fps))[0] == before
    with pytest.raises(ValueError, match="clip_vision: got one of width 64, wanted 1280"):
        LodestarInfiniteTalk.execute(load_plain(tiny_models), load_patch(tiny_models), 1.0, tiny_vision(64), 0.0)


def test_clip_vision_of_both_nodes_is_refused(tiny_models, tmp_path):
    """The InfiniteTalk node's would win in silence."""
    own = LodestarInfiniteTalk.execute(load_plain(tiny_models), load_patch(tiny_models), 1.0, tiny_vision()).args[0]
    for model, refused in ((own, True), (load(tiny_models), False)):
        take = session(model, tiny_models, tmp_path, features(), torch.rand(1, 64, 64, 3))
        inputs = replace(take.inputs, clip_vision=tiny_vision())
        if not refused:
            inputs.check(None)
            continue
        with pytest.raises(ValueError, match="clip_vision: the InfiniteTalk node has one already.*Disconnect one"):
            inputs.check(None)
    again = LodestarInfiniteTalk.execute(own, load_patch(tiny_models), 1.0, tiny_vision()).args[0]
    assert attach.patch_of(again).backbone.patch.vision is not own.attachments["lodestar_speech_patch"].vision


def test_colours_are_the_picture_s_by_default_and_the_node_s_where_there_is_one(tiny_models):
    model = LodestarInfiniteTalk.execute(load_plain(tiny_models), load_patch(tiny_models), 1.0).args[0]
    assert attach.technique_of(model, ColourMatch).strength == 1
    assert attach.technique_of(LodestarColourMatch.execute(model, 0.25).args[0], ColourMatch).strength == 0.25


def test_what_is_written_and_what_goes_on_have_the_picture_s_colours(model, tiny_models, tmp_path, monkeypatch):
    picture = torch.tensor([0.6, 0.4, 0.3]).expand(1, 64, 64, 3) + torch.rand(1, 64, 64, 3) * 0.2
    encode, given = take_inputs.encode_frames, []

    def record(vae, frames):
        given.append(frames)
        return encode(vae, frames)

    monkeypatch.setattr(take_inputs, "encode_frames", record)
    matched = attach.with_technique(model, ColourMatch())
    with torch.inference_mode():
        path = session(matched, tiny_models, tmp_path, features(), picture).make("colours/take", False).path
    wanted = lab_of_rgb(picture).mean((0, 1, 2))
    handed = [frames for frames in given if len(frames) == 9]
    assert len(handed) == 2 and all((lab_of_rgb(frames).mean((1, 2)) - wanted).abs().max() < 2 for frames in handed)
    with av.open(str(path)) as container:
        shown = [torch.from_numpy(frame.to_ndarray(format="rgb24")) / 255 for frame in container.decode(video=0)]
    assert len(shown) == 75 and (lab_of_rgb(torch.stack(shown)).mean((1, 2)) - wanted).abs().max() < 4


def test_colours_need_a_picture(tiny_models, tmp_path, model):
    with pytest.raises(ValueError, match="reference: none came, and each frame is to have its colours"):
        session(attach.with_technique(model, ColourMatch()), tiny_models, tmp_path, features()).check()
    off = session(attach.with_technique(model, ColourMatch(0.0)), tiny_models, tmp_path, features())
    off.check()
    assert not isinstance(off.inputs.open_stream(), FinishedFrames)


@pytest.mark.parametrize(("steps", "shift"), [(40, 7.0), (8, 2.0)])
def test_the_schedule_is_the_authors(steps, shift):
    """Timesteps from 1000 to 1 and then 0, shifted."""
    timesteps = torch.linspace(1000, 1, steps, dtype=torch.float64) / 1000
    wanted = [*(shift * timesteps / (1 + (shift - 1) * timesteps)).tolist(), 0.0]
    sigmas = LodestarInfiniteTalkSampler.execute(steps, shift).args[1]
    assert sigmas.tolist() == pytest.approx(wanted, rel=1e-5)


# ---------------------------------------------------------------- what does not belong together, before any sampling

@pytest.mark.parametrize(("changes", "message"), [
    ({"rate_hz": 32.0, "family": "longcat 1.0"}, "got longcat 1.0 at 32 Hz, made for another model than InfiniteTalk"),
    ({"family": "omniavatar"}, "got omniavatar at 25 Hz, made for another model"),
    ({"audio_streams": (features()["encoded_audio_all_layers"],) * 2}, "several audio streams and no masks"),
    ({"encoded_audio_all_layers": features(layers=5)["encoded_audio_all_layers"]}, "got 5 layers of width 768"),
])
def test_another_model_s_speech_is_refused(model, tiny_models, tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"audio_features: .*{message}"):
        session(model, tiny_models, tmp_path, {**features(), **changes}, torch.rand(1, 64, 64, 3)).check()


def test_speech_without_the_patch_is_refused(tiny_models, tmp_path):
    """The model went past the InfiniteTalk node: what was made for it would reach no block."""
    plain, picture = load_plain(tiny_models), torch.rand(1, 64, 64, 3)
    with pytest.raises(ValueError, match="audio_features: they were made for InfiniteTalk, .*image-to-video has no"):
        session(plain, tiny_models, tmp_path, {**features(), "family": "InfiniteTalk"}, picture).check()
    session(plain, tiny_models, tmp_path, features(), picture).check()      # core's own are said to be unused


def test_masks_of_nothing_are_refused(model, tiny_models, tmp_path):
    """When they are drawn, and where the take's shape leaves nothing of them."""
    folder = tiny_models / "models" / "audio_encoders"
    encoder, speech = load_audio_encoder(folder / ENCODER), {"waveform": torch.rand(1, 1, 16000), "sample_rate": 16000}
    empty = torch.zeros(1, 64, 64)
    with pytest.raises(ValueError, match="mask_1: "):
        LodestarTwoSpeakers.execute(torch.rand(1, 64, 64, 3), encoder, "together", "", "", "", "InfiniteTalk", False, 0,
                                    speech, speech, empty, 1 - empty)
    cropped = features(speakers=2)
    cropped["speaker_masks"] = torch.zeros(1, 3, 64, 192)
    cropped["speaker_masks"][:, 0, :, :20] = cropped["speaker_masks"][:, 1, :, 90:] = 1
    with pytest.raises(ValueError, match="speaker"):
        session(model, tiny_models, tmp_path, cropped, torch.rand(1, 64, 192, 3)).check()


def test_a_take_without_clip_vision_says_so_once_a_chunk(model, tiny_models, tmp_path, caplog):
    text = [[torch.randn(1, 7, 4096), {}]]
    guider = SpeechGuider(model, text, text, 1.0, 2.0, False)
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        session(model, tiny_models, tmp_path, features(), torch.rand(1, 64, 64, 3), guider).make("blind/take", False)
    assert caplog.text.count("no CLIP vision of the picture") == 3


def dubbed(tiny_models, video):
    plain, patch = load_plain(tiny_models), load_patch(tiny_models)
    return LodestarInfiniteTalk.execute(plain, patch, 1.0, None, 0.0, video).args[0]


def grey_video(path, frames=60, fps=25):
    """A file whose frame i is of brightness 4 * i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.options = 96, 80, "yuv444p", {"crf": "0"}
        for index in range(frames):
            picture = np.full((80, 96, 3), 4 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return InputImpl.VideoFromFile(str(path))


def in_memory(frames=60, fps=25):
    pictures = (torch.arange(frames) * 4 / 255).view(-1, 1, 1, 1).expand(-1, 80, 96, 3)
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=pictures, audio=None, frame_rate=Fraction(fps)))


@pytest.mark.parametrize("from_file", [True, False])
def test_a_dubbed_video_shows_each_chunk_its_frame_at_that_time(tiny_models, tmp_path, from_file):
    """Chunks begin at frames 0, 24 and 48 of the take; behind the video's end the last one stays, and no reference is
    needed."""
    for frames, wanted in ((60, (0, 24, 48)), (30, (0, 24, 29))):
        video = grey_video(tmp_path / f"{frames}.mp4", frames) if from_file else in_memory(frames)
        model = dubbed(tiny_models, video)
        take = session(model, tiny_models, tmp_path, features())
        take.check()
        shown = [take.inputs.chunk_picture(chunk).mean().item() * 255 for chunk in take.inputs.plan.chunks]
        assert shown == pytest.approx([4 * frame for frame in wanted], abs=1.5)
    if from_file:
        first, second, _ = conditions_of(take, lambda chunk: torch.zeros(1, 16, 3, 8, 8) if chunk.index else None)
        assert not torch.equal(first["concat_latent_image"], second["concat_latent_image"])
        assert torch.equal(second["concat_latent_image"], take.inputs.backbone.concat_latent(
            take.inputs.encode, take.inputs.chunk_picture(take.inputs.plan.chunks[1]), 9, 64, 64))


def test_a_dubbed_take_is_known_by_the_frames_it_has(tiny_models, tmp_path):
    """A video of another name is the same; one that differs later leaves the first chunks as they were."""
    def prints(video):
        take = session(dubbed(tiny_models, video), tiny_models, tmp_path, features())
        return take.fingerprints(VideoWriter(64, 64, take.take.plan.timeline.fps))

    whole, unreadable = prints(grey_video(tmp_path / "one.mp4"))
    assert unreadable == [] and whole == prints(grey_video(tmp_path / "two.mp4"))[0]
    shorter = prints(grey_video(tmp_path / "short.mp4", 30))[0]
    assert shorter[:2] == whole[:2] and shorter[2]["chunk picture"] != whole[2]["chunk picture"]


def test_a_dubbed_take_is_as_long_as_its_speech(tiny_models, tmp_path, caplog):
    model = dubbed(tiny_models, grey_video(tmp_path / "grey.mp4"))
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        path = session(model, tiny_models, tmp_path, features(), torch.rand(1, 64, 64, 3)).make("dub/take", False).path
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 75
    assert "reference: it is not used" in caplog.text
    with pytest.raises(ValueError, match="video: .*cannot be read"):
        (tmp_path / "broken.mp4").write_bytes(b"no video")
        dubbed(tiny_models, InputImpl.VideoFromFile(str(tmp_path / "broken.mp4")))


@pytest.mark.parametrize("black", [1, 7])
def test_a_dubbed_video_that_fades_in_shows_its_first_frame_that_is_not_black(tiny_models, tmp_path, black):
    pictures = torch.rand(60, 80, 96, 3, generator=torch.Generator().manual_seed(6))
    pictures[:black] = pictures[24:26] = 0
    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=pictures, audio=None, frame_rate=Fraction(25)))
    inputs = session(dubbed(tiny_models, video), tiny_models, tmp_path, features()).inputs
    assert torch.equal(inputs.own_picture[0], pictures[black])
    assert torch.equal(inputs.chunk_picture(inputs.plan.chunks[1]), inputs._fit(pictures[26:27]))
