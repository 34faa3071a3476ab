"""The puppet's one command, from nothing to exported weights in steps of one: what is missing, and nothing twice."""
import json
from pathlib import Path

import pytest
import torch
from lodestar.training.puppet import all as everything
from lodestar.training.puppet import export, latents, layouts, run, vae, vae_gate, world
from lodestar.training.puppet.network import load_trained
from lodestar.training.puppet.speech import load_tracks
from safetensors.torch import load_file

pytestmark = pytest.mark.once

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "puppet"


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Options of a run whose every part is as short as it can be."""
    configs = tmp_path / "configs"
    configs.mkdir()
    for config in ({"name": "puppet"}, {"name": "puppet_null_silence", "base": "puppet", "silence": "null", "rank": 2}):
        record = {**config, "clips": 2, "steps": 2, "batch": 1, "shares": {"latents": 0.5, "video": 0.5}}
        (configs / f"{config['name']}.json").write_text(json.dumps(record))
    tracks = load_tracks(GOLDEN)
    for module, name, value in (
            (everything, "corpus", lambda folder: None), (world, "load_tracks", lambda folder: tracks),
            (vae, "STAGES", {name: stage._replace(steps=2) for name, stage in vae.STAGES.items()}),
            (vae, "STILLS", 2), (vae, "CLIPS", 1), (vae, "COUNTED", 1), (vae, "CLIP_FRAMES", (5,)),
            (vae_gate, "STILLS", 2), (vae_gate, "SHOWN", 1), (run, "LOG_EVERY_STEPS", 1),
            (latents, "PER_FILE", 1), (export, "CONFIGS", configs)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(vae_gate.gate, "__defaults__", (0,))
    return everything.parse_arguments([str(tmp_path / "out"), "--hours", "1"])


def check_latents(out):
    """All layouts can be made of the clips; the decoder's run has left the encoder alone."""
    clips = latents.load(out / "latents", 2)
    assert clips["latents"].shape == (2, 16, latents.LATENTS, 12, 12)
    assert clips["videos"].shape == (2, 2, 16, latents.REFERENCE, 12, 12)
    assert clips["videos_audio"].shape == (2, 2, latents.REFERENCE_FRAMES + 2 * latents.MARGIN, 5, 16)
    for layout in layouts.SHARES:
        config = layouts.Config("x", clips=2, batch=2, shares={layout: 1.0})
        assert all(torch.isfinite(layouts.sample(config, clips, step).noisy).all() for step in range(3))
    decoder, encoded = (load_file(out / "vae" / f"{name}.safetensors") for name in ("decoder", "clips"))
    assert all(torch.equal(decoder[name], encoded[name]) for name in decoder if name.startswith(("encoder", "conv1")))
    assert clips["latents"].float().std() == pytest.approx(1, abs=0.3)


def test_it_does_what_comes_next_and_nothing_twice(small, tmp_path, monkeypatch):
    small.hours = 0
    assert everything.go(small) == "the VAE is in training"
    small.hours = 1
    said = everything.go(small)
    assert "not good enough" in said and "stills.psnr: got" in said and (small.out / "vae_gate.png").is_file()
    assert not (small.out / "latents").exists()
    small.anyway, small.hours = True, 0
    assert everything.go(small) == "latents are being made"
    small.hours = 1
    assert everything.go(small).startswith("all is made")
    check_latents(small.out)
    files = {path: path.stat().st_mtime_ns for path in small.out.rglob("*") if path.is_file()}
    monkeypatch.setattr(vae, "train", None)
    monkeypatch.setattr(latents, "clip", None)
    assert everything.go(small).startswith("all is made")
    assert files == {path: path.stat().st_mtime_ns for path in small.out.rglob("*") if path.is_file()}
    exported = export.export(small.out, tmp_path / "models")
    assert [path.stem for path in exported] == ["lodestar_puppet_vae", "lodestar_puppet", "puppet_null_silence"]
    assert load_trained(exported[2], exported[1]).config.depth == 6
    how = json.loads((tmp_path / "models" / "puppet" / "puppet_null_silence.json").read_text())
    assert how["base"] == "puppet" and how["steps"] == 2


def test_a_finished_vae_is_not_trained_again(small, tmp_path):
    """Its gate and the latents come next, and no run of a VAE is begun."""
    weights = tmp_path / "finished.safetensors"
    small.out.mkdir()
    vae.save(vae.wan_vae(vae.WIDTH, "cpu"), weights)
    small.vae, small.anyway, small.hours = weights, True, 0
    assert everything.go(small) == "latents are being made"
    assert (small.out / "vae_gate.json").is_file() and not (small.out / "vae").exists()
