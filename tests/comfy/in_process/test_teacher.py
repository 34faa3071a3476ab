"""Backfill and Preference Pairs through ComfyUI's own guider: what is on the shelves, what is made again, and that the
recipes train on it."""
import comfy.samplers
import folder_paths
import pytest
import torch
from cancels import cancel_at_first_clip
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.host import teacher
from lodestar.host.recipe_choice import train_by_name, window_of
from lodestar.host.rolling_sampler import RollingSampler
from lodestar.host.training_clips import ClipProgress
from lodestar.nodes.backfill import LodestarBackfill
from lodestar.nodes.preference_pairs import LodestarPreferencePairs
from lodestar.nodes.train_recipe import LodestarTrainRecipe
from lodestar.pipelines.training import pair_maker
from lodestar.pipelines.training.run import Settings
from training_clips import make_clips, write_store

pytestmark = pytest.mark.once
SIGMAS, LEVELS = torch.tensor([1.0, 0.8, 0.4, 0.0]), torch.tensor([1.0, 0.5, 0.0])
WINDOW = RollingSampler(1, 1, "fresh")


@pytest.fixture(scope="module")
def model(tiny_models):
    """As a node loads it, so that training copies it."""
    with torch.inference_mode():
        return load_longcat(str(tiny_models / "models" / "diffusion_models" /
                                "lodestar_tiny_longcat_video.safetensors"))


@pytest.fixture(scope="module")
def asked(model):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([[torch.zeros(1, 4, 4096), {}]], [[torch.zeros(1, 4, 4096), {}]])
    return {"guider": guider, "sampler": comfy.samplers.sampler_object("euler"), "sigmas": SIGMAS, "seed": 3}


@pytest.fixture
def clips(tmp_path):
    folder_paths.set_output_directory(str(tmp_path / "output"))
    return write_store(tmp_path / "clips", make_clips(count=2))


def fill(clips, asked, **given):
    return LodestarBackfill.execute(**{**asked, "clips": clips, "pairs": 4, **given}).args[0]


def prefer(clips, asked, **given):
    return LodestarPreferencePairs.execute(**{**asked, "clips": clips, "vae": Decoder(), "pairs": 3, "margin": 0.0,
                                              "judge": teacher.NEARNESS, **given}).args[0]


class Decoder:
    """All that is asked of a VAE where no face is looked for: nothing."""
    encode = decode = first_stage_model = None


def test_paths_lead_from_noise_to_the_take_and_students_train_on_them(model, clips, asked, tmp_path):
    shelf = fill(clips, asked)
    assert shelf.shelf.startswith("pairs_") and len(shelf) == 4
    opening, going_on = (next(shelf[index] for index in range(4) if ("given" in shelf[index]) is going)
                         for going in (False, True))
    own = clips.format
    assert opening["trajectory"].shape == (4, 16, own.chunk_latents - 1, 8, 8) and int(opening["first"]) == 1
    assert going_on["trajectory"].shape == (4, 16, own.chunk_latents, 8, 8)
    first = int(going_on["first"])
    assert torch.equal(going_on["given"], going_on["latents"][:, first - own.context_latents:first])
    path, levels = going_on["trajectory"].float(), going_on["trajectory_sigmas"]
    assert torch.equal(levels, SIGMAS) and abs(float(path[0].std()) - 1) < 0.1
    direction = [(path[at] - path[at + 1]) / (levels[at] - levels[at + 1]) for at in range(3)]
    velocity = path[0] - path[3]                # of a tiny model: nearly the same all the way
    assert all(torch.nn.functional.cosine_similarity(one.flatten(), velocity.flatten(), 0) > 0.9 for one in direction)
    made = train_by_name(model, "student regression", clips, tmp_path / "run", Settings(2, 2),
                         window=window_of(WINDOW, LEVELS))
    assert len(made.losses) == 2
    thin = fill(clips, asked, levels=LEVELS, pairs=1)
    assert thin.shelf != shelf.shelf and thin[0]["trajectory"].shape[0] == 3
    with pytest.raises(ValueError, match=r"clips: .* several \(pairs_\w+, pairs_\w+\). Connect its output"):
        train_by_name(model, "student regression", clips, tmp_path / "other", Settings(1, 2))
    steps = LodestarTrainRecipe.execute(model=model, clips=thin, recipe="student regression", steps=1, rank=1,
                                        rate=1e-4, seed=0, folder="thin", window=WINDOW, levels=LEVELS).args[2]
    assert steps == 1


def test_a_cancel_costs_one_pair_and_another_seed_is_another_shelf(clips, asked, monkeypatch):
    with cancel_at_first_clip(monkeypatch, ClipProgress):
        fill(clips, asked)
    folder, = clips.folder.glob("pairs_*")
    first, = folder.glob("*.safetensors")
    made = first.stat().st_mtime_ns
    shelf = fill(clips, asked)
    assert shelf.shelf == folder.name and len(shelf) == 4 and first.stat().st_mtime_ns == made
    assert len(fill(clips, asked, pairs=5)) == 5 and fill(clips, asked, seed=4, pairs=1).shelf != shelf.shelf


def test_the_take_nearer_to_the_clip_wins_and_preference_trains_on_pairs(model, clips, asked, tmp_path):
    shelf = prefer(clips, asked)
    assert shelf.shelf.startswith("preferences_") and len(shelf) == 3
    for index in range(3):
        pair = shelf[index]
        first = int(pair["first"])
        there = slice(first, first + clips.format.chunk_latents)
        assert torch.equal(pair["mask"], pair.beneath["mask"][:, there])
        apart = [(pair["mask"].float() * (pair[name].float() - pair["latents"][:, there].float()).square()).sum()
                 for name in ("winner", "loser")]
        assert apart[0] < apart[1]
    assert len(train_by_name(model, "preference", shelf, tmp_path / "run", Settings(2, 2)).losses) == 2


def test_what_does_not_fit_is_refused_by_name(clips, asked, monkeypatch):
    with pytest.raises(ValueError, match="clips: none of 3 pairs is of use.* less than the margin of 2"):
        prefer(clips, asked, margin=2.0)
    monkeypatch.setattr(teacher.Teacher, "take", lambda *given: pytest.fail("it was tried again"))
    with pytest.raises(ValueError, match="3 left out"):
        prefer(clips, asked, margin=2.0)
    with pytest.raises(ValueError, match="faces need"):
        prefer(clips, asked, judge=teacher.FACES)
    with pytest.raises(ValueError, match="^sigmas: "):
        fill(clips, asked, sigmas=SIGMAS[1:])
    with pytest.raises(ValueError, match="^window: got .*, wanted what Rolling Window gives"):
        window_of(asked["sampler"], LEVELS)
    monkeypatch.setattr(pair_maker.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(ValueError, match="clips: 4 pairs need 0.3 GB, and .* has 0.0 GB free"):
        fill(clips, asked, seed=9)
