"""The puppet's take without ComfyUI is the one that ComfyUI makes, and its VAE in diffusers is ComfyUI's."""
import json
import re

import av
import comfy.latent_formats
import demo
import numpy as np
import pytest
import report
import torch
from lib import workflow_inputs
from lib.graph import Graph
from lodestar.pipelines.headless.wan_vae import WanVae
from lodestar.training.puppet.hosts import wan_vae

pytestmark = pytest.mark.once


def test_diffusers_reads_the_weights_as_comfyui_does():
    torch.manual_seed(0)
    theirs, frames = wan_vae(8).eval(), torch.rand(9, 32, 48, 3)
    for weight in theirs.parameters():
        weight.data += 0.03 * torch.randn_like(weight)      # a past, too, and frames of one latent that differ
    ours, scaled = WanVae(theirs.state_dict()), comfy.latent_formats.Wan21()
    with torch.inference_mode():
        latents = scaled.process_in(theirs.encode(frames.movedim(-1, 0)[None] * 2 - 1))
        decoded = theirs.decode(scaled.process_out(latents))[0].movedim(0, -1) / 2 + 0.5
        stream = ours.open_stream()
        streamed = torch.cat([*stream.push(latents[:, :, :2]), *stream.push(latents[:, :, 2:])])
        assert torch.allclose(ours.encode(frames), latents, atol=1e-4)
    assert streamed.shape == frames.shape and torch.allclose(streamed, decoded.clamp(0, 1), atol=1e-4)


def pictures(video):
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


@pytest.mark.parametrize("without", [None, "LodestarLookaheadAnchor"])
def test_the_take_is_the_same(server, tmp_path, without):
    options = demo.parse_options(["--seconds", "2.6"])
    graph = Graph.read(options.workflow)
    if without:
        node = graph.the(without)
        graph.replace(node[0], node.inputs["model"])
        graph.remove(node)
    options.workflow = tmp_path / "puppet.json"
    options.workflow.write_text(json.dumps(graph.prompt()), encoding="utf-8")
    video, borders = demo.take(server, demo.fill_workflow(options, server))
    record = []
    alone = demo.make_here(demo.fill_workflow(options, demo.Here), tmp_path / "alone.mp4",
                               lambda **how_far: record.append(how_far["frames_done"]))
    served, made = pictures(video), pictures(alone)
    assert record == [0, *borders, 65] and borders == [49] and served.shape == made.shape == (65, 96, 96, 3)
    apart = np.abs(served - made).mean((1, 2, 3))       # x264 makes more of a rounding error, from picture to picture
    assert apart[[0, *borders]].max() < 0.2 and apart.max() < 4 < np.abs(np.diff(served[[0, 64]], axis=0)).mean()


def test_human_speech_moves_the_lips_in_time(tmp_path):
    graph = demo.fill_workflow(demo.parse_options(["--seconds", "10"]), demo.Here)
    video = demo.make_here(graph, tmp_path / "human.mp4", lambda **how_far: None)
    said = report.measure_video(video, workflow_inputs.ASSETS / "puppet.png", drawn=True)
    assert float(re.search(r"Lip sync: correlation ([\d.]+)", said)[1]) > 0.5 and "the mouth is in time" in said
