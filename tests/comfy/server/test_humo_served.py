"""HuMo through a real server, as a graph of nodes: a take of three chunks, from picture and text.

Its speech is held in process (test_humo.py): whisper-large-v3 cannot be tiny, since HuMo takes 33 states of its width.
"""
import av
from lib.graph import Graph
from served_takes import frames_of, video_of

SECONDS = 3.0


def test_a_take_of_three_chunks_is_as_long_as_the_speech(server):
    graph = Graph()
    model = graph.add("UNETLoader", unet_name="lodestar_tiny_humo_17b.safetensors", weight_dtype="default")
    anchored = graph.add("LodestarLookaheadAnchor", model=model[0], distance=12.0, unit="pixel frames",
                         placement="lookahead", index=0.0, schedule="")
    person = graph.add("LodestarSamplePerson", person="portrait", seconds=SECONDS)
    plan = graph.add("LodestarPlanTake", model=model[0], audio=person[1], reference=person[0], width=64, height=64,
                     fps=0.0, chunk_frames=33, overlap_frames=5, script="", seed_step=1, max_seconds=SECONDS)
    prompt = graph.add("LodestarBlankPrompt", tokens=16, width=4096)
    guider = graph.add("CFGGuider", model=anchored[0], positive=prompt[0], negative=prompt[0], cfg=5.0)
    sigmas = graph.add("BasicScheduler", model=anchored[0], scheduler="simple", steps=2, denoise=1.0)
    graph.add("LodestarLongTake", noise=graph.add("RandomNoise", noise_seed=3)[0], guider=guider[0],
              sampler=graph.add("KSamplerSelect", sampler_name="euler")[0], sigmas=sigmas[0],
              vae=graph.add("VAELoader", vae_name="lodestar_tiny_wan_vae.safetensors")[0], plan=plan[0],
              reference=person[0], filename_prefix="humo/take", keep_chunks=False)
    path = video_of(server, server.run(graph.prompt(), timeout_seconds=300))
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert video.frames == SECONDS * 25 and video.average_rate == 25
    assert frames_of(path).std() > 1
    assert "chunk 3 of 3" in server.log.read_text(encoding="utf-8")
