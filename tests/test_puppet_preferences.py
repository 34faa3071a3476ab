"""The puppet's LoRAs for TAVR's claims: which scene a step shows, pairs, masked DPO by its formula, where heads are."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from lodestar.training.puppet import lora, preferences
from lodestar.training.puppet.drawing import STATE
from lodestar.training.puppet.export import CONFIGS
from lodestar.training.puppet.latents import LATENTS, PICTURES, REFERENCE
from lodestar.training.puppet.layouts import Config, sample
from lodestar.training.puppet.network import CHUNK, CONTEXT, puppet
from lodestar.training.puppet.regions import empty_room, head_cells
from lodestar.training.puppet.world import World

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def clips():
    generator = torch.Generator().manual_seed(2)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    videos = torch.zeros(3, 2, 16, REFERENCE, 4, 4)
    videos[:, 1] = 1
    return {"latents": drawn(3, 16, LATENTS, 4, 4), "silent": torch.zeros(3, dtype=torch.bool), "videos": videos,
            "pictures": drawn(3, len(PICTURES), 16, 4, 4), "lips": torch.zeros(3, LATENTS, 4, 4),
            "re-encoded": drawn(3, 3, 16, CONTEXT, 4, 4), "audio": drawn(3, 4 * LATENTS + 1, 5, 16)}


@pytest.mark.parametrize("name", ["same_scene", "both_scenes", "cross_only"])
def test_a_step_shows_the_scene_of_its_stage(clips, name):
    config = replace(Config.read(CONFIGS / f"{name}.json"), shares={"video": 1.0}, batch=2)
    early, late = (set(sample(config, clips, step).front[:, :, 0].unique().tolist()) for step in (0, 1499))
    assert (early, late) == {"same_scene": ({0}, {0}), "cross_only": ({1}, {1}), "both_scenes": ({0}, {1})}[name]


def test_the_base_sees_both_as_before(clips):
    """Whatever is drawn after the scenes is drawn as ever."""
    shown = [sample(replace(Config("x", batch=8), shares={"video": 1.0}, scenes=scenes), clips, 3)
             for scenes in ("both", "same")]
    assert set(shown[0].front[:, :, 0].unique().tolist()) == {0, 1} and torch.equal(shown[0].audio, shown[1].audio)


def test_the_best_and_the_worst_of_takes_are_a_pair():
    takes = torch.arange(4.0)
    winner, loser, margin = preferences.choose_pair(takes, torch.tensor([0.3, 0.1, 0.6, 0.2]))
    assert (winner, loser, round(margin.item(), 5)) == (1, 2, 0.5)


def test_masked_dpo_is_the_formula_and_prefers_the_winner(clips, monkeypatch):
    """-log sigmoid(0) before the first step; after some the winner's error has fallen more than the loser's."""
    torch.manual_seed(0)
    network, world = puppet(), World(size=32)
    for block in network.blocks:
        torch.nn.init.normal_(block.adaLN_modulation[-1].weight, std=0.1)
    torch.nn.init.normal_(network.final_layer.linear.weight, std=0.1)
    parts, seen = lora.attach(network, 2), []
    loss, errors = preferences.preference_loss, preferences.masked_error
    monkeypatch.setattr(preferences, "preference_loss", lambda *found: seen.append(found) or loss(*found))
    monkeypatch.setattr(preferences, "masked_error", errors)
    pairs = {"clip": torch.tensor([1]), **{name: torch.randn(1, 16, CHUNK - CONTEXT, 4, 4) for name in (
        "winner", "loser")}}
    config = Config("x", batch=1)
    optimizer = torch.optim.SGD(parts.parameters(), 2e-3)
    for _ in range(4):
        value = preferences.loss_of(network, parts, config, clips, pairs, world, 0)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
    win, lose, win_before, lose_before = (part.item() for part in seen[-1])
    apart = win - win_before - (lose - lose_before)
    assert loss(*seen[0]).item() == pytest.approx(math.log(2))
    assert value.item() == pytest.approx(math.log1p(math.exp(250 * apart)), rel=1e-3)
    assert win - win_before < lose - lose_before and seen[0][2:] == seen[-1][2:]    # what was before never changes


def test_two_loras_in_one_file_add_what_both_add():
    torch.manual_seed(1)
    networks = [puppet() for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    files = []
    for rank in (2, 3):
        name = "diffusion_model.blocks.0.attn.qkv"
        files.append({f"{name}.lora_up.weight": torch.randn(576, rank), f"{name}.alpha": torch.tensor(float(rank)),
                      f"{name}.lora_down.weight": torch.randn(rank, 192)})
        lora.add(networks[0], files[-1])
    lora.add(networks[1], lora.join(*files))
    assert torch.allclose(*(network.blocks[0].attn.qkv.weight for network in networks), atol=1e-4)


def test_the_head_is_where_it_is_drawn_and_nobody_is_in_an_empty_room():
    take = World(size=64).take(5)
    frames = np.arange(3)
    cells, room, shown = head_cells(take, frames, 64), empty_room(take.identity, 64), take.frames(frames, 64)
    assert cells.shape == (3, 8, 8) and cells[:, 3, 4].all() and not cells[:, 0, 0].any() and not cells[:, 7, 0].any()
    assert (shown[:, 2, 2] == room[2, 2]).all() and (shown[:, 32, 32] != room[32, 32]).any()
    assert len(STATE) == take.states(frames).shape[1]


def test_without_the_finished_puppet_it_says_so(tmp_path):
    assert "the puppet is still in training" in preferences.go(tmp_path, 0.0, tmp_path / "vae")
