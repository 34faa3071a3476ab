"""What a step of the sampler leaves behind and waits for: tensors that outlive it, host syncs, copies between devices.

ComfyUI's compiler records a step's allocations and replays them, so whatever is kept from inside one is a rogue to it;
and a step that asks the card for a value waits for it. Counted by PyTorch's dispatcher on the tiny models, chunk by
chunk as Long Take samples them. What the pack makes under the compiler's pause is left out, as by the compiler.
"""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from unittest.mock import patch

import torch
from lodestar.backbones import attach, find, sampling_run
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.backbone import OWN, ChunkInputs, ChunkRequest
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.reference_tokens import Tokens
from lodestar.techniques.technique import ChunkPosition, Technique
from lodestar.techniques.timeline import Timeline
from lodestar.techniques.video_reference import VideoReference
from rows import Row, show
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SIZE, LATENTS, FIRST, STEPS = (8, 8), 6, 4, 3   # of latents; a chunk's, the number of its first; of the sampler
SYNCS = {"_local_scalar_dense", "equal", "is_nonzero", "item", "nonzero", "masked_select", "lift_fresh",
         "_unique2", "unique_consecutive", "unique_dim"}    # `lift_fresh`: a tensor of Python values, made on the host
INSIDE = {"placement": "in chunk", "index": 2}
PARTS = ("backbones", "techniques")             # of the pack, whose doing is judged
TECHNIQUES: dict[str, tuple[Technique, ...]] = {
    "no technique": (), "anchor": (LookaheadAnchor(),),
    "hard skip": (LookaheadAnchor(**INSIDE), ReferenceSkip()),
    "soft skip": (LookaheadAnchor(**INSIDE), ReferenceSkip("soft", 1, 0.3))}
VIDEO = "video reference"
LONGCAT: dict[str, tuple[Technique, ...]] = {
    "upstream's skip": (LookaheadAnchor(placement="in chunk", index=3), ReferenceSkip("upstream", 1)),
    "KV cache": (ConditioningCache("VRAM"),), "KV cache in RAM": (ConditioningCache("RAM"),),
    "KV cache and skip": (ConditioningCache("VRAM"), LookaheadAnchor(**INSIDE), ReferenceSkip())}
WAN = ("wan21_t2v", "wan21_i2v", "wan22_ti2v", "wan22_s2v")
COGVIDEOX, HUNYUAN = ("cogvideox_5b", "cogvideox_15_i2v"), ("hunyuan_t2v", "hunyuan15")
WHOLE = ("humo_17b", "humo_1_7b", "wan22_animate")     # which refuse context windows
NO_VIDEO = ("wan22_animate", *COGVIDEOX, *HUNYUAN)
CASES = {f"{model}, {name}": (model, name)
         for model in (*WAN, *WHOLE, "omniavatar", "infinitetalk", *COGVIDEOX, *HUNYUAN, "longcat_video",
                       "longcat_avatar", "longcat_avatar15")
         for name in (*TECHNIQUES, "keyframes", *(() if model in NO_VIDEO else (VIDEO,)),
                      *(() if model in WHOLE else ("context windows",)),
                      *(LONGCAT if model.startswith("longcat") else ()),
                      *(("two speakers",) if "longcat_avatar" in model or model == "infinitetalk" else ()))}


@dataclass
class Step:
    """`rogues`: what outlives it. `syncs`: what waits for a device, by the pack's doing. `crossings`: what goes between
    devices. `made`: every new tensor in order, as (operation, shape, dtype). `storages`: of all that it made, also what
    may outlive it."""
    rogues: list[str] = field(default_factory=list)
    syncs: list[str] = field(default_factory=list)
    crossings: list[str] = field(default_factory=list)
    made: list[tuple] = field(default_factory=list)
    storages: list[tuple[StorageWeakRef, str]] = field(default_factory=list)

    def alive(self, kept: Tensor) -> list[str]:
        """What is still there of it, but for `kept`."""
        own = kept.untyped_storage()._cdata
        return [where for storage, where in self.storages if not storage.expired() and storage.cdata != own]


class Watch(TorchDispatchMode):
    """Sees every operation of one step. What is made while it is `paused` may outlive the step."""

    def __init__(self):
        super().__init__()
        self.step, self.paused, self.kept = Step(), 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name, step = function.overloadpacket.__name__, self.step
        given, made = (tensors_of(values) for values in ((args, kwargs), result))
        known = {tensor.untyped_storage()._cdata for tensor in given}
        new = [tensor for tensor in made if tensor.untyped_storage()._cdata not in known]
        storages = [(StorageWeakRef(tensor.untyped_storage()), f"{name} at {place()}") for tensor in new]
        if self.paused:
            self.kept += storages
            return result
        step.made += [(name, tuple(tensor.shape), tensor.dtype) for tensor in new]
        step.storages += storages
        ours = place(nearest=True)
        masked = name.startswith("index") and any(tensor.dtype == torch.bool for tensor in given[1:])
        if ours and (name in SYNCS or masked):
            step.syncs.append(f"{name} at {ours}")
        if ours and len({tensor.device for tensor in (*given, *made) if tensor.ndim}) > 1:
            step.crossings.append(f"{name} at {ours}")
        return result

    def close(self, kept: Tensor) -> Step:
        """After the step: its tensors but for `kept`, what it was for, should be gone."""
        self.step.rogues = self.step.alive(kept)
        self.step.storages += self.kept
        return self.step


