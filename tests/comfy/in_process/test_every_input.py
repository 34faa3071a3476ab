"""Every input of every node: what another pack may put there gives the right value, or an error that names the input.

The nodes and their inputs are read from the pack, so that a new one is tried without a line here.
"""
import asyncio
import dataclasses
import inspect
import logging
import math
import shutil
from fractions import Fraction

import comfy.model_patcher
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import lodestar.nodes
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from joint_models import load_ltx_sound_vae
from lodestar.backbones import attach
from lodestar.backbones.audio.encoder import encode_speech, load_audio_encoder, log_mel
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.host.rolling_sampler import RollingSampler
from lodestar.host.sample_people import find_video
from lodestar.pipelines.take.plan import Take, plan_take
from lodestar.pipelines.training.clip_store import ClipStore
from lodestar.techniques.timeline import Timeline
from training_clips import make_clips, write_store

pytestmark = pytest.mark.once

NODES = {node.__name__: node for node in asyncio.run(lodestar.nodes.Lodestar().get_node_list())}
INPUTS = [pytest.param(name, socket, id=f"{name}.{socket.id}") for name, node in NODES.items()
          for socket in node.define_schema().inputs]
RATE, SIZE = 16_000, 64
NOTHING_WIRED = [None, "text", 3.5, [1.0], np.zeros(3), object()]


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


SOUND, PICTURE = drawn(1, 1, 8000) - 0.5, drawn(1, 70, 80, 3)
MASKS = {name: torch.zeros(1, 70, 80) for name in ("mask_1", "mask_2")}
MASKS["mask_1"][:, :, :40], MASKS["mask_2"][:, :, 40:] = 1, 1
TEXT = [[torch.zeros(1, 4, 4096), {}]]
LATENT = drawn(1, 16, 1, 8, 8)
SIGMAS = torch.tensor([1.0, 0.5, 0.0])
HALF = SIGMAS[1:]           # no schedule but a refinement's


def clip(waveform, rate=RATE):
    return {"waveform": waveform, "sample_rate": rate}


# what no node can use, by kind of socket
WRONG = {
    "AUDIO": [*NOTHING_WIRED, SOUND, {}, clip(None), clip([0.0]), clip(SOUND.numpy()), clip(SOUND, None),
              clip(SOUND, math.nan), clip(SOUND, 4000), clip(SOUND[..., :0]), clip(SOUND * torch.nan),
              clip(SOUND / 0), clip(SOUND * 32768), clip(SOUND[None]), clip(SOUND.repeat(2, 1, 1)), clip(SOUND[0].T),
              clip(SOUND.long()), clip(SOUND > 0), clip(SOUND.to(torch.complex64))],
    "IMAGE": [*NOTHING_WIRED, PICTURE.numpy(), PICTURE[..., :1], PICTURE[:0], PICTURE[None], PICTURE[:, :4],
              PICTURE * torch.nan, PICTURE / 0, PICTURE * 255, PICTURE * 4 - 2, PICTURE.long(), PICTURE.short()],
    "MASK": [*NOTHING_WIRED, MASKS["mask_1"].numpy(), MASKS["mask_1"][:0], MASKS["mask_1"][0, 0],
             MASKS["mask_1"] * torch.nan, MASKS["mask_1"] * 255, MASKS["mask_1"] * 0, MASKS["mask_1"][:, 1:]],
    "LATENT": [*NOTHING_WIRED, LATENT, {}, *({"samples": wrong} for wrong in (
        None, LATENT.numpy(), LATENT[:, :, :0], LATENT[:0], LATENT[:, :4], LATENT * torch.nan, LATENT / 0,
        LATENT.long(), LATENT[0, 0]))],
    "CONDITIONING": [*NOTHING_WIRED, TEXT[0][0], [], [[]], [[None, {}]], [[TEXT[0][0], None]],
                     *([[wrong, {}]] for wrong in (TEXT[0][0][0], TEXT[0][0][:, :0], TEXT[0][0] * torch.nan,
                                                   TEXT[0][0].long(), TEXT[0][0].numpy(), TEXT[0][0][..., :9]))],
    "SIGMAS": [*NOTHING_WIRED, SIGMAS.numpy(), SIGMAS[None], SIGMAS[:0], SIGMAS[:1], SIGMAS * torch.nan, SIGMAS / 0,
               SIGMAS.flip(0), -SIGMAS, SIGMAS[:2], HALF, SIGMAS * 14.6],
    "AUDIO_ENCODER_OUTPUT": [*NOTHING_WIRED, {}, *({"encoded_audio_all_layers": wrong} for wrong in (
        None, [], [SOUND.numpy()], [SOUND[0]], [SOUND[..., :0]], [SOUND.long()], [SOUND, SOUND[..., 1:]]))],
    "INT": [None, "x", [1], math.nan, math.inf, 1.5, True],
    "FLOAT": [None, "x", [1.0], math.nan, math.inf, True],
    "STRING": [None, 3, ["text"], np.zeros(3)],
    "COMBO": [None, "no such", 3, ["crop"]],
    "BOOLEAN": [None, "yes", 2, [True]],
}
# other forms of a good value that mean the same, by kind of socket
SAME = {
    "AUDIO": lambda good: [clip(good["waveform"][0]), clip(good["waveform"].double()), clip(good["waveform"].half()),
                           clip((good["waveform"] * 2 ** 15).to(torch.int16)), clip(good["waveform"], np.int64(RATE)),
                           clip((good["waveform"].double() * 2 ** 31).to(torch.int32)),
                           *on_cuda(clip, good["waveform"])],
    "IMAGE": lambda good: [good[0], good.double(), good.half(), (good * 255).round().byte(),
                           torch.cat([good, good * torch.nan]), *on_cuda(torch.Tensor, good)],
    "MASK": lambda good: [good[0], good.bool(), good.byte() * 255, good.double(), good[:, None], good.long(),
                          *on_cuda(torch.Tensor, good)],
    "LATENT": lambda good: [{"samples": good["samples"].double()}, {"samples": good["samples"].half()},
                            {"samples": good["samples"][:, :, 0]}],
    "SIGMAS": lambda good: [good.double(), good.half(), good.bfloat16(), *on_cuda(torch.Tensor, good)],
    "CONDITIONING": lambda good: [tuple(map(tuple, good))],
}


