"""The puppet's LoRAs for EverAnimate's claims: what a batch is, what is spoilt and when, and that a step learns."""
from dataclasses import replace

import numpy
import pytest
import torch
from lodestar.techniques import restorative_flow as flow
from lodestar.techniques.spoilt_pictures import Draw
from lodestar.training.puppet import lora, persistent
from lodestar.training.puppet.network import CHUNK, CONTEXT, puppet
from lodestar.training.puppet.world import World

pytestmark = pytest.mark.once
RESTORED, NO_RESTORE, NO_MEMORY = persistent.VARIANTS


@pytest.fixture(scope="module")
def clips():
    generator = torch.Generator().manual_seed(2)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    latents = drawn(4, 16, persistent.LATENTS, 4, 4)
    return {"latents": latents, "spoilt": latents + 5, "silent": torch.zeros(4, dtype=torch.bool),
            "pictures": drawn(4, len(persistent.PICTURES), 16, 4, 4),
            "audio": drawn(4, persistent.FRAMES + 4, 5, 16)}


def test_a_batch_has_the_memory_or_the_context_alone(clips):
    given, spoilt = persistent.sample(RESTORED, clips, 7)
    assert given.front.shape[2] == 4 + CONTEXT and given.clean == (1, 1, 1, 1, CONTEXT)
    assert given.times == (10.0, CHUNK + 2, CHUNK + 5, CHUNK + 8, *range(CHUNK))
    assert torch.allclose(spoilt, given.noisy + 5) and given.noisy.shape[2] == CHUNK - CONTEXT
    alone, _ = persistent.sample(NO_MEMORY, clips, 7)
    assert alone.clean == (CONTEXT,) and alone.front.shape[2] == CONTEXT and alone.times == tuple(range(CHUNK))


def test_the_last_fifth_is_restorative_and_of_one_variant():
    """In the paper's proportion, of fewer steps."""
    assert [variant.is_restoring(step) for variant in persistent.VARIANTS for step in (479, 480)] == [
        False, True, False, False, False, False]
    paper = flow.STAGES["restoration"].steps, flow.STAGES["adaptation"].steps
    assert RESTORED.restoring * paper[1] == (RESTORED.steps - RESTORED.restoring) * paper[0]


def test_a_step_moves_the_lora_and_a_spoilt_clip_changes_its_loss(clips):
    torch.manual_seed(0)
    network = puppet()
    found, variant = lora.attach(network, 2), replace(RESTORED, batch=2)
    plain = replace(variant, restores=False)
    losses = [persistent.loss_of(network, each, clips, 4100, "cpu") for each in (variant, plain)]
    assert all(loss.isfinite() for loss in losses) and losses[0] != losses[1]
    losses[0].backward()
    assert found and all(part.down.grad is not None for part in found.values())


def test_a_spoilt_clip_is_its_own_clip_spoilt(monkeypatch):
    """The frames are those that `training.puppet.latents` encodes."""
    from lodestar.training.puppet import latents
    world, seen = World(size=32), []
    monkeypatch.setattr(latents, "encode", lambda vae, frames, device: seen.append(frames) or torch.zeros(
        len(frames), 16, 1, 1, 1))
    latents.clip(None, world, 3, "cpu")
    monkeypatch.setattr(persistent, "draw_spoiling", lambda draw: Draw())
    spoilt = persistent.spoil_clip(world, 3)
    assert numpy.array_equal(seen[0][0].numpy(), ((spoilt.movedim(1, -1) + 1) * 127.5).round().byte().numpy())


def test_without_the_finished_puppet_it_says_so(tmp_path):
    assert "the puppet is still in training" in persistent.go(tmp_path, 0.0, tmp_path / "vae", "cpu")
