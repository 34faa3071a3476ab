"""Plan Take and One Chunk say LongCat's nearest bucket, or take it; other families keep their size and say nothing."""
import re

import comfy.sd
import comfy.utils
import pytest
import torch
from draws import random
from lodestar.nodes.one_chunk import LodestarOneChunk
from lodestar.nodes.plan_take import LodestarPlanTake

PLAN = {"audio": {"waveform": torch.zeros(1, 1, 16000), "sample_rate": 16000}, "fps": 0.0, "chunk_frames": 17,
        "overlap_frames": 5, "script": "", "seed_step": 1, "max_seconds": 0.0}


@pytest.mark.parametrize(("asked", "size", "says"), [
    ({"width": 640, "height": 640}, (640, 640), "640x640 is no size .* the nearest is 640x608, which nearest_bucket"),
    ({"width": 640, "height": 640, "nearest_bucket": True}, (640, 608), "640x608 in place of 640x640"),
    ({"width": 0, "height": 0}, (832, 480), "832x480$")])
def test_a_plan(tiny_models, longcat, asked, size, says):
    take, summary = LodestarPlanTake.execute(model=longcat.load(tiny_models, longcat.BASE), **PLAN, **asked).args
    assert (take.plan.width, take.plan.height) == size
    assert any(re.search(says, line) for line in summary.split("\n")[:2])


def test_a_picture_chooses_the_bucket(tiny_models, longcat):
    picture = torch.rand(1, 300, 200, 3)
    take, summary = LodestarPlanTake.execute(model=longcat.load(tiny_models, longcat.BASE), reference=picture, width=0,
                                             height=0, nearest_bucket=True, **PLAN).args
    assert (take.plan.width, take.plan.height) == (512, 768) and "512x768" in summary


def test_a_clip(tiny_models, longcat):
    model = longcat.load(tiny_models, longcat.BASE)
    text = [[random(1, 9, 4096), {}]]
    made = LodestarOneChunk.execute(model=model, positive=text, negative=text, vae=vae_of(tiny_models), width=320,
                                    height=1200, chunk_frames=5, nearest_bucket=True)
    assert made.args[2]["samples"].shape[-2:] == (148, 40)
    assert "320x1184 in place of 320x1200" in str(made.ui.as_dict())


def test_a_family_without_buckets_keeps_its_size(tiny_models, wan):
    take, summary = LodestarPlanTake.execute(model=wan.load(tiny_models, "wan21_t2v"), width=640, height=640,
                                             nearest_bucket=True, **PLAN).args
    assert (take.plan.width, take.plan.height) == (640, 640) and "nearest" not in summary


def vae_of(tiny_models):
    path = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=torch.float32)
