"""A training run in a folder: the loop, its checkpoints, and how it is resumed to the last bit.

A step draws everything from its number, so a run that is ended and resumed has the weights of one that never was. A
checkpoint is a safetensors file with the adapters and the optimiser's state, and JSON in its header: no pickles. The
newest one that is whole stands under its name; a loss that is not a number leaves it there.
"""
import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..safe_files import SUFFIX, writing
from ..take.folder_lock import FolderLock
from .recipe import LORA, Network, Recipe

CHECKPOINT = "checkpoint.safetensors"
SPARE_BYTES = 1 << 26       # that stay free on the disk
WARMUP_STEPS, LARGEST_GRADIENT = 20, 1.0
Weights = Mapping[str, Mapping[str, nn.Parameter]]     # by adapter, by name


class LossNotFinite(ArithmeticError):
    """The loss or its gradient is NaN or infinite; the last good checkpoint is as it was."""


@dataclass(frozen=True)
class Settings:
    """`batch`: examples that one step adds up. `rate`: AdamW's. `checkpoint_minutes`: how often it is saved."""
    steps: int
    rank: int = 32
    batch: int = 1
    rate: float = 1e-4
    seed: int = 0
    checkpoint_minutes: float = 5.0

    def __post_init__(self):
        for name in ("steps", "rank", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least 1")
        if not 0 < self.rate < 1:
            raise ValueError(f"rate: got {self.rate:g}, wanted more than 0 and less than 1, such as 1e-4")

    def fingerprint(self, recipe: Recipe, clips: str) -> dict:
        """What a resumed run must have in common with the one before; more steps, or saving more often, it may."""
        own = asdict(self)
        del own["steps"], own["checkpoint_minutes"]
        return {**own, "recipe": repr(recipe), "clips": clips}


class TrainingRun:
    """The run in `folder`, which it holds until `close`. `weights`: what is trained, by adapter; it is filled from the
    checkpoint where there is one. `losses`: of every step so far. `on_save`: called after each checkpoint.

    Raises FolderBusy where another run has the folder, ValueError where its checkpoint is of another training, or the
    disk has too little room, with the figure.
    """

    def __init__(self, folder: Path, weights: Weights, settings: Settings, fingerprint: Mapping,
                 on_save: Callable[["TrainingRun"], None] = lambda run: None):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.weights, self.settings, self.on_save = folder, weights, settings, on_save
        self.fingerprint = json.loads(json.dumps(fingerprint))
        self.optimizers = {name: torch.optim.AdamW(list(own.values()), lr=settings.rate, weight_decay=0.0)
                           for name, own in weights.items()}
        self.done, self.losses = 0, list[float]()
        self._lock = FolderLock(folder)
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            if self.path.is_file():
                self._resume()
            self._check_disk()
            on_failure.pop_all()

    def _check_disk(self) -> None:
        """A checkpoint is written beside the one before: weights and both of AdamW's moments, fp32."""
        each = sum(12 * weight.numel() for own in self.weights.values() for weight in own.values())
        there = self.path.stat().st_size if self.path.is_file() else 0
        needed, free = 2 * each - there + SPARE_BYTES, shutil.disk_usage(self.folder).free
        if self.done < self.settings.steps and needed > free:
            raise ValueError(f"folder: checkpoints need {needed / 1e9:.2f} GB, and {self.folder} has {free / 1e9:.2f} "
                             "GB free. Make room, choose another place, or a smaller rank")

    @property
    def path(self) -> Path:
        return self.folder / CHECKPOINT

    def close(self) -> None:
        self._lock.release()

    def train(self, recipe: Recipe, network: Network, check_cancelled: Callable[[], None] = lambda: None,
              on_step: Callable[[int, float], None] = lambda done, loss: None) -> None:
        """Until all steps are done. Whatever ends it before, what was done is in the checkpoint; only a loss that is
        no number leaves the last one."""
        saved = time.monotonic()
        with self._saved_at_the_end():
            while self.done < self.settings.steps:
                check_cancelled()
                self._step(recipe, network)
                on_step(self.done, self.losses[-1])
                if time.monotonic() - saved > 60 * self.settings.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()

    @contextmanager
    def _saved_at_the_end(self) -> Iterator[None]:
        whole = True
        try:
            yield
        except LossNotFinite:
            whole = False
            raise
        finally:
            if whole and self.done == len(self.losses):
                self.save()

    def _step(self, recipe: Recipe, network: Network) -> None:
        """Gradients of a batch, one example after another, then one change of one adapter."""
        adapter, batch, total = recipe.adapter_at(self.done), self.settings.batch, 0.0
        trained, clips = list(self.weights[adapter].values()), set[str]()
        for part in range(batch):
            example = recipe.example(self.done * batch + part)
            clips.add(example.clip.info.name)
            loss = recipe.loss(network, example) / batch
            value = loss.item()
            self._check_finite(value, clips)
            total += value
            for weight, gradient in zip(trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True):
                if gradient is not None:
                    weight.grad = gradient if weight.grad is None else weight.grad + gradient
        self._check_finite(nn.utils.clip_grad_norm_(trained, LARGEST_GRADIENT).item(), clips)
        optimizer = self.optimizers[adapter]
        for group in optimizer.param_groups:
            group["lr"] = self.settings.rate * min(1.0, (self.done + 1) / WARMUP_STEPS)
        self.done += 1      # between here and the loss's entry the weights are of no step
        optimizer.step()
        optimizer.zero_grad()
        self.losses.append(total)

    def _check_finite(self, value: float, clips: Collection[str]) -> None:
        if not math.isfinite(value):
            raise LossNotFinite(f"the loss or its gradient became {value} in step {self.done + 1}, on "
                                f"{', '.join(sorted(clips))}. The checkpoint {self.path} is the last good one: queue "
                                "again with a lower rate, or, where that clip's latents are broken, without it")

    def save(self) -> None:
        """The checkpoint, whole or not at all."""
        tensors = {}
        for adapter, own in self.weights.items():
            states = self.optimizers[adapter].state
            for name, weight in own.items():
                tensors[f"{adapter}/weight/{name}"] = weight.detach().cpu().contiguous()
                for key, value in states.get(weight, {}).items():
                    tensors[f"{adapter}/{key}/{name}"] = value.detach().cpu().contiguous()
        header = {"done": self.done, "losses": self.losses, "training": self.fingerprint}
        write_whole(tensors, self.path, {"run": json.dumps(header)})
        self.on_save(self)

    def _resume(self) -> None:
        try:
            with safe_open(self.path, "pt") as file:
                header = json.loads((file.metadata() or {})["run"])
                if header["training"] != self.fingerprint:
                    raise ValueError(other_training(self.path, header["training"], self.fingerprint))
                names = file.keys()
                kept = {name: file.get_tensor(name) for name in names}
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{self.path} is no checkpoint of a training ({error}): delete it to start over, or "
                             "choose another name") from error
        for adapter, own in self.weights.items():
            state = {}
            for place, (name, weight) in enumerate(own.items()):
                with torch.no_grad():
                    weight.copy_(kept[f"{adapter}/weight/{name}"])
                state[place] = {key: kept[f"{adapter}/{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
                                if f"{adapter}/{key}/{name}" in kept}
            optimizer = self.optimizers[adapter]
            optimizer.load_state_dict({"state": {place: own_state for place, own_state in state.items() if own_state},
                                       "param_groups": optimizer.state_dict()["param_groups"]})
        self.done, self.losses = header["done"], header["losses"]

    def lora(self, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
        """The trained adapter's weights as they are now."""
        return {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in self.weights[LORA].items()}


def other_training(path: Path, there: Mapping, here: Mapping) -> str:
    apart = [f"{name} {there.get(name)!r} there, {here[name]!r} here" for name in here if there.get(name) != here[name]]
    return f"{path} is of another training ({'; '.join(apart)}). Choose another name, or delete it to start over"


def write_whole(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """A safetensors file, whole or not at all. Raises NotWritten."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + SUFFIX)
        try:
            save_file(dict(tensors), unfinished, metadata=dict(metadata))
            unfinished.replace(path)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        finally:
            unfinished.unlink(missing_ok=True)