def tensors_of(values) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def place(nearest: bool = False) -> str:
    """The innermost line of the pack that is being run; `nearest`: only where no other library's stands between."""
    frame = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if is_pack(file):
            return f"{file.name}:{frame.f_lineno}"
        if nearest and is_comfyui(file):
            return ""
        frame = frame.f_back
    return ""


@cache
def is_pack(file: Path) -> bool:
    return file.is_relative_to(in_process.PACK) and file.relative_to(in_process.PACK).parts[0] in PARTS


@cache
def is_comfyui(file: Path) -> bool:
    return file.is_relative_to(in_process.COMFYUI)


@contextmanager
def watching() -> Iterator[Callable[[], Watch]]:
    """A maker of watches, one per step, which are paused where the pack pauses ComfyUI's compiler."""
    watches: list[Watch] = []

    @contextmanager
    def pause_watch():
        for watch in watches[-1:]:
            watch.paused += 1
        try:
            yield
        finally:
            for watch in watches[-1:]:
                watch.paused -= 1

    def new() -> Watch:
        watches.append(Watch())
        return watches[-1]

    with patch.object(sampling_run, "outside_of_steps", pause_watch):
        yield new


def from_file(name: str):
    """A MODEL of the pack's tiny checkpoints."""
    if not name.startswith("longcat"):
        return in_process.tiny_model(name)
    from lib import environment
    from lodestar.backbones.longcat.loader import load_longcat
    folder = environment.tiny_models(Path(sys.executable)) / "models" / "diffusion_models"
    return load_longcat(str(folder / f"lodestar_tiny_{name}.safetensors"))


@cache
def load_case(name: str):
    import comfy.model_management
    model = from_file(name)
    comfy.model_management.load_models_gpu([model])
    return model


