"""The trained puppet, with the pack's weights: a minute of three held-out characters."""
import argparse
import importlib
import sys
from pathlib import Path

import comfy.lora
import numpy as np
import pytest
import torch
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.backbones.longcat.lora import with_lora
from lodestar.training.puppet import flat_vae, lora
from lodestar.training.puppet import vae as vae_training
from lodestar.training.puppet.export import weights_file
from lodestar.training.puppet.face_probe import load_face_probe
from lodestar.training.puppet.hosts import wan_vae, without_past
from lodestar.training.puppet.network import load_trained
from lodestar.training.puppet.speech import load_tracks
from lodestar.training.puppet.vae import SIZE, load_vae, pictures
from lodestar.training.puppet.world import World
from PIL import Image
from safetensors.torch import save_file

pytestmark = pytest.mark.once

PACK = Path(__file__).resolve().parents[3]
sys.path.append(str(PACK / "benchmarks"))
claims_conditions, claims_measures, claims_takes, claims_vae = (
    importlib.import_module(f"lodestar.experiments.claims.{name}")
    for name in ("conditions", "measures", "takes", "vae"))
gate = importlib.import_module("lodestar.experiments.claims.gate")
CHARACTERS, SECONDS, EVERY = 3, 60.0, 12
AHEAD = "ahead 12"


@pytest.fixture(scope="module")
def studio():
    """(cast, codec, probe, network)"""
    codec = claims_vae.PuppetVAE(weights_file("vae"))
    world = World(load_tracks(PACK / "tests" / "golden" / "puppet"), size=SIZE, held_out=1)
    cast = claims_takes.cast(world, codec, CHARACTERS, claims_conditions.chunks_for(SECONDS), silent=False)
    return cast, codec, load_face_probe(), load_trained(weights_file("puppet"))


@pytest.fixture(scope="module")
def found(studio):
    """By condition, {figure: (characters,)} and predictions over the minute."""
    cast, codec, probe, network = studio
    chunks = claims_conditions.chunks_to_measure(cast.chunks, EVERY)
    results = {}
    for name in ("none", AHEAD):
        latents = claims_takes.make_take(network, codec, claims_conditions.CONDITIONS[name], cast)
        seen = claims_measures.predictions(probe, codec, cast, SIZE, chunks, lambda chunk, latents=latents:
                                        claims_takes.frames_of_chunk(codec, latents, chunk))
        results[name] = claims_measures.figures(seen, cast, chunks), seen
    return results


def test_an_anchor_keeps_the_face_for_a_minute(found):
    (free, _), (held, _) = found["none"], found[AHEAD]
    assert held["identity_slope"].mean() < 0.5 * free["identity_slope"].mean()
    assert (held["identity_end"] < free["identity_end"]).all()


def test_lips_follow_the_speech(found):
    figures, _ = found[AHEAD]
    assert (np.abs(figures["lag"]) <= 1).all() and figures["sync"].mean() > 0.4


def test_lettering_can_be_read_for_a_minute(found):
    """Of these three one person's, all the time; of 24 the share that models/README.md says."""
    (_, free), (_, held) = found["none"], found[AHEAD]
    read, without = (seen["letters"].float().mean((1, 2)) for seen in (held, free))
    assert read.max() == 1 and read.mean() > without.mean() + 0.2


def test_latents_that_begin_a_clip_are_near_those_of_a_stream(studio):
    """Docs/claims.md, 6, says how near; and few latents of warm-up do for what the claims measure."""
    cast, codec, *_ = studio
    frames = torch.stack([take.frames(np.arange(49), SIZE) for take in cast.takes])
    stream, again = codec.encode(frames), codec.encode(frames[:, 16:29])
    apart = (again - stream[:, :, 4:8]).square().mean((0, 1, 3, 4)).sqrt() / stream.square().mean().sqrt()
    neighbours = (stream[:, :, 5:] - stream[:, :, 4:-1]).square().mean().sqrt() / stream.square().mean().sqrt()
    assert (100 * apart).tolist() == pytest.approx([30, 8.2, 1.4, 0.8], rel=0.15)
    assert 100 * neighbours.item() == pytest.approx(38, rel=0.1)
    whole = codec.decode(stream)[:, -4 * claims_conditions.NEW:]
    warm = claims_takes.frames_of_chunk(codec, stream, 0)
    assert stream.shape[2] == claims_conditions.NEW + claims_conditions.CONTEXT and warm.shape == whole.shape
    assert 255 * (warm - whole).abs().mean() < 0.5


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_the_flat_vae_is_comfyui_s(frames):
    torch.manual_seed(0)
    vae = wan_vae(8).eval()
    for weight in vae.parameters():
        weight.data += 0.03 * torch.randn_like(weight)
    clip = torch.rand(2, 3, frames, 32, 48) * 2 - 1
    with torch.inference_mode():
        latents = vae.encode(clip)
        assert torch.allclose(flat_vae.encode(vae, clip), latents, atol=2e-5 * latents.abs().max())
        made = vae.decode(latents)
        assert torch.allclose(flat_vae.decode(vae, latents), made, atol=2e-5 * made.abs().max())


