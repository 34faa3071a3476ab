"""Training clips of the pack's own video for the puppet: the node, what it refuses, and that a recipe can read them."""
import shutil
from pathlib import Path

import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from cancels import cancel_at_first_clip
from lodestar.backbones import find
from lodestar.backbones.audio.encoder import log_mel
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.host.training_clips import ClipProgress
from lodestar.nodes.make_training_clips import LodestarMakeTrainingClips
from lodestar.pipelines.training.clip_store import ClipStore
from lodestar.pipelines.training.clips import ARRAYS

PACK = Path(__file__).resolve().parents[3]
ASKED = {"chunk_frames": 17, "clip_seconds": 1.5, "faces": "whole picture", "name": "people",
         "width": 32, "height": 32}


@pytest.fixture(scope="module")
def puppet():
    return load_longcat(PACK / "models" / "diffusion_models" / "lodestar_puppet.safetensors")


@pytest.fixture(scope="module")
def vae(tiny_models):
    path = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=torch.float32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    shutil.copy(PACK / "assets" / "talking.mp4", folder)
    return folder


@pytest.fixture(autouse=True)
def own_output(tmp_path_factory):
    folder_paths.set_output_directory(str(tmp_path_factory.mktemp("output")))


def make(puppet, vae, videos, **given):
    asked = {"model": puppet, "folder": str(videos), "vae": vae, "audio_encoder": log_mel(), **ASKED, **given}
    return LodestarMakeTrainingClips.execute(**asked).args[0]


def test_the_node_makes_clips_of_the_puppet_s_kind(puppet, vae, videos):
    store = make(puppet, vae, videos, perturbed=True)
    own = find(puppet)
    assert store.folder == Path(folder_paths.get_output_directory()) / "lodestar_clips" / "people"
    assert store.format.rate == own.fps and (store.format.width, store.format.height) == (32, 32)
    assert len(store) == int(4.0 * own.fps) // store.format.frames
    clip = store[0]
    assert all(name in ARRAYS for name in clip.arrays) and {"latents", "contexts", "perturbed"} <= clip.arrays
    frames = vae.decode(clip["latents"][None].float())
    assert frames.shape[1] == store.format.frames 
    assert not torch.equal(clip["perturbed"], clip["latents"]) and clip["perturbed"].isfinite().all()
    layers, steps, width = clip["speech"].shape
    assert (layers, width) == own.audio_shape and steps >= store.format.frames / own.fps * store.format.speech.rate_hz
    store.check_model(own.name, 16, own.grid, 4)
    store.check_speech(own.name, own.layers_taken, own.audio_shape[1])
    before = [store.path(name).stat().st_mtime_ns for name in store.names]
    assert [make(puppet, vae, videos, perturbed=True).path(name).stat().st_mtime_ns for name in store.names] == before
    again = LodestarMakeTrainingClips.execute(model=puppet, folder=str(store.folder), vae=vae, **ASKED).args[0]
    assert again.names == store.names


@pytest.mark.once
def test_speech_is_what_one_encoding_of_the_whole_gives(puppet, vae, videos):
    """The second clip's features against those of the whole recording, at its own time."""
    from lodestar.backbones.audio.recipes import encode_as_trained
    from lodestar.backbones.audio.speech import Speech
    from lodestar.pipelines.training.video_clips import SoundAlong, Video
    store = make(puppet, vae, videos)
    video = Video(videos / "talking.mp4", store.format.rate)
    whole = Speech.of(encode_as_trained(find(puppet), log_mel(), SoundAlong(video.source).between(0, 64000)))
    begin = store[1].values["first_frame"] / store.format.rate * whole.rate_hz
    assert begin == int(begin)
    own = store[1]["speech"].float()
    wanted = torch.cat(list(whole.streams[0]))[:, int(begin):int(begin) + own.shape[1]]
    assert (own[:, :wanted.shape[1]] - wanted).abs().mean() < 0.25 * wanted.std()


@pytest.mark.once
def test_one_video_by_its_name_in_the_pack(puppet, vae, videos):
    store = make(puppet, vae, "assets/talking.mp4", audio_encoder=None, name="")
    folder = make(puppet, vae, videos, audio_encoder=None)
    assert store.folder.name == "talking" and store.names == folder.names
    changes = LodestarMakeTrainingClips.fingerprint_inputs(folder="assets/talking.mp4")
    assert "talking.mp4" in changes and "poses.mp4" not in changes


@pytest.mark.once
def test_a_cancel_keeps_finished_clips(puppet, vae, videos, monkeypatch):
    with cancel_at_first_clip(monkeypatch, ClipProgress):
        make(puppet, vae, videos, audio_encoder=None)
    folder = Path(folder_paths.get_output_directory()) / "lodestar_clips" / "people"
    assert len(ClipStore.open(folder)) == 1
    assert len(make(puppet, vae, videos, audio_encoder=None)) == 2


@pytest.mark.once
@pytest.mark.parametrize(("given", "words"), [
    ({"folder": "/nowhere/at/all"}, "folder: .* is no folder on the machine that ComfyUI runs on, and no file"),
    ({"folder": "assets/puppet.png"}, r"folder: .*puppet\.png is no video \(\.mp4.*or one video file"),
    ({"folder": " "}, "folder: it is empty"),
    ({"name": "../out"}, "name: got '../out', which leads out"),
    ({"clip_seconds": 0.5}, r"clip_seconds: 0.5 s are \d latents at 25 fps, a chunk has 5 and one before it. Give"),
    ({"chunk_frames": 3}, "chunk_frames: got 3, of which the VAE makes one latent"),
    ({"width": 0}, "width, height: got 0 and 32; give both"),
    ({"height": 40}, "height: got 40, wanted a multiple of 16"),
    ({"faces": "around the face"}, "faces: faces need .* Or choose 'whole picture'")])
def test_what_does_not_fit_is_refused_by_name(puppet, vae, videos, given, words):
    with pytest.raises(ValueError, match=words):
        make(puppet, vae, videos, **given)


@pytest.mark.once
def test_another_vae_another_encoder_and_other_settings(puppet, vae, videos, wan, tiny_models):
    cogvideox_models = pytest.importorskip("cogvideox_models", exc_type=ImportError)
    with pytest.raises(ValueError, match="vae: its latents have 48 channels and 16 pixels a side, .* wants 16 and 8"):
        make(puppet, wan.wan22_vae(tiny_models), videos)
    with pytest.raises(ValueError, match="vae: it is of the kind AutoencoderKLCogVideoX, .* wants WanVAE"):
        make(puppet, cogvideox_models.vae(tiny_models), videos)     # of as many channels and pixels
    make(puppet, vae, videos)
    with pytest.raises(ValueError, match="name: .*clips that were made otherwise: width 32, not 64"):
        make(puppet, vae, videos, width=64, height=64)
    with pytest.raises(ValueError, match="otherwise: .*speech of 5 layers of 16 at .*, not none"):
        make(puppet, vae, videos, audio_encoder=None)


@pytest.mark.once
def test_the_seconds_left_are_those_of_clips_that_were_made():
    now, said = [0.0], []
    progress = ClipProgress(None, clock=lambda: now[0])
    progress._events.say = said.append
    for done, made, at in ((1, False, 1.0), (2, True, 11.0), (3, True, 21.0)):
        now[0] = at
        progress.clip_done(done, 10, "a.mp4", made)
    assert said[-1] == "Clip 3 of 10 (a.mp4), about 70 s left" and "left" not in said[0]