def on_cuda(kind, tensor):
    return [clip(tensor.cuda()) if kind is clip else tensor.cuda()] if torch.cuda.is_available() else []


@pytest.fixture(scope="module")
def good(tiny_models, base, wan, tmp_path_factory):
    """A good value for every wire of every node."""
    folder = base / "models"
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(folder / "vae" / "lodestar_tiny_wan_vae.safetensors")))
    longcat = load_longcat(str(folder / "diffusion_models" / "lodestar_tiny_longcat_avatar.safetensors"))
    wires = {"AUDIO": clip(SOUND), "IMAGE": PICTURE, "LATENT": {"samples": LATENT}, "CONDITIONING": TEXT, "VAE": vae,
             "SIGMAS": SIGMAS, "MODEL": wan.load(tiny_models, "wan21_t2v"), "NOISE": Noise_RandomNoise(3),
             "SAMPLER": comfy.samplers.sampler_object("euler"), "AUDIO_ENCODER": log_mel()}
    guider = comfy.samplers.CFGGuider(wires["MODEL"])
    guider.set_conds(TEXT, TEXT)
    refining = comfy.samplers.CFGGuider(load_longcat(str(
        folder / "diffusion_models" / "lodestar_tiny_longcat_video.safetensors")))
    refining.set_conds(TEXT, TEXT)
    plan = plan_take(Timeline(Fraction(16)), 8, 17, 0, SIZE, SIZE)
    components = Types.VideoComponents(images=drawn(8, SIZE, SIZE, 3), audio=None, frame_rate=Fraction(16))
    wires |= {"GUIDER": guider, "LODESTAR_PLAN": Take(plan, clip(SOUND)), "CLIP": None,
              "AUDIO_ENCODER_OUTPUT": encode_speech(wires["AUDIO_ENCODER"], clip(SOUND)),
              "MODEL_PATCH": speech_patch(128), "CLIP_VISION": None,
              "VIDEO": InputImpl.VideoFromComponents(components)}
    videos = tmp_path_factory.mktemp("videos")
    shutil.copy(find_video("talking character"), videos)
    wires["LODESTAR_CLIPS"] = write_store(tmp_path_factory.mktemp("clips"), make_clips(count=1))
    learner = load_longcat(str(folder / "diffusion_models" / "lodestar_tiny_longcat_video.safetensors"))
    low = wan.load(tiny_models, "wan21_t2v")
    with torch.no_grad():
        low.model.diffusion_model.blocks[0].modulation += 1
    return wires, {
        "LodestarHighLowGuider": {"low_noise": low},
        "LodestarLongCatSchedule": {"model": longcat}, "LodestarLoadLongCatLora": {
            "model": longcat, "lora_name": "lodestar_tiny_longcat_video_lora.safetensors"},
        "LodestarLoadWanLora": {"lora_name": "lodestar_tiny_everanimate_lora.safetensors"},
        "LodestarLoadLongCat": {"model_name": "lodestar_tiny_longcat_avatar.safetensors"},
        "LodestarNegativePrompt": {"model": longcat}, "LodestarLoadCogVideoX": {
            "model_name": "lodestar_tiny_cogvideox_published.safetensors"},
        "LodestarRefineTake": {"guider": refining, "sigmas": HALF, "width": SIZE, "height": SIZE,
                               "filename_prefix": "every/refined"},
        "LodestarLoadOmniAvatar": {"base_name": "lodestar_tiny_omniavatar_wan21_t2v.safetensors",
                                   "omniavatar_name": "lodestar_tiny_omniavatar.pt"},
        "LodestarLoadStudent": {"student_name": "lodestar_tiny_self_forcing.pt", "base_name": None},
        "LodestarOmniAvatarSpeech": {"audio_encoder": load_audio_encoder(
            folder / "audio_encoders" / "lodestar_tiny_longcat_wav2vec2.safetensors")},
        "LodestarJointSpeech": {"audio_vae": load_ltx_sound_vae()},
        "LodestarLoadAudioEncoder": {"audio_encoder_name": "log-mel"},
        "LodestarTwoSpeakers": MASKS, "LodestarSpeechGuidance": {"model": longcat},
        "LodestarTakeReport": {"plan": None}, "LodestarCustomBackground": {"mask": MASKS["mask_1"]},
        "LodestarMakeTrainingClips": {"folder": str(videos), "width": 32, "height": 32, "chunk_frames": 5,
                                      "clip_seconds": 3.5},
        "LodestarTrainRecipe": {"model": learner, "steps": 1, "rank": 1, "window": RollingSampler(1, 1, "keep")},
        "LodestarBackfill": {"pairs": 1}, "LodestarPreferencePairs": {"pairs": 1, "margin": 0.0,
                                                                      "judge": "nearness to the clip"},
        "LodestarVideoReference": {"video": wires["VIDEO"], "audio_features": None},
        "LodestarPlanTake": {"width": SIZE, "height": SIZE, "continue_from": None},
        "LodestarOneChunk": {"width": SIZE, "height": SIZE, "chunk_frames": 5, "audio_features": None,
                             "continue_from": None},
        "LodestarReferencePicture": {"width": SIZE, "height": SIZE},
        "LodestarInfiniteTalk": {"model": wan.load(tiny_models, "wan21_i2v")},
        "LodestarLiveTake": {"sampler": RollingSampler(1, 1, "keep"), "audio_encoder": None, "light_decoder": None,
                             "plan": Take(plan_take(Timeline(Fraction(16)), 8, 17, 0, SIZE, SIZE, block_latents=1),
                                          clip(SOUND)), "show": "file", "filename_prefix": "every/live"},
        "LodestarLongTake": {"audio_features": None, "filename_prefix": "every/input", "continue_from": None}}


