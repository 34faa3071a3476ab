"""Nodes other than Long Take in the graphs that users queue: guidance, a report behind a take, a picture's size."""
import json

import pytest
from lib import comfy_server, environment
from lib.graph import Graph
from served_takes import saved_latents, tiny_take, video_of


def test_speech_guidance_in_a_long_take(server):
    graph = tiny_take(server, "guided/take", max_seconds=2.0)
    blank, guider = graph.add("LodestarBlankPrompt", tokens=16, width=4096), graph.the("BasicGuider")
    guider.become("LodestarSpeechGuidance", model=guider.inputs["model"], positive=blank[0], negative=blank[0],
                  text_scale=4.0, audio_scale=3.0, cfg_zero=False)
    assert video_of(server, server.run(graph.prompt())).stat().st_size > 1000


def test_speech_guidance_in_core_s_custom_sampler(server):
    graph = Graph()
    model = graph.add("LodestarLoadLongCat", model_name="lodestar_tiny_longcat_video.safetensors",
                      weight_dtype="default", kv_cache="VRAM")
    text = graph.add("LodestarBlankPrompt", tokens=512, width=4096)
    guider = graph.add("LodestarSpeechGuidance", model=model[0], positive=text[0], negative=text[0], text_scale=4.0,
                       audio_scale=4.0, cfg_zero=True)
    sampled = graph.add(
        "SamplerCustomAdvanced", noise=graph.add("RandomNoise", noise_seed=1)[0], guider=guider[0],
        sampler=graph.add("KSamplerSelect", sampler_name="euler")[0],
        sigmas=graph.add("LodestarLongCatSchedule", model=model[0], kind="enhance-hf", steps=2, shift=0.0)[0],
        latent_image=graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1)[0])
    graph.add("SaveLatent", samples=sampled[0], filename_prefix="guided")
    latents = saved_latents(server, graph)
    assert latents.shape == (1, 16, 3, 8, 8) and latents.isfinite().all() and latents.std() > 0.1
    assert "has no audio conditioning" in server.log.read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def report(server):
    """The tiny take, small and short, with a report of it."""
    graph = tiny_take(server, "reported/take", steps=1, max_seconds=3.0)
    graph.add("LodestarTakeReport", mouth_box="0.4, 0.5, 0.6, 0.7", video=graph.the("LodestarLongTake")[0],
              reference=graph.the("LoadImage")[0], plan=graph.the("LodestarPlanTake")[0])
    return server.run(graph.prompt())["outputs"][graph.the("LodestarTakeReport").id]


@pytest.mark.once
def test_a_take_is_reported_beside_its_video(server, report):
    written = json.loads((server.base / "output" / "reported" / "take_00001_.report.json").read_text(encoding="utf-8"))
    assert written["video"]["frames"] == 48 and written["borders"] and written["measures"]["seams"]["score"] > 0
    assert (server.base / "output" / "reported" / "take_00001_.report.png").stat().st_size > 10_000
    assert "faces need face_detection_yunet_2023mar.onnx" in written["left_out"]["identity"]
    assert len(report["images"]) == 1


@pytest.mark.once
def test_a_video_that_cannot_be_read(server):
    (server.base / "input" / "broken.mp4").write_text("no video")
    graph = Graph()
    graph.add("LodestarTakeReport", video=graph.add("LoadVideo", file="broken.mp4")[0], mouth_box="")
    with pytest.raises(comfy_server.PromptFailed, match="broken.mp4 cannot be read"):
        server.run(graph.prompt())


def test_a_size_it_cannot_have_is_said_once_under_its_own_name(server):
    graph = Graph()
    portrait = graph.add("LoadImage", image=server.upload(environment.PACK / "assets" / "portrait.png"))
    fitted = graph.add("LodestarReferencePicture", width=64, height=96, fit="pad", image=portrait[0],
                       vae=graph.add("VAELoader", vae_name="lodestar_tiny_wan_vae.safetensors")[0])
    graph.add("PreviewImage", images=fitted[1])
    assert server.run(graph.prompt())["status"]["status_str"] == "success"

    def wrong(name, size):
        changed = Graph(graph.prompt())
        changed.the("LodestarReferencePicture").set(**{name: size})
        return changed.prompt()

    for name, size in (("width", -16), ("height", 32768)):
        with pytest.raises(comfy_server.PromptRefused) as refusal:
            server.queue(wrong(name, size))
        (_, found), = refusal.value.node_errors.items()
        assert [error["extra_info"]["input_name"] for error in found["errors"]] == [name], "once, under its own name"
    for name, size in (("width", 100), ("height", 456)):
        with pytest.raises(comfy_server.PromptFailed, match=f"{name}: got {size}, wanted a multiple of 16 from 0"):
            server.run(wrong(name, size))