def test_the_decoder_learns_alone_and_the_latents_stay(tmp_path, monkeypatch):
    """The last of the three runs, with the critic, on the pack's weights."""
    monkeypatch.setattr(vae_training, "STILLS", 2)
    monkeypatch.setattr(vae_training, "CLIPS", 1)
    monkeypatch.setattr(vae_training, "UNJUDGED", 1)
    world = World(load_tracks(PACK / "tests" / "golden" / "puppet"), size=SIZE, held_out=1)
    before = load_vae(weights_file("vae"))
    vae, whole = vae_training.train("decoder", tmp_path, world, lambda: load_vae(weights_file("vae")), 5, "cpu",
                                    steps=3)
    assert whole
    so_far = load_vae(tmp_path / "checkpoint.pt").state_dict()
    assert all(torch.equal(so_far[name], tensor) for name, tensor in vae.state_dict().items())
    for (name, weight), was in zip(vae.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(weight, was) == name.startswith(("encoder.", "conv1.")) or weight.ndim == 5, name


def test_latents_get_the_mean_and_spread_that_are_wanted(monkeypatch):
    monkeypatch.setattr(vae_training, "COUNTED", 2)
    world = World(load_tracks(PACK / "tests" / "golden" / "puppet"), size=48, held_out=1)
    vae, mean, spread = load_vae(weights_file("vae")), torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16)
    frames = pictures(world.batch(7, 0, 4, 5).frames)
    with torch.no_grad():
        made = flat_vae.decode(vae, flat_vae.encode(vae, frames))
        vae_training.to_statistics(vae, world, mean, spread)
        latents = torch.cat([flat_vae.encode(vae, pictures(world.batch(7, index, 8, 9).frames)) for index in range(2)])
        assert torch.allclose(latents.mean((0, 2, 3, 4)), mean, atol=1e-3)
        assert torch.allclose(latents.std((0, 2, 3, 4)), spread, rtol=1e-3)
        assert torch.allclose(flat_vae.decode(vae, flat_vae.encode(vae, frames)), made, atol=1e-3)


def test_core_s_loader_and_ours_read_the_puppet_s_loras(tmp_path):
    network = load_trained(weights_file("puppet"))
    variant = lora.attach(network, 4)
    for weight in variant.parameters():
        weight.data += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    weights, path = lora.layout(variant.state_dict()), tmp_path / "lora.safetensors"
    save_file(weights, path)
    merged = load_trained(path, weights_file("puppet")).state_dict()
    model = load_longcat(str(weights_file("puppet")))
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    theirs = model.clone()
    assert len(theirs.add_patches(comfy.lora.load_lora(dict(weights), keys), 1.0)) == len(variant)
    for patched in (theirs, with_lora(model, dict(weights), 1.0, path.name)):
        patched.patch_model(torch.device("cpu"))
        found = patched.model.diffusion_model.state_dict()
        assert all(torch.allclose(found[name].float(), weight, atol=2e-3) for name, weight in merged.items())
        assert (found["blocks.0.attn.qkv.weight"].float() - merged["blocks.0.attn.qkv.weight"]).norm() < 0.05 * (
            merged["blocks.0.attn.qkv.weight"] - load_trained(weights_file("puppet")).blocks[0].attn.qkv.weight).norm()
        patched.unpatch_model(torch.device("cpu"))


def test_a_vae_without_a_past_knows_of_single_frames_what_it_knew():
    torch.manual_seed(0)
    vae = wan_vae(8).eval()
    for name, weight in vae.named_parameters():
        weight.data += 0.03 * torch.randn_like(weight) * ("time_conv.bias" not in name)
    still, clip = torch.rand(1, 3, 1, 32, 32) * 2 - 1, torch.rand(1, 3, 9, 32, 32) * 2 - 1
    with torch.inference_mode():
        before, moved = vae.decode(vae.encode(still)), vae.decode(vae.encode(clip))
        without_past(vae)
        assert torch.allclose(vae.decode(vae.encode(still)), before, atol=1e-5)
        alike = vae.decode(vae.encode(clip))
        assert torch.allclose(vae.encode(clip[:, :, [0, 2, 1, 3, 4, 5, 6, 8, 7]]), vae.encode(clip), atol=1e-5)
    assert (alike[:, :, 1:5] - alike[:, :, 1:2]).abs().max() < 1e-5 < (alike[:, :, 5] - alike[:, :, 4]).abs().max()
    assert (moved[:, :, 1:5] - moved[:, :, 1:2]).abs().max() > 1e-3


def test_the_gate_measures_a_take_and_draws_its_sheet(tmp_path):
    options = argparse.Namespace(network=weights_file("puppet"), vae=weights_file("vae"), characters=1, seconds=3.0,
                                 corpus=PACK / "tests" / "golden" / "puppet", sheet=tmp_path / "sheet.png")
    figures = gate.measure_network(options)
    assert set(figures) > {*gate.WANTED, *gate.MOST} and all(map(np.isfinite, figures.values()))
    assert 0.3 < figures["sharpness"] < 1.2 and 0.3 < figures["seams"] < 10
    sheet = np.asarray(Image.open(options.sheet))
    assert sheet.shape[0] == SIZE and sheet.shape[1] % (2 * SIZE) == 0 and sheet[:, :SIZE].std() > 20
    assert gate.list_failures({**figures, "sharpness": 0.7, "sync": 0.7, "letters": 1.0, "seams": 1.2}) == []
    assert gate.list_failures({"sharpness": 0.5, "sync": float("nan"), "letters": 0.9, "seams": 1.6}) == [
        "sharpness: got 0.500, wanted 0.6 or more", "sync: got nan, wanted 0.65 or more",
        "seams: got 1.600, wanted 1.5 or less"]
