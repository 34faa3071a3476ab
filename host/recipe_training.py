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
from ..backbones.comfy_values import as_loaded
from ..backbones.socket_values import name_input
from ..backbones.take_checks import check_prompt, check_single
from ..backbones.train_host import Adapters
from ..pipelines.take.fingerprint import Fingerprints
from ..pipelines.training.clips import Clip
from ..pipelines.training.recipe import LORA, Recipe
from ..pipelines.training.run import Settings, TrainingRun, write_whole
from .events import TakeEvents
from .memory_plan import MemoryPlan, plan_memory
from .recipe_network import GuidedNetwork, inputs_of

logger = logging.getLogger("lodestar")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
AUTO = "auto"
LORA_FILE = "lora.safetensors"
UP = ".lora_up.weight"
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

    def __str__(self) -> str:
        newest = self.losses[-100:]
        return (f"{len(self.losses)} steps, loss {sum(newest) / len(newest):.4f} over the last {len(newest)}, in "
                f"{self.file}")

    @property
    def loss_map(self) -> dict[str, list[float]]:
        """What core's Plot Loss Graph draws, which divides by the range of the losses."""
        flat = len(set(self.losses)) == 1
        return {"loss": [*self.losses, self.losses[-1] * (1 + 1e-6) + 1e-12] if flat else list(self.losses)}


class RecipeSampler(comfy.samplers.Sampler):
    """Runs a training's loop where a sampler runs: model loaded, wrappers and hooks in place."""

    def __init__(self, recipe: Recipe, run: TrainingRun, adapters: Adapters, prompt_of: Callable[[Clip], list],
                 dtype: torch.dtype | None, node_id: str | None = None):
        self.recipe, self.run, self.adapters = recipe, run, adapters
        self.prompt_of, self.dtype, self.node_id = prompt_of, dtype, node_id

    def sample(self, model_wrap, sigmas: Tensor, extra_args: dict, callback: Callable | None, noise: Tensor,
               latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False
               ) -> Tensor:
        network = GuidedNetwork(model_wrap, extra_args, self.adapters, self.prompt_of, self.dtype)
        self.run.train(self.recipe, network, comfy.model_management.throw_exception_if_processing_interrupted,
                       StepProgress(self.run.settings.steps, self.run.done, self.node_id))
        return torch.zeros_like(noise)


class StepProgress:
    """ComfyUI's bar over the steps, a line with loss and seconds left in the node, and in the log once in ten
    seconds. `clock` in seconds."""

    def __init__(self, steps: int, done: int, node_id: str | None = None,
                 clock: Callable[[], float] = time.monotonic):
        self.bar, self.steps, self.first = comfy.utils.ProgressBar(steps, node_id=node_id), steps, done
        self.events, self.clock = TakeEvents(node_id), clock
        self.began = self.said = self.logged = clock()
        self.mean = 0.0         # of the newest losses: single ones jump

    def __call__(self, done: int, loss: float) -> None:
        self.bar.update_absolute(done, self.steps)
        self.mean += (loss - self.mean) * max(0.05, 1 / (done - self.first))
        now = self.clock()
        if now - self.said < 0.5 and done < self.steps:
            return
        left = (now - self.began) / (done - self.first) * (self.steps - done)
        text = f"Step {done} of {self.steps}, loss {self.mean:.4f}, about {left:.0f} s left"
        self.events.say(text)
        self.said = now
        if now - self.logged > 10 or done == self.steps:
            logger.info("training: %s", text)
            self.logged = now


