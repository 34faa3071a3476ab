"""One Chunk gives a sampler what Long Take gives it for the first chunk, on every family."""
import comfy.sd
import comfy.utils
import pytest
import torch
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.nodes.one_chunk import LodestarOneChunk

SPEECH = {"wan22_s2v": (1, 1024, 50.0), "longcat_avatar": (12, 64, 32.0), "longcat_avatar15": (5, 64, 25.0)}


@pytest.fixture
def chunk_of(tiny_models, wan):
    def chunk(name, whole=False, **changes):
        """What the node returns: its outputs, or the `whole` of it."""
        folder = tiny_models / "models"
        file = str(folder / "diffusion_models" / f"lodestar_tiny_{name}.safetensors")
        model = load_longcat(file) if "longcat" in name else wan.load(tiny_models, name)
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(folder / "vae" / "lodestar_tiny_wan_vae.safetensors")))
        prompt, features = [[torch.zeros(1, 4, 4096), {}]], None
        if name in SPEECH:
            layers, width, rate = SPEECH[name]
            features = {"encoded_audio_all_layers": [torch.ones(1, 200, width)] * layers, "rate_hz": rate}
        given = {"width": 96, "height": 64, "chunk_frames": 17, "audio_features": features,
                 "reference": torch.rand(1, 80, 70, 3), **changes}
        made = LodestarOneChunk.execute(model, prompt, prompt, vae, **given)
        return made if whole else made.args
    return chunk


@pytest.mark.parametrize(("name", "keys", "known"), [
    ("wan21_t2v", set(), 0), ("wan21_i2v", {"concat_latent_image", "concat_mask"}, 0),
    ("wan22_s2v", {"audio_embed", "reference_latents", "control_video"}, 0), ("longcat_video", set(), 1),
    ("longcat_avatar", {"audio_windows"}, 1), ("longcat_avatar15", {"audio_windows"}, 1)])
def test_every_family_gets_what_it_needs(chunk_of, name, keys, known):
    (_, positive), (_, negative), latent = (part[0] if isinstance(part, list) else part for part in chunk_of(name)[:3])
    assert set(positive) == set(negative) == keys and latent["samples"].shape == (1, 16, 5, 8, 12)
    mask = latent.get("noise_mask")
    assert (mask is None) == (known == 0) and (mask is None or (mask == 0).sum() == known * 96)
    for key in keys & {"concat_latent_image", "reference_latents"}:
        value = positive[key] if key == "concat_latent_image" else positive[key][0]
        assert value.shape[-2:] == (8, 12)
    for key in keys & {"audio_embed", "audio_windows"}:
        assert positive[key].any() and not negative[key].any()


def test_the_clip_gets_the_speech_from_its_beginning(chunk_of):
    steps = torch.arange(200.0)[None, :, None].expand(1, 200, 64)
    audio_in = chunk_of("longcat_avatar15", audio_features={"encoded_audio_all_layers": [steps] * 5, "rate_hz": 25.0}
                     )[0][0][1]["audio_windows"]
    assert torch.equal(audio_in[0, 0, :, 2, 0, 0], torch.arange(17.0)), "around each frame, its own step in the middle"


def test_each_audio_stream_comes_with_its_speaker_s_place(chunk_of):
    masks, streams = torch.zeros(1, 3, 80, 120), tuple([torch.ones(1, 200, 64)] * 5 for _ in range(2))
    masks[:, 0, :, :60] = masks[:, 1, :, 60:] = 1
    features = {"audio_streams": streams, "rate_hz": 25.0, "speaker_masks": masks}
    for side in chunk_of("longcat_avatar15", audio_features=features, reference=torch.rand(1, 80, 120, 3))[:2]:
        placed = side[0][1]["speaker_masks"]
        assert placed.shape == (1, 3, 64, 96) and placed[0, 0, :, :48].all() and placed[0, 1, :, 48:].all()
        assert placed.sum() == 64 * 96


def test_frames_default_to_what_the_model_was_trained_with(chunk_of):
    assert chunk_of("longcat_avatar15", chunk_frames=0, width=16, height=16)[2]["samples"].shape[2] == 24
    assert chunk_of("wan21_t2v", chunk_frames=0, width=16, height=16)[2]["samples"].shape[2] == 21


def test_what_is_left_to_the_model_is_taken_from_it_and_shown(chunk_of):
    """Size and frames; the picture, 70x80, gives the proportions."""
    said, = chunk_of("wan21_t2v", whole=True, width=0, height=0, chunk_frames=1).ui.as_dict()["text"]
    assert said == ("1 frames (1 latents), 592x672, 0.06 s at 16 fps.\n"
                    "Taken from Wan text-to-video: 592x672 in the proportions of the reference.")
    said, = chunk_of("longcat_avatar15", whole=True, width=16, height=32, chunk_frames=0).ui.as_dict()["text"]
    assert said.startswith("93 frames (24 latents), 16x32, 3.72 s at 25 fps.\nTaken from LongCat-Avatar 1.5: chunks of")


def test_what_does_not_fit_is_refused(chunk_of):
    with pytest.raises(ValueError, match="audio_features: got 12 layers of width 64"):
        chunk_of("longcat_avatar15", audio_features={"encoded_audio_all_layers": [torch.ones(1, 50, 64)] * 12,
                                                     "rate_hz": 25.0})
    with pytest.raises(ValueError, match="width: got 24, wanted a multiple of 16"):
        chunk_of("wan21_t2v", width=24)
    with pytest.raises(ValueError, match="height: got 24"):
        chunk_of("wan21_t2v", height=24)
    people = {"encoded_audio_all_layers": [torch.ones(1, 50, 64)] * 5, "rate_hz": 25.0,
              "speaker_masks": torch.ones(1, 3, 50, 50)}
    with pytest.raises(ValueError, match="got a picture of 70x80, but the speakers were marked on one of 50x50"):
        chunk_of("longcat_avatar15", audio_features=people)


def test_speech_is_checked_as_in_a_take(chunk_of):
    with pytest.raises(ValueError, match="audio_features: Wan 2.2 S2V is driven by speech"):
        chunk_of("wan22_s2v", audio_features=None)
    foreign = {"encoded_audio_all_layers": [torch.ones(1, 50, 768)] * 12, "rate_hz": 25.0, "family": "InfiniteTalk"}
    with pytest.raises(ValueError, match="audio_features: they were made for InfiniteTalk"):
        chunk_of("wan21_t2v", audio_features=foreign)
    short = {"encoded_audio_all_layers": [torch.ones(1, 2, 64)] * 5, "rate_hz": 25.0}
    said, = chunk_of("longcat_avatar15", whole=True, audio_features=short).ui.as_dict()["text"]
    assert "The speech ends after 0.08 s, the rest of the 0.68 s is silent." in said
