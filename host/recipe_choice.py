"""The recipes by name, with what each is made from: a folder of clips, and what the model is trained at."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import find
from ..pipelines.training.clip_store import CLIPS, ClipStore
from ..pipelines.training.distilling_recipes import Matching, Regression
from ..pipelines.training.flow_recipes import Chunks, FlexibleAnchor, FlowRecipe, Silence, Stitching
from ..pipelines.training.preference_recipe import Preference
from ..pipelines.training.restoring_recipe import RestorativeFlow
from ..pipelines.training.run import Settings
from ..techniques.flow_schedules import student_levels
from ..techniques.rolling_window import Rolling
from .recipe_training import AUTO, Trained, train


@dataclass(frozen=True)
class Choice:
    """`make`: (clips, chunks) -> the recipe. `shelf`: of the folder, which it reads."""
    make: Callable[[Any, Chunks], FlowRecipe]
    shelf: str = CLIPS


def make_regression(clips: ClipStore, chunks: Chunks) -> FlowRecipe:
    return Regression(clips, chunks, avatarforcing_window())


def make_matching(clips: ClipStore, chunks: Chunks) -> FlowRecipe:
    return Matching(clips, chunks, avatarforcing_window())


def avatarforcing_window() -> Rolling:
    """Its window: four blocks of four latents, one pass."""
    return Rolling(tuple(student_levels("AvatarForcing", 4, 1, 5.0).tolist()))


RECIPES: Mapping[str, Choice] = {
    FlexibleAnchor.name: Choice(FlexibleAnchor),
    Stitching.name: Choice(Stitching),
    Silence.name: Choice(Silence),
    RestorativeFlow.name: Choice(RestorativeFlow),
    Regression.name: Choice(make_regression, "pairs"),
    Matching.name: Choice(make_matching),
    Preference.name: Choice(Preference, "preferences"),
}


def train_by_name(model, name: str, clips: Path, folder: Path, settings: Settings, positive: list | None = None,
                  dtype: str = AUTO, shelf: str = "") -> Trained:
    """Train a recipe on a folder of clips. Raises ValueError for an unknown recipe, and for clips of another model's
    VAE or speech."""
    if name not in RECIPES:
        raise ValueError(f"recipe: got {name!r}, wanted one of {', '.join(RECIPES)}")
    backbone, choice = find(model), RECIPES[name]
    store = ClipStore.open(clips, shelf or choice.shelf)
    store.check_model(backbone.name, backbone.latent_channels(model.model), backbone.grid, backbone.temporal_ratio)
    if backbone.audio_shape is not None:
        store.check_speech(backbone.name, backbone.layers_taken, backbone.audio_shape[1])
    chunks = Chunks(settings.seed, store.format.chunk_latents, store.format.context_latents)
    return train(model, choice.make(store, chunks), settings, folder, store.digest, positive, dtype)
