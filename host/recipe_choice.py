"""The recipes by name, with what each is made from: a folder of clips, and what the model is trained at."""
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from torch import Tensor

from ..backbones import find
from ..backbones.socket_values import check_whole_schedule, describe, name_input
from ..backbones.vae import own_vae
from ..pipelines.training.clip_store import CLIPS, ClipStore
from ..pipelines.training.distilling_recipes import Matching, Regression
from ..pipelines.training.flow_recipes import Chunks, FlexibleAnchor, FlowRecipe, Silence, Stitching
from ..pipelines.training.preference_recipe import Preference
from ..pipelines.training.restoring_recipe import RestorativeFlow
from ..pipelines.training.run import Settings
from ..pipelines.training.video_recipe import CrossScene, SameScene
from ..techniques.flow_schedules import student_levels
from ..techniques.rolling_window import Rolling
from .memory_plan import MemoryPlan
from .recipe_training import AUTO, Trained, plan, train
from .rolling_sampler import RollingSampler
from .teacher import PAIRS, PREFERENCES

logger = logging.getLogger("lodestar")
RUNS_FOLDER = "lodestar_training"       # below ComfyUI's output folder, and below its LoRAs

@dataclass(frozen=True)
class Choice:
    """`make`: (clips, chunks) -> the recipe, and for a `student` with its window. `shelf`: of the folder, which it
    reads, or how the names of those begin that `maker` makes."""
    make: Callable[..., FlowRecipe]
    shelf: str = CLIPS
    maker: str = "Make Training Clips"
    student: bool = False

    def recipe(self, clips: ClipStore, chunks: Chunks, window: Rolling | None) -> FlowRecipe:
        if self.student:
            return self.make(clips, chunks, window or avatarforcing_window())
        made = self.make(clips, chunks)
        if window is not None:
            logger.warning("window: %s has none, it is not used; it is for the student recipes", made.name)
        return made

    def shelf_of(self, store: ClipStore) -> ClipStore:
        """The shelf of the folder that it reads: the one that was opened, or the only one there is."""
        if self.shelf == CLIPS:
            return store.on(CLIPS)
        if store.shelf.startswith(self.shelf):
            return store
        found = sorted(path.name for path in store.folder.glob(f"{self.shelf}*") if path.is_dir())
        if len(found) != 1:
            has = f"several ({', '.join(found)})" if found else "none"
            raise ValueError(f"clips: this recipe reads what {self.maker} makes, and {store.folder} has {has}. Connect "
                             f"its output, or name one of them as the shelf")
        return store.on(found[0])


def avatarforcing_window() -> Rolling:
    """Its window: four blocks of four latents, one pass."""
    return Rolling(tuple(student_levels("AvatarForcing", 4, 1, 5.0).tolist()))


RECIPES: Mapping[str, Choice] = {
    FlexibleAnchor.name: Choice(FlexibleAnchor),
    Stitching.name: Choice(Stitching),
    Silence.name: Choice(Silence),
    RestorativeFlow.name: Choice(RestorativeFlow),
    Regression.name: Choice(Regression, PAIRS, "Backfill", True),
    Matching.name: Choice(Matching, student=True),
    SameScene.name: Choice(SameScene),
    CrossScene.name: Choice(CrossScene),
    Preference.name: Choice(Preference, PREFERENCES, "Preference Pairs"),
}


def train_by_name(model, name: str, clips: Path | ClipStore, folder: Path, settings: Settings, *, shelf: str = CLIPS,
                  window: Rolling | None = None, adaptation: int | None = None, **more: Any) -> Trained:
    """Train a recipe on a folder of clips. `window`: of a student, AvatarForcing's by default. `adaptation`: steps of
    restorative flow before anything is restored, the paper's by default. `more`: of `train`.
    Raises ValueError for an unknown recipe, and for clips of another model's VAE or speech."""
    recipe, digest = recipe_of(model, name, clips, settings, shelf, window, adaptation)
    return train(model, recipe, settings, folder, digest, **more)


def recipe_of(model, name: str, clips: Path | ClipStore, settings: Settings, shelf: str, window: Rolling | None,
              adaptation: int | None = None) -> tuple[FlowRecipe, str]:
    """The recipe for a model, and the digest of the clips that it reads."""
    if name not in RECIPES:
        raise ValueError(f"recipe: got {name!r}, wanted one of {', '.join(RECIPES)}")
    backbone, choice = find(model), RECIPES[name]
    store = clips if isinstance(clips, ClipStore) else ClipStore.open(clips, shelf)
    store.check_model(backbone.name, backbone.latent_channels(model.model), backbone.grid, backbone.temporal_ratio,
                      own_vae(model.model))
    if backbone.audio_shape is not None:
        store.check_speech(backbone.name, backbone.layers_taken, backbone.audio_shape[1])
    own, form = choice.shelf_of(store), store.format
    recipe = choice.recipe(own, Chunks(settings.seed, form.chunk_latents, form.context_latents), window)
    set_first_stage(recipe, settings, adaptation)
    return recipe, own.digest


def set_first_stage(recipe: FlowRecipe, settings: Settings, adaptation: int | None) -> None:
    """Of restorative flow; a warning where the training ends within it. ValueError for steps of it in another."""
    if not isinstance(recipe, RestorativeFlow):
        if adaptation is not None:
            raise ValueError(f"adaptation: {recipe.name} has one stage; it is for {RestorativeFlow.name}")
        return
    steps = recipe.adaptation if adaptation is None else adaptation
    recipe.adaptation = steps * settings.batch
    if settings.steps <= steps:
        logger.warning("training: all %d steps are the first stage of %s, in which nothing is restored; the second "
                       "begins with step %d", settings.steps, recipe.name, steps + 1)


def plan_by_name(model, name: str, clips: Path | ClipStore, settings: Settings, *, shelf: str = CLIPS,
                 window: Rolling | None = None, dtype: str = AUTO) -> MemoryPlan:
    """The memory that a step of `train_by_name` takes."""
    return plan(model, recipe_of(model, name, clips, settings, shelf, window)[0], settings, dtype)


def window_of(sampler: Any, levels: Tensor | None) -> Rolling | None:
    """The window that Rolling Window and Student Schedule stand for; None where neither came."""
    if sampler is None and levels is None:
        return None
    if not isinstance(sampler, RollingSampler):
        raise ValueError(f"window: got {describe(sampler)}, wanted what Rolling Window gives, with Student Schedule at "
                         "levels")
    if levels is None:
        raise ValueError("levels: nothing came. Connect Student Schedule, or disconnect window")
    with name_input("levels"):
        check_whole_schedule(levels, 1.0)
        return sampler.rolling(levels)


def train_in_output(model, name: str, clips: ClipStore, folder: str, settings: Settings, **more: Any) -> Trained:
    """As a node does it: the run's folder is ComfyUI's output/lodestar_training/<folder>, its LoRA is one that Load
    LoRA lists. Raises ValueError for a name that leads out of there, too."""
    output, own = Path(folder_paths.get_output_directory()), folder.strip()
    root = (output / RUNS_FOLDER).resolve()
    path = (root / own).resolve()
    if not own or path == root or not path.is_relative_to(root):
        raise ValueError(f"folder: got {folder!r}, wanted the name of a folder in {root}, such as my_lora")
    lora_file = output / "loras" / RUNS_FOLDER / f"{path.relative_to(root).as_posix()}.safetensors"
    return train_by_name(model, name, clips, path, settings, lora_file=lora_file, **more)
