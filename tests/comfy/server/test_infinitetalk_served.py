"""InfiniteTalk through a real server, as a graph of nodes: a take of three chunks, one speaker and two."""
import av
import pytest
import tiny_talk
from lib import environment
from lib.graph import Graph
from served_takes import frames_of, video_of

SECONDS = 3.0


@pytest.fixture(autouse=True)
def newest(comfyui_version):
    if comfyui_version == environment.FLOOR:
        pytest.skip(f"ComfyUI {environment.FLOOR} has no InfiniteTalk")


def talking_take(server, prefix: str, speakers: int = 1, text_scale: float = 1.0) -> Graph:
    graph = Graph()
    wan = graph.add("UNETLoader", unet_name=f"{tiny_talk.INFINITETALK}_i2v.safetensors", weight_dtype="default")
    patch = graph.add("ModelPatchLoader", name=f"{tiny_talk.INFINITETALK}.safetensors")
    model = graph.add("LodestarInfiniteTalk", model=wan[0], model_patch=patch[0], audio_scale=1.0)
    anchored = graph.add("LodestarLookaheadAnchor", model=model[0], distance=12.0, unit="pixel frames",
                         placement="lookahead", index=0.0, schedule="")
    vae = graph.add("VAELoader", vae_name="lodestar_tiny_wan_vae.safetensors")
    person = graph.add("LodestarSamplePerson", person="portrait", seconds=SECONDS)
    encoder = graph.add("LodestarLoadAudioEncoder", audio_encoder_name=tiny_talk.ENCODER, normalize="auto")
    if speakers == 1:
        features = graph.add("LodestarAudioFeatures", audio=person[1], audio_encoder=encoder[0], layers="all",
                             window_seconds=30.0, overlap_seconds=4.0, trained_as="InfiniteTalk")
        sound = person[1]
    else:
        features = graph.add("LodestarTwoSpeakers", reference=person[0], audio_encoder=encoder[0], audio_1=person[1],
                             audio_2=person[1], mode="together", box_1="", box_2="", others="",
                             version="InfiniteTalk", noise_floor=False, noise_floor_seed=0)
        sound = features[1]
    plan = graph.add("LodestarPlanTake", model=model[0], audio=sound, reference=person[0], width=64, height=64, fps=0.0,
                     chunk_frames=33, overlap_frames=-1, script="", seed_step=1, max_seconds=SECONDS)
    prompt = graph.add("LodestarBlankPrompt", tokens=16, width=4096)
    guider = graph.add("LodestarSpeechGuidance", model=anchored[0], positive=prompt[0], negative=prompt[0],
                       text_scale=text_scale, audio_scale=4.0, cfg_zero=False)
    sigmas = graph.add("BasicScheduler", model=anchored[0], scheduler="simple", steps=2, denoise=1.0)
    graph.add("LodestarLongTake", noise=graph.add("RandomNoise", noise_seed=3)[0], guider=guider[0],
              sampler=graph.add("KSamplerSelect", sampler_name="euler")[0], sigmas=sigmas[0], vae=vae[0], plan=plan[0],
              audio_features=features[0], reference=person[0], filename_prefix=prefix, keep_chunks=False)
    return graph


@pytest.mark.parametrize(("speakers", "text_scale"), [(1, 1.0), (2, 5.0)])
def test_a_take_of_three_chunks_is_as_long_as_the_speech(server, speakers, text_scale):
    graph = talking_take(server, f"talk{speakers}/take", speakers, text_scale)
    history = server.run(graph.prompt(), timeout_seconds=300)
    path = video_of(server, history)
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert video.frames == SECONDS * 25 and video.average_rate == 25
    assert frames_of(path).std() > 1
    assert "chunk 3 of 3" in server.log.read_text(encoding="utf-8")


def test_the_wrong_parts_are_named_before_sampling(server):
    graph = talking_take(server, "talk_wrong/take")
    graph.the("LodestarAudioFeatures").set(trained_as="core", layers="last")
    with pytest.raises(Exception, match="got 1 layers of width 768"):
        server.run(graph.prompt())
