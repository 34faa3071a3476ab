"""Video Reference and Custom Background: which frames and tokens they take, by hand; what is said; what is refused."""
import json
from fractions import Fraction

import pytest
import torch
from comfy_api.latest import InputImpl
from families import FAMILIES, load_family, load_vae
from lodestar.backbones import attach
from lodestar.backbones.images import fit_picture
from lodestar.backbones.vae import encode_frames
from lodestar.host import custom_background
from lodestar.host.take_inputs import TakeInputs
from lodestar.host.who_stands_where import list_references, read_references
from lodestar.nodes.custom_background import LodestarCustomBackground
from lodestar.nodes.video_reference import LodestarVideoReference
from lodestar.pipelines.frames_at_times import FileFrames
from lodestar.pipelines.take.plan import plan_take
from lodestar.techniques.custom_background import THEN, CustomBackground, without_person
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.timeline import Timeline
from lodestar.techniques.video_reference import VideoReference
from served_takes import write_video

SIDE = 64
ASKED = {"frames": 9, "choose": "contiguous", "grow": 0.0, "when_empty": "all", "placement": "ahead", "distance": 3.0,
         "keep": "VRAM"}


@pytest.fixture(scope="module")
def model(tiny_models):
    return load_family("wan21_t2v", tiny_models / "models")


@pytest.fixture(scope="module")
def vae(tiny_models):
    return load_vae(FAMILIES["wan21_t2v"], tiny_models / "models")


def scene(frames=24, sharp=range(8, 17)):
    """(T, 64, 64, 3): grey, with fine stripes that move in the sharp frames."""
    pictures = torch.full((frames, SIDE, SIDE, 3), 0.5)
    for frame in sharp:
        pictures[frame, :, frame % 2::2] = 0.9
        pictures[frame, :4 * (frame - 7)] *= 0.8
    return pictures


def refer(model, vae, video, **given):
    made = LodestarVideoReference.execute(model=model, vae=vae, video=video, **{**ASKED, **given})
    return attach.technique_of(made.args[0], VideoReference), made.args[1]


def test_the_sharpest_piece_is_encoded_as_one_stream(model, vae):
    """From a latent's first frame on, and as many frames as make whole latents."""
    technique, said = refer(model, vae, scene(), frames=12)
    assert torch.equal(technique.latents, encode_frames(vae, scene()[8:17]).float())
    assert technique.frames == 3 and technique.tokens.whole and technique.tokens.keep.shape == (3, 4, 4)
    assert said.startswith("48 of 48 tokens kept (100%): 3 latents of 9 frames, 64x64.\nAdded to each call: 14.3% more")


@pytest.mark.parametrize("choose", ["spread", "even"])
def test_single_frames_are_encoded_alone(model, vae, choose):
    video = torch.rand(17, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(3))
    technique, _ = refer(model, vae, video, frames=3, choose=choose)
    chosen = {"even": [0, 8, 16]}.get(choose)
    alone = [encode_frames(vae, frame[None]).float() for frame in video]
    found = [next(place for place, one in enumerate(alone) if torch.equal(one[:, :, 0], latent))
             for latent in technique.latents.unbind(2)]
    assert technique.frames == 3 and found == (chosen or found) and len(set(found)) == 3


def test_a_file_is_read_by_time(model, vae, tmp_path):
    """Twice the model's rate: every other frame."""
    file = write_video(tmp_path / "person.mp4", 2.0, fps=32)
    video = InputImpl.VideoFromFile(str(file))
    technique, said = refer(model, vae, video, frames=48, width=64, height=64)
    pictures = list(FileFrames(str(file)).at([Fraction(2 * frame, 32) for frame in range(29)]))
    fitted = torch.cat([fit_picture(picture[None], 64, 64) for picture in pictures])
    assert torch.equal(technique.latents, encode_frames(vae, fitted).float())
    assert "32 frames at 16 fps, and 48 were asked for" in said


def test_tokens_are_those_of_the_regions_of_all_frames_of_a_latent(model, vae):
    """Masks are spread over the video; a latent has what any of its frames has."""
    masks = torch.zeros(24, SIDE, SIDE)
    masks[:, 16:32, 16:32] = 1
    masks[10, 48:, 48:] = 1
    technique, said = refer(model, vae, scene(), regions=masks)
    assert technique.tokens.places.tolist() == [[0, 1, 1], [1, 1, 1], [1, 3, 3], [2, 1, 1]]
    assert said.startswith("4 of 48 tokens kept (8%)")