def speech_patch(width):
    """What is looked at of a MODEL_PATCH before a model calls it, which the older ComfyUI cannot make."""
    network, block = torch.nn.Module(), torch.nn.Module()
    network.audio_proj, block.audio_cross_attn = torch.nn.Linear(1, 1), torch.nn.Linear(width, width)
    block.audio_cross_attn.dim, network.blocks = width, torch.nn.ModuleList([block])
    return comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))


def inputs_of(good, name):
    """Good inputs of a node: what its widgets begin with, and a value for each wire."""
    wires, own = good
    found = {}
    for socket in NODES[name].define_schema().inputs:
        if socket.get_io_type() in wires:
            found[socket.id] = wires[socket.get_io_type()]
        elif getattr(socket, "default", None) is not None:
            found[socket.id] = socket.default
    return {**found, **own.get(name, {})}


def run(name, inputs):
    """As ComfyUI runs a node: on a clone of its class, by keywords."""
    clone = NODES[name].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    with torch.inference_mode():
        return clone.EXECUTE_NORMALIZED(**inputs)


def limits(socket):
    """Numbers just outside, where the socket has limits."""
    return [limit for limit in (socket.min - 1, socket.max + 1)] if socket.get_io_type() in ("INT", "FLOAT") else []


@pytest.mark.parametrize(("name", "socket"), INPUTS)
def test_what_cannot_be_used_is_refused_under_its_own_name(good, tmp_path, name, socket):
    folder_paths.set_output_directory(str(tmp_path))
    tried = 0
    for wrong in [*WRONG.get(socket.get_io_type(), NOTHING_WIRED), *limits(socket)]:
        if (wrong is None and socket.optional) or wrong is good[1].get(name, {}).get(socket.id, good):
            continue
        inputs = {**inputs_of(good, name), socket.id: wrong}
        with pytest.raises(ValueError, match=rf"^{socket.id}\b"):
            run(name, inputs)
            pytest.fail(f"{socket.id} took {wrong!r}", pytrace=False)
        tried += 1
    assert tried >= 3 and not list(tmp_path.rglob("*.mp4"))