@cache
def on_meta(name: str):
    """The MODEL on a device whose copies from the host are seen, and where a host sync is an error."""
    import comfy.model_patcher
    return comfy.model_patcher.ModelPatcher(from_file(name).model.to("meta"), in_process.META, in_process.META)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chunk_of(model, name: str) -> tuple[tuple[Technique, ...], ChunkPosition, ChunkInputs]:
    """A chunk in the middle of a take, as Long Take lays it out: context, picture, speech; and the techniques."""
    backbone, channels = find(model), model.model.latent_format.latent_channels
    picture, audio, masks = random(1, channels, 1, *SIZE, seed=6), None, None
    if backbone.audio_shape is not None:
        layers, width = backbone.audio_shape
        several = 2 if backbone.name == "InfiniteTalk" else 3     # LongCat's background has one, too
        streams = tuple(tuple(random(1, 200, width, seed=20 + layer + stream) for layer in range(layers))
                       for stream in range(several if name == "two speakers" else 1))
        clock = Timeline(Fraction(backbone.fps))
        audio = backbone.audio_for(Speech(streams, 32.0 if backbone.fps == 16 else 25.0), clock, FIRST, LATENTS)
        masks = halves() if name == "two speakers" else None
    context = random(1, channels, backbone.context_latents(2), *SIZE, seed=7)
    inputs = backbone.chunk_inputs(ChunkRequest(
        LATENTS, (channels, *SIZE), context, picture, audio, random(1, channels, LATENTS, *SIZE, seed=8), masks,
        driving={"pose": Poses()} if backbone.name == "Wan-Animate" else {},
        encode=lambda frames: random(1, channels, (len(frames) - 1) // 4 + 1, *SIZE, seed=10)))
    story = (LookaheadAnchor(), NarrativeKeyframes().plus(Fraction(9), random(1, channels, 1, *SIZE, seed=9)))
    keep = torch.ones(2, SIZE[0] // 2, SIZE[1] // 2, dtype=torch.bool)
    keep[1, :2] = False
    video = (VideoReference(random(1, channels, 2, *SIZE, seed=11), Tokens(keep)), LookaheadAnchor())
    techniques = {**TECHNIQUES, **LONGCAT, "keyframes": story, VIDEO: video}.get(name, TECHNIQUES["anchor"])
    return techniques, ChunkPosition(Fraction(1), picture, inputs.context, 1, FIRST), inputs


class Poses:
    """Of a driving video, as a chunk reads them."""

    def read(self, fit) -> Tensor:
        return torch.stack([fit(torch.zeros(8, 8, 3))] * (LATENTS * 4 - 3))


def halves() -> Tensor:
    """Two speakers, left and right, and the background: (1, 3, H, W) in pixels."""
    masks = torch.zeros(1, 3, SIZE[0] * 8, SIZE[1] * 8)
    masks[:, 0, :, :SIZE[1] * 4], masks[:, 1, :, SIZE[1] * 4:] = 1, 1
    return masks


def guider_of(model, name: str):
    """The guider that Long Take makes for the chunk, and the chunk."""
    import comfy.samplers
    techniques, position, inputs = chunk_of(model, name)
    if name == "context windows":   # of three latents
        from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
        model = WanContextWindowsManualNode.execute(model, 9, 4, "standard_static", 1, False, "flat", False).args[0]
    guider = comfy.samplers.CFGGuider(model)
    width, values = find(model).text_width(model.model), find(model).prompt_values(model.model)
    guider.set_conds(*([[random(1, 512, width, seed=seed), {"pooled_output": None, **values}]] for seed in (3, 4)))
    guider.set_cfg(2.0)
    return attach.guider_at(guider, techniques, position, inputs.conditions, inputs.uncond), inputs


def sample_case(case: str) -> tuple[Tensor, list[Step]]:
    """One chunk through ComfyUI's own sampler, both branches in one batch, and its steps."""
    import comfy.samplers
    from comfy.patcher_extension import WrappersMP
    guider, inputs = guider_of(load_case(CASES[case][0]), CASES[case][1])
    steps: list[Step] = []
    with watching() as new:
        def watch_step(executor, *args, **kwargs):
            watch = new()
            with watch:
                result = executor(*args, **kwargs)
            steps.append(watch.close(result))
            return result

        guider.model_patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "a_steps", watch_step)
        guider.model_options = guider.model_patcher.model_options
        with torch.inference_mode():
            result = guider.sample(random(*inputs.samples.shape, seed=1), inputs.samples,
                                   comfy.samplers.sampler_object("euler"), torch.linspace(1, 0, STEPS + 1),
                                   denoise_mask=inputs.noise_mask, disable_pbar=True, seed=1)
    return result, steps


def on_a_device(case: str) -> list[Step]:
    """The steps of one branch of that chunk, with everything that a sampler brings on the model's device."""
    from comfy.ldm.modules.attention import attention_pytorch  # it asks no device how much memory is free
    guider, inputs = guider_of(on_meta(CASES[case][0]), CASES[case][1])
    base, steps = guider.model_patcher.model, []
    entry = guider.original_conds["positive"][0]
    noise = torch.empty(inputs.samples.shape, device=in_process.META)
    given = {**entry, "noise": noise, "device": in_process.META, "denoise_mask": inputs.noise_mask}
    conditions = {name: value.process_cond(batch_size=1, area=None).cond
                  for name, value in base.extra_conds(**given).items()}
    conditions |= {name: value for name, value in entry.items() if name.startswith(OWN)}
    conditions = {name: value.to(in_process.META) if isinstance(value, Tensor) else value
                  for name, value in conditions.items()}

    class Sampling:
        """Stands for the sampler below an OUTER_SAMPLE wrapper."""
        class_obj = guider

        def __call__(self, noise: Tensor) -> None:
            options = {**guider.model_options["transformer_options"], "wrappers": guider.model_patcher.wrappers,
                       "cond_or_uncond": [0], "uuids": ["steps"],
                       "optimized_attention_override": lambda _, *values, **named: attention_pytorch(*values, **named)}
            for _ in range(STEPS):
                watch = new()
                with watch, torch.inference_mode():
                    result = base.apply_model(noise, torch.full((1,), 0.7, device=noise.device), **conditions,
                                              transformer_options=dict(options))
                steps.append(watch.close(result))

    guider.conds = {}
    with watching() as new, patch("comfy.ldm.wan.model.optimized_attention", attention_pytorch):
        attach.with_run(Sampling(), noise)
    return steps


def totals(case: str) -> tuple[int, int, bool]:
    """(tensors that outlive a step, host syncs) of all steps, and whether all steps make the same tensors."""
    steps = sample_case(case)[1]
    return sum(len(step.rogues) for step in steps), sum(len(step.syncs) for step in steps), alike(steps)


def alike(steps: list[Step]) -> bool:
    """Whether every step of the sampler makes the same tensors, in the same order, as the first; in context windows a
    step is a call for each."""
    windows = len(steps) // STEPS
    return all(step.made == steps[index % windows].made for index, step in enumerate(steps))


def rows() -> Iterator[Row]:
    for model in dict.fromkeys(model for model, _ in CASES.values()):
        found = [totals(case) for case, (of, _) in CASES.items() if of == model]
        rogues, syncs = (sum(column) for column in list(zip(*found, strict=True))[:2])
        what = f"{model}: {{}} in {STEPS} steps of {len(found)} chunks, each with other techniques"
        yield Row(what.format("tensors that outlive their step"), str(rogues), "0", rogues == 0)
        yield Row(what.format("host syncs"), str(syncs), "0", syncs == 0)
        same = sum(like for _, _, like in found)
        yield Row(f"{model}: chunks whose steps all make the same tensors", f"{same} of {len(found)}", "all",
                  same == len(found))


if __name__ == "__main__":
    show(rows)