def test_boxes_are_those_of_core(model, vae):
    """One for the video, or a list of each frame's faces, of which the largest counts; cropped as the frames are."""
    face, other = {"x": 17, "y": 17, "width": 14, "height": 14}, {"x": 50, "y": 0, "width": 4, "height": 4}
    for boxes in (face, [face], [[face, other]] * 24):
        assert refer(model, vae, scene(), regions=boxes)[0].tokens.keep[0].nonzero().tolist() == [[1, 1]]
    wide = torch.cat([torch.rand(9, SIDE, 32, 3), scene(9, ()), torch.rand(9, SIDE, 32, 3)], 2)
    moved = {**face, "x": 17 + 32}
    cropped, _ = refer(model, vae, wide, regions=moved, width=64, height=64)
    assert cropped.tokens.keep[0].nonzero().tolist() == [[1, 1]]
    left, _ = refer(model, vae, scene(), regions=[[face]] * 12 + [[]] * 12, when_empty="none")
    assert left.tokens.frame_tokens == (1, 1, 0)
    mask = torch.zeros(1, SIDE, 128)
    mask[:, 17:31, 49:63] = 1
    assert torch.equal(refer(model, vae, wide, regions=mask, width=64, height=64)[0].tokens.keep, cropped.tokens.keep)


def test_without_a_detector_all_is_kept_and_said(model, vae):
    technique, said = refer(model, vae, scene())
    assert technique.tokens.whole and "No faces are looked for, so all tokens are kept: faces need" in said
    with pytest.raises(ValueError, match="regions: faces need .* mark the person in regions"):
        refer(model, vae, scene(), when_empty="none")


def test_a_short_a_dark_and_a_still_video(model, vae):
    short, said = refer(model, vae, scene(6, ()))
    assert short.frames == 2 and "The video has 6 frames at 16 fps, and 9 were asked for" in said
    still, _ = refer(model, vae, scene(1, ()))
    assert still.frames == 1
    dark = scene(24, ())
    dark[::2] = 0
    kept, said = refer(model, vae, dark, choose="even", frames=20)
    assert kept.frames == 12 and "Black frames are left out" in said


@pytest.mark.parametrize(("given", "said"), [
    ({"video": torch.zeros(4, SIDE, SIDE, 3)}, "video: every frame of it is black"),
    ({"video": torch.zeros(0, SIDE, SIDE, 3)}, "video: got no frames"),
    ({"video": "clip.mp4"}, "video: got 'clip.mp4'"),
    ({"regions": torch.zeros(1, SIDE, SIDE), "when_empty": "none"}, "regions: no token of the video lies in them"),
    ({"regions": [[0, 0, 3, 4]]}, "regions: got 0, wanted a box with x, y, width and height"),
    ({"width": 64}, "width, height: got 64 and 0"), ({"width": 72, "height": 64}, "width: "),
    ({"frames": 49}, "frames: got 49"),
])
def test_bad_input_is_named(model, vae, given, said):
    with pytest.raises(ValueError, match=said.replace("(", "\\(")):
        refer(model, vae, **{"video": scene(9, ()), **given})


def test_another_models_vae_is_refused(vae, tiny_models):
    with pytest.raises(ValueError, match="vae: it makes latents of 16 channels, Wan 2.2 TI2V-5B wants 48"):
        refer(load_family("wan22_ti2v", tiny_models / "models"), vae, scene(9, ()))


def test_sound_has_no_way_into_a_model_without_any(model, vae):
    features = {"encoded_audio_all_layers": [torch.zeros(1, 9, 8)]}
    with pytest.raises(ValueError, match="audio_features: .* has no audio attention"):
        refer(model, vae, scene(9, ()), audio_features=features)


def place(model, vae, image, mask, **given):
    made = LodestarCustomBackground.execute(model=model, vae=vae, image=image, mask=mask, then=THEN[0], **given)
    return attach.technique_of(made.args[0], CustomBackground), made.ui["text"][0]