@pytest.mark.parametrize(("name", "socket"), [pair for pair in INPUTS if pair.values[1].get_io_type() in SAME])
def test_what_means_the_same_gives_the_same(good, tmp_path, caplog, name, socket):
    folder_paths.set_output_directory(str(tmp_path))
    inputs = inputs_of(good, name)
    wanted = list(numbers_of(run(name, inputs).args))
    assert wanted
    forms = SAME[socket.get_io_type()](inputs[socket.id])
    forms = forms[:4] if (name, socket.id) == ("LodestarPersistentLatents", "views") else forms   # of which each counts
    takes = ("LodestarLongTake", "LodestarLiveTake")
    for form in forms[2:4] if name in takes else forms:     # each of them is a take
        found = list(numbers_of(run(name, {**inputs, socket.id: form}).args))
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
            share = 0.02 if name == "LodestarLiveTake" else 0.01      # it is encoded in haste
            one, other = (part.float() if part.dtype is torch.bool else part for part in (one, other))
            assert (one - other).abs().mean() <= share * other.abs().mean().clamp(min=1e-3)


@pytest.mark.parametrize("name", [name for name, node in NODES.items()
                                  if any(socket.optional for socket in node.define_schema().inputs)])
def test_what_is_left_out_may_come_as_none(good, tmp_path, name):
    folder_paths.set_output_directory(str(tmp_path))
    optional = [socket.id for socket in NODES[name].define_schema().inputs if socket.optional]
    kept = {"LodestarTwoSpeakers": {"audio_1"}, "LodestarPlanTake": {"audio"},     # and what takes minutes at full size
            "LodestarMakeTrainingClips": {"width", "height"}}.get(name, set())
    run(name, {**inputs_of(good, name), **{socket: None for socket in optional if socket not in kept}})


@pytest.mark.parametrize("name", [name for name, node in NODES.items() if "validate_inputs" in vars(node)])
def test_a_check_before_the_run_breaks_at_nothing_that_a_prompt_may_hold(name):
    """What is of another type there ComfyUI refuses itself, and asks the node all the same."""
    for socket in inspect.signature(NODES[name].validate_inputs).parameters:
        for value in (None, "", "text", [], [[[[]]]], {}, {"a": 1}, 3, 3.5, True):
            said = NODES[name].validate_inputs(**{socket: value})
            assert said is True or isinstance(said, str) and isinstance(value, str)


def test_sound_over_full_scale_is_said(good, caplog):
    inputs = {**inputs_of(good, "LodestarPlanTake"), "audio": clip(SOUND * 4)}
    with caplog.at_level(logging.WARNING, "lodestar"):
        take = run("LodestarPlanTake", inputs).args[0]
    assert torch.equal(take.speech["waveform"], SOUND * 4) and "the sound has samples up to 2.0" in caplog.text


def arrays_of(value):
    """All that is in a folder of clips; of anything else itself."""
    if not isinstance(value, ClipStore):
        return value
    return [clip[name].double() for clip in value[:] for name in sorted(clip.arrays)]


def numbers_of(value):
    """Every tensor in what a node gives, in order."""
    value = arrays_of(value)
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from numbers_of(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from numbers_of(part)
    elif dataclasses.is_dataclass(value):
        yield from numbers_of([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif hasattr(value, "get_components"):
        yield value.get_components().images
    elif hasattr(value, "original_conds"):
        yield from numbers_of([entry["cross_attn"] for entries in value.original_conds.values() for entry in entries])
    elif hasattr(value, "model_options"):
        yield from numbers_of(list(attach.techniques_of(value)))
