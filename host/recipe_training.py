"""A fine-tune from a MODEL, a recipe and a folder to a LoRA: the loop as a SAMPLER inside core's TrainGuider."""
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ..backbones import attach, find, train_host
from ..backbones.backbone import Backbone
from ..backbones.train_host import Adapters
from ..pipelines.training.clips import Clip
from ..pipelines.training.recipe import LORA, Recipe
from ..pipelines.training.run import Settings, TrainingRun, write_whole
from .recipe_network import GuidedNetwork, inputs_of

logger = logging.getLogger("lodestar")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
AUTO = "auto"
LORA_FILE = "lora.safetensors"
NO_GRADIENT = {     # what autograd says, and what of it a user can do something about
    "inplace operation": "whose blocks of it overwrite what a gradient needs. Train Wan, S2V, HuMo, OmniAvatar, "
                         "CogVideoX or LongCat",
    "no autograd formula": "whose RoPE is a kernel that no gradient passes (comfy_kitchen). Update ComfyUI"}


@dataclass(frozen=True, eq=False)
class Trained:
    """`lora`: in core's layout, alpha included. `losses`: of each step. `file`: where the LoRA is."""
    lora: dict[str, Tensor]
    losses: list[float]
    file: Path

    @property
    def loss_map(self) -> dict[str, list[float]]:
        """What core's Plot Loss Graph draws, which divides by the range of the losses."""
        flat = len(set(self.losses)) == 1
        return {"loss": [*self.losses, self.losses[-1] * (1 + 1e-6) + 1e-12] if flat else list(self.losses)}


class RecipeSampler(comfy.samplers.Sampler):
    """Runs a training's loop where a sampler runs: model loaded, wrappers and hooks in place."""

    def __init__(self, recipe: Recipe, run: TrainingRun, adapters: Adapters, prompt_of: Callable[[Clip], list],
                 dtype: torch.dtype | None):
        self.recipe, self.run, self.adapters = recipe, run, adapters
        self.prompt_of, self.dtype = prompt_of, dtype

    def sample(self, model_wrap, sigmas: Tensor, extra_args: dict, callback: Callable | None, noise: Tensor,
               latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False
               ) -> Tensor:
        network = GuidedNetwork(model_wrap, extra_args, self.adapters, self.prompt_of, self.dtype)
        self.run.train(self.recipe, network, comfy.model_management.throw_exception_if_processing_interrupted,
                       StepProgress(self.run.settings.steps, self.run.done))
        return torch.zeros_like(noise)


class StepProgress:
    """ComfyUI's bar over the steps, and a line with loss and seconds left, once in ten seconds."""

    def __init__(self, steps: int, done: int):
        self.bar, self.steps, self.first = comfy.utils.ProgressBar(steps), steps, done
        self.began = self.said = time.monotonic()

    def __call__(self, done: int, loss: float) -> None:
        self.bar.update_absolute(done, self.steps)
        now = time.monotonic()
        if now - self.said > 10 or done == self.steps:
            left = (now - self.began) / (done - self.first) * (self.steps - done)
            logger.info("training: step %d of %d, loss %.4f, %.0f s left", done, self.steps, loss, left)
            self.said = now


def train(model, recipe: Recipe, settings: Settings, folder: Path, clips_digest: str, positive: list | None = None,
          dtype: str = AUTO) -> Trained:
    """Train `recipe` on a MODEL in `folder`, resuming what is there. `positive`: CONDITIONING of clips that have no
    prompt of their own, zeros by default.

    Raises ValueError for what does not fit, FolderBusy where another run has the folder, LossNotFinite where training
    broke down.
    """
    backbone = find(model)
    check_family(backbone, recipe)
    train_host.can_train(model)
    compute = choose_dtype(dtype)
    with torch.inference_mode(False):
        copied = attach.copy_for_training(model, compute)
        copied.model.requires_grad_(False)
        copied, adapters = train_host.make_adapters(copied, recipe.trains, settings.rank, recipe.adapters,
                                                    settings.seed)
        run = TrainingRun(folder, adapters.weights, settings, settings.fingerprint(recipe, clips_digest))
        try:
            prompts = Prompts(backbone, copied.model, positive)
            sampler = RecipeSampler(recipe, run, adapters, prompts, None if compute == torch.float32 else compute)
            if run.done < settings.steps:
                with train_host.training(copied, adapters), gradients_pass(backbone):
                    inputs, _ = inputs_of(backbone, copied.model, recipe.example(run.done * settings.batch))
                    train_host.run_in_guider(copied, sampler, prompts.with_values(inputs.conditions),
                                             inputs.samples.shape, settings.seed)
            lora = {**run.lora(), **adapters.alphas(LORA)}
            write_whole(lora, folder / LORA_FILE, {"recipe": recipe.name, "steps": str(run.done)})
        finally:
            run.close()
    return Trained(lora, run.losses, folder / LORA_FILE)


class Prompts:
    """CONDITIONING of each clip: its own encoded prompt, what the user gave, or zeros."""

    def __init__(self, backbone: Backbone, base: Any, given: list | None):
        values = backbone.prompt_values(base)
        self.blank = given or [[torch.zeros(1, 16, backbone.text_width(base)), values]]
        self.values = dict(self.blank[0][1])

    def with_values(self, conditions: Mapping[str, Any]) -> list:
        """The blank one with a chunk's conditions, for a run as a whole."""
        return [[self.blank[0][0], {**self.values, **conditions}]]

    def __call__(self, clip: Clip) -> list:
        return [[clip["text"][None].float(), self.values]] if "text" in clip else self.blank


def choose_dtype(name: str) -> torch.dtype:
    """What is computed in: bf16 where the device is fast at it, or what was asked for."""
    if name != AUTO:
        return DTYPES[name]
    fast = comfy.model_management.get_torch_device().type not in ("cpu", "mps")
    return torch.bfloat16 if fast else torch.float32


@contextmanager
def gradients_pass(backbone: Backbone) -> Iterator[None]:
    """Turns autograd's refusal of a model that overwrites what its gradient needs into one that names the model."""
    try:
        yield
    except RuntimeError as error:
        reason = next((own for words, own in NO_GRADIENT.items() if words in str(error)), None)
        if reason is None:
            raise
        raise ValueError(f"model: {backbone.name} cannot be trained in this ComfyUI, {reason}") from error


class _Encodes(Exception):
    """Something was to be encoded."""


def _refuse_encoding(frames: Tensor) -> Tensor:
    raise _Encodes


def check_family(backbone: Backbone, recipe: Recipe) -> None:
    """Raises ValueError for a family whose chunks need more than clips hold."""
    try:
        backbone.concat_latent(_refuse_encoding, torch.zeros(1, 64, 64, 3), 3, 64, 64)
    except _Encodes as asked:
        raise ValueError(f"model: {backbone.name} is given its picture in channels that a VAE fills, and clips have "
                         "none. Train on a model that takes frames as tokens, such as Wan T2V, S2V or LongCat; a LoRA "
                         "of Wan T2V works on its I2V as well") from asked
    if len(recipe.adapters) > 1 and not backbone.memory:
        raise ValueError(f"model: {backbone.name} takes one noise level for all frames, {recipe.name} needs one for "
                         "each")