def standing(columns=SIDE):
    """A mask of somebody in the middle, from the second row of tokens down."""
    mask = torch.zeros(1, SIDE, columns)
    mask[:, 16:, columns // 2 - 16:columns // 2 + 16] = 1
    return mask


def test_a_scene_has_nothing_of_who_stood_in_it(model, vae):
    """Nor does what is said of its cost depend on it."""
    room = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(5))
    somebody = torch.where(standing()[..., None] > 0, torch.rand(1, SIDE, SIDE, 3), room)
    (one, said), (other, _) = (place(model, vae, image, standing()) for image in (room, somebody))
    assert torch.equal(one.latents, other.latents) and one.latents.shape == (1, 16, 1, 8, 8)
    assert torch.equal(~one.tokens.keep[0], standing()[0, 8::16, 8::16] > 0)
    assert said == "10 of 16 tokens of the scene stay, 64x64; added to each call: 3.0% more keys."


@pytest.mark.parametrize(("frames", "used", "clip"), [
    (7, 5, ", 5 of its 7 frames"), (9, 9, ", 9 of its 9 frames"), (12, 9, ", its first 9 frames")])
def test_a_scene_that_moves(model, vae, monkeypatch, frames, used, clip):
    """As it is encoded without the person; the rest of the frames has no say. Of 49 frames only 9 here."""
    monkeypatch.setattr(custom_background, "MOST_FRAMES", 9)
    room = torch.rand(frames, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(5))
    made, said = place(model, vae, room, standing())
    bare = without_person(room[:used], standing()[0])
    assert torch.equal(made.latents, encode_frames(vae, bare).float()) and len(made.tokens.keep) == (used + 3) // 4
    assert clip in said and f"{10 * made.frames} of {16 * made.frames} tokens of the scene stay" in said


def test_a_wide_scene_is_cropped_as_its_mask_is(model, vae):
    wide, _ = place(model, vae, torch.rand(1, SIDE, 128, 3), standing(128), width=64, height=64)
    assert torch.equal(~wide.tokens.keep[0], standing()[0, 8::16, 8::16] > 0)


@pytest.mark.parametrize(("given", "said"), [
    ({"mask": torch.ones(1, SIDE, SIDE)}, "mask: it covers all of the picture, so nothing is left of the scene"),
    ({"mask": torch.zeros(1, SIDE, SIDE)}, "mask: it is empty, so there is nobody to draw"),
    ({"mask": torch.ones(1, SIDE, 32)}, "mask: got one of 32x64 for an image of 64x64, wanted the same size"),
    ({"image": torch.full((1, SIDE, SIDE, 3), 2.0)}, "image: got pixels from 2 to 2"),
    ({"width": 72, "height": 64}, "width, height: got 72x64|width: "),
])
def test_a_scene_that_cannot_be_is_named(model, vae, given, said):
    with pytest.raises(ValueError, match=said):
        place(model, vae, **{"image": torch.rand(1, SIDE, SIDE, 3), "mask": standing(), **given})


def test_who_stands_where_is_that_of_the_second_chunk(model, vae):
    """The take's picture twice at two times, the video's tokens, the scene that has become the take's first frame."""
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 16:32, 16:32] = 1
    patched = LodestarVideoReference.execute(model=model, vae=vae, video=scene(), regions=mask, **ASKED).args[0]
    patched = LodestarCustomBackground.execute(model=patched, vae=vae, image=torch.rand(1, SIDE, SIDE, 3),
                                               mask=standing(), then=THEN[0]).args[0]
    patched = attach.with_technique(attach.with_technique(patched, LookaheadAnchor()), StyleAnchor(distance=-2))
    plan = plan_take(Timeline(Fraction(16)), 33, 17, 0, SIDE, SIDE)
    found = list_references(TakeInputs(patched, vae, plan, torch.rand(1, SIDE, SIDE, 3)))
    assert read_references(json.dumps(found)) == [
        "Style Anchor: the take's picture, at -2",
        "Lookahead Anchor: the take's picture, the same picture as Style Anchor's, at 6",
        "Video Reference: 3 latents, 3 of 48 tokens, at 6, 7, 8",
        "Custom Background: the take's first frame, at -1"]
    assert read_references("no json") == read_references('{"a": 1}') == []
