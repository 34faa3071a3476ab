"""LongCat Avatar in a real server: a clip by SamplerCustomAdvanced, a minute by Long Take, cancel and resume."""
import wave

import av
import demo
import numpy as np
import pytest
import torch
from lib import comfy_server, workflow_inputs
from lib.comfy_server import PromptCancelled
from lib.graph import Graph
from served_takes import saved_latents, without_text_encoder, workflow

STEPS = {"kind": "normal", "steps": 4}


@pytest.fixture(scope="module")
def minute(tmp_path_factory):
    """61.3 s of speech, 16 kHz mono."""
    path = tmp_path_factory.mktemp("speech") / "minute.wav"
    with av.open(str(workflow_inputs.ASSETS / "speech.flac")) as container:
        talk = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        rate = container.streams.audio[0].rate
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.resize(talk.astype("<i2"), int(61.3 * rate)).tobytes())
    return path


def take(server, name, prefix, **plan) -> Graph:
    """A LongCat workflow of the pack at 64x64 with few steps."""
    graph = without_text_encoder(workflow(name))
    graph.the("LodestarPlanTake").set(width=64, height=64, **plan)
    graph.the("LodestarLongCatSchedule").set(**STEPS)
    graph.the("LodestarLongTake").set(filename_prefix=prefix)
    return graph


def frames_of(server, entry):
    with av.open(str(demo.local_path(server, comfy_server.finished_video(entry)))) as container:
        return container.streams.video[0].frames


@pytest.mark.slow    # test_workflows has every model's length, test_long_take the odd ones
def test_a_minute_is_as_long_as_its_speech(official, minute):
    graph = demo.with_loaders(take(official, "longcat_avatar_15", "longcat/minute"))
    graph.the("LodestarLongCatSchedule").set(kind="distilled 8", steps=8)
    demo.set_file(graph, "LoadImage", "image", None, official)
    demo.set_file(graph, "LoadAudio", "audio", minute, official)
    assert frames_of(official, official.run(graph.prompt(), timeout_seconds=600)) == 1533      # ceil(61.3 * 25)


def clip(server, text_scale, audio_scale):
    """Latents of one chunk with Speech Guidance, through SamplerCustomAdvanced."""
    graph = Graph()
    model = graph.add("LodestarLoadLongCat", model_name="LongCat-Video-Avatar/avatar_single", weight_dtype="default",
                      kv_cache="VRAM")
    vae = graph.add("VAELoader", vae_name="wan_2.1_vae.safetensors")
    picture = graph.add("LoadImage", image=server.upload(workflow_inputs.ASSETS / "portrait.png"))
    sound = graph.add("LoadAudio", audio=server.upload(workflow_inputs.ASSETS / "speech.flac"))
    encoder = graph.add("LodestarLoadAudioEncoder", audio_encoder_name="chinese-wav2vec2-base", normalize="auto")
    speech = graph.add("LodestarLongCatSpeech", audio=sound[0], audio_encoder=encoder[0], version="auto",
                       noise_floor=False, noise_floor_seed=0)
    text = graph.add("LodestarBlankPrompt", tokens=16, width=4096)
    chunk = graph.add("LodestarOneChunk", model=model[0], positive=text[0], negative=text[0], vae=vae[0], width=64,
                      height=64, chunk_frames=17, audio_features=speech[0], reference=picture[0])
    guider = graph.add("LodestarSpeechGuidance", model=model[0], positive=chunk[0], negative=chunk[1],
                       text_scale=text_scale, audio_scale=audio_scale, cfg_zero=False)
    sampled = graph.add("SamplerCustomAdvanced", noise=graph.add("RandomNoise", noise_seed=5)[0], guider=guider[0],
                        sampler=graph.add("KSamplerSelect", sampler_name="euler")[0],
                        sigmas=graph.add("LodestarLongCatSchedule", model=model[0], shift=0.0, **STEPS)[0],
                        latent_image=chunk[2])
    graph.add("SaveLatent", samples=sampled[0], filename_prefix="longcat/clip")
    return saved_latents(server, graph)


def test_speech_guidance_in_core_s_sampler(official):
    unguided, guided, by_speech = clip(official, 1.0, 1.0), clip(official, 4.0, 4.0), clip(official, 1.0, 4.0)
    assert unguided.shape == (1, 16, 5, 8, 8) and torch.equal(unguided[:, :, :1], guided[:, :, :1])
    for one, other in ((unguided, guided), (unguided, by_speech)):
        assert not torch.allclose(one[:, :, 1:], other[:, :, 1:], atol=1e-2)
    # both prompts are blank here, so text has nothing to say and only the speech guides
    assert torch.allclose(guided, by_speech, atol=1e-3)


def test_a_cancelled_take_goes_on_where_it_was(official):
    graph = take(official, "longcat_avatar_10", "longcat/broken", max_seconds=6.0, chunk_frames=45)
    graph.the("LodestarLongCatSchedule").set(steps=60)      # so that a chunk lasts long enough to be interrupted

    def cancel(kind, data):
        if kind == "lodestar.chunk" and data["chunk"] == 2:
            official.request("/interrupt", b"{}")

    with pytest.raises(PromptCancelled):
        official.run(graph.prompt(), cancel)
    starts: list[int] = []
    entry = official.run(graph.prompt(),
                         lambda kind, data: starts.append(data["chunk"]) if kind == "lodestar.chunk" else None)
    assert frames_of(official, entry) == 96
    assert min(starts) == 2