def train(model, recipe: Recipe, settings: Settings, folder: Path, clips_digest: str, positive: list | None = None,
          dtype: str = AUTO, lora_file: Path | None = None, start: Mapping[str, Tensor] | None = None,
          node_id: str | None = None) -> Trained:
    """Train `recipe` on a MODEL in `folder`, resuming what is there. `positive`: CONDITIONING of clips that have no
    prompt of their own, zeros by default. `lora_file`: written with each checkpoint, in the folder by default.
    `start`: a LoRA that a new run begins with.

    Raises ValueError for what does not fit, FolderBusy where another run has the folder, LossNotFinite where training
    broke down.
    """
    backbone = find(model)
    check_family(backbone, recipe)
    train_host.can_train(model)
    if positive is not None:
        with name_input("positive"):
            check_single(positive)
            check_prompt(model, [text for text, _ in positive])
    compute, file = choose_dtype(dtype), lora_file or folder / LORA_FILE
    with torch.inference_mode(False):
        copied = attach.copy_for_training(model, compute)
        copied.model.requires_grad_(False)
        prompts = Prompts(backbone, copied.model, positive)
        offloads = not fits(backbone, copied, recipe, settings, prompts)
        copied, adapters = train_host.make_adapters(copied, recipe.trains, settings.rank, recipe.adapters,
                                                    settings.seed)
        if start is not None:
            begin_with(adapters.weights[LORA], start, settings.rank)

        def lora_of(run: TrainingRun) -> dict[str, Tensor]:
            return {**run.lora(), **adapters.alphas(LORA)}

        def write_lora(run: TrainingRun) -> None:
            write_whole(lora_of(run), file, {"recipe": recipe.name, "steps": str(run.done)})

        prints = Fingerprints()
        fingerprint = {**settings.fingerprint(recipe, clips_digest), "model": backbone.name,
                       "base": prints.of(loaded_weights(model), "model"), "start": prints.of(start, "start"),
                       "positive": prints.of(positive, "positive")}
        run = TrainingRun(folder, adapters.weights, settings, fingerprint, write_lora)
        try:
            sampler = RecipeSampler(recipe, run, adapters, prompts, None if compute == torch.float32 else compute,
                                    node_id)
            if run.done < settings.steps:
                with train_host.training(copied, adapters), gradients_pass(backbone):
                    inputs, _ = inputs_of(backbone, copied.model, recipe.example(run.done * settings.batch))
                    train_host.run_in_guider(copied, sampler, prompts.with_values(inputs.conditions),
                                             inputs.samples.shape, settings.seed, offloads)
            elif not file.is_file():
                write_lora(run)
            return Trained(lora_of(run), run.losses, file)
        finally:
            run.close()


def loaded_weights(model) -> dict[str, Tensor]:
    """By name, as they came from their file and not as a LoRA that is applied just now has them."""
    loaded = {id(now): weight for now, weight in as_loaded(model)}
    return {name: loaded.get(id(weight), weight.detach())
            for name, weight in model.model.diffusion_model.named_parameters()}


def begin_with(weights: Mapping[str, Tensor], start: Mapping[str, Tensor], rank: int) -> None:
    """Fill an adapter's weights, whose alpha is their rank, from a LoRA with an alpha of its own. Raises ValueError for
    one of other layers or another rank."""
    for name, weight in weights.items():
        given = start.get(name)
        if given is None or given.shape != weight.shape:
            has = "has no such layer" if given is None else f"has {tuple(given.shape)} there"
            raise ValueError(f"start: {name} is {tuple(weight.shape)}, and the LoRA that came {has}. Give one that the "
                             "same layers and rank were trained with")
        with torch.no_grad():
            alpha = start.get(f"{name.removesuffix(UP)}.alpha", rank) if name.endswith(UP) else rank
            weight.copy_(given * (float(alpha) / rank))


def fits(backbone: Backbone, model, recipe: Recipe, settings: Settings, prompts: "Prompts") -> bool:
    """Says in the log what a step will hold; whether the card has room for it, as far as that can be counted."""
    try:
        planned = plan_memory(model, recipe, settings.rank, prompts.blank)
    except (RuntimeError, TypeError, LookupError, AttributeError) as error:     # a forward that needs its numbers
        logger.warning("training: the memory of a step on %s cannot be counted here (%s)", backbone.name, error)
        return True
    logger.info("training: %s", planned)
    return planned.fits


def plan(model, recipe: Recipe, settings: Settings, dtype: str = AUTO) -> MemoryPlan:
    """The memory that a step of `train` takes. Raises ValueError as `train` does."""
    backbone = find(model)
    check_family(backbone, recipe)
    train_host.can_train(model)
    with torch.inference_mode(False):
        copied = attach.copy_for_training(model, choose_dtype(dtype))
        return plan_memory(copied, recipe, settings.rank, Prompts(backbone, copied.model, None).blank)


def blank_prompt(model) -> list:
    """CONDITIONING of a prompt of zeros, for clips that have none."""
    return Prompts(find(model), model.model, None).blank


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
