"""A model as a teacher: what a guider and a sampler make of a clip's places, as a chunk of a take is made.

Backfill keeps the states of its path from noise, Preference Pairs two takes of one place and which is the better.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..backbones import attach, find
from ..backbones.backbone import Backbone
from ..backbones.socket_values import check_whole_schedule, name_input
from ..pipelines.metrics.faces import OpenCvFaces
from ..pipelines.training.clip_store import ClipStore
from ..pipelines.training.pair_maker import Pair, PairLeftOut, PairMaker, Request
from ..pipelines.training.recipe import Example
from ..pipelines.training.video_clips import Box, face_mask
from ..techniques.distillation import mix_states
from .chunk_sampler import Sampling
from .measured_video import face_folders
from .recipe_network import inputs_of, position_of
from .take_fingerprints import take_fingerprints
from .training_clips import ClipProgress, check_clips

PAIRS, PREFERENCES = "pairs", "preferences"     # how the shelves' names begin
FACES, NEARNESS = JUDGES = ("face identity", "nearness to the clip")
Judge = Callable[[Sequence[Tensor], Example], tuple[list[float], Tensor]]


@dataclass(frozen=True, eq=False)
class Teacher:
    """`sampling`: its guider, sampler and sigmas; each pair has a noise of its own."""
    sampling: Sampling

    @classmethod
    def of(cls, guider: Any, sampler: Any, sigmas: Tensor, seed: int) -> "Teacher":
        from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
        return cls(Sampling(Noise_RandomNoise(seed), guider, sampler, sigmas))

    @property
    def backbone(self) -> Backbone:
        return find(self.sampling.guider.model_patcher)

    @property
    def levels(self) -> Tensor:
        return self.sampling.sigmas.float().cpu()

    def check(self, clips: ClipStore) -> None:
        """Raises ValueError for clips of another model, a schedule that is no flow from noise to nothing, and a guider
        with another model's prompts."""
        model, own = self.sampling.guider.model_patcher, self.backbone
        check_clips(clips, model)
        if own.audio_shape is not None:
            clips.check_speech(own.name, own.layers_taken, own.audio_shape[1])
        self.sampling.check()

    def take(self, example: Example, seed: int) -> tuple[Tensor, Tensor]:
        """The latents of an example's place, (1, C, n, h, w) in LATENT space; the states of their path (levels, C, n,
        h, w) in model space, the last one clean."""
        guider, own = self.sampling.guider, self.backbone
        model = guider.model_patcher
        inputs, first = inputs_of(own, model.model, example)
        prompt = [[example.clip["text"][None].float(), {}]] if "text" in example.clip else None
        conditions = inputs.with_text(attach.text_of(guider, prompt)) if inputs.text_for else inputs.conditions
        chunk_guider = attach.guider_at(guider, attach.techniques_of(model), position_of(own, example, inputs),
                                        conditions, inputs.uncond, prompt)
        states: list[Tensor] = []

        def keep_state(step: int, clean: Tensor, x: Tensor, steps: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            states.append(x[0, :, first:first + example.latents.shape[2]].float().cpu())

        noise = torch.randn(inputs.samples.shape, generator=torch.Generator().manual_seed(seed))
        made = chunk_guider.sample(noise, inputs.samples, self.sampling.sampler, self.sampling.sigmas,
                                   denoise_mask=inputs.noise_mask, callback=keep_state, disable_pbar=True, seed=seed)
        latents = made[:, :, first:first + example.latents.shape[2]].float().cpu()
        states.append(model.model.process_latent_in(latents)[0])
        return latents, torch.stack(states)

    def made_with(self, given: dict[str, Any]) -> dict[str, str]:
        """Digests of everything that determines a pair, by name."""
        sampling = self.sampling
        found, _ = take_fingerprints(sampling.guider, {"sampler": sampling.sampler, "sigmas": sampling.sigmas,
                                                       **given}, [{}])
        return found[0]


def backfill(clips: ClipStore, teacher: Teacher, levels: Tensor | None, pairs: int, seed: int, node_id: str | None
             ) -> tuple[ClipStore, str]:
    """Paths of a teacher, for student regression. `levels`: those at which states are kept, all of the sampler's by
    default. The shelf, and what was done."""
    with name_input("sigmas"):
        if abs(float(teacher.levels[0]) - 1) > 1e-3:
            raise ValueError(f"got levels from {float(teacher.levels[0]):g} on, wanted a path from noise, 1, to "
                             "nothing, 0, of a flow model")
    teacher.check(clips)
    if levels is not None:
        with name_input("levels"):
            check_whole_schedule(levels, 1.0)
    kept = teacher.levels if levels is None else levels.float().cpu()

    def make_path(pair: Pair, example: Example) -> tuple[dict[str, Tensor], dict[str, Any]]:
        _, states = teacher.take(example, pair.seed)
        if len(states) != len(teacher.levels):
            raise ValueError(f"sampler: it showed {len(states) - 1} states for {len(teacher.levels) - 1} steps. Use "
                             "euler, whose steps are a path")
        opens = int(not pair.first)     # a stream's blocks begin behind the take's first latent
        path = states[:, :, opens:]
        if levels is not None:
            count = path.shape[2]
            path = torch.cat([mix_states(path, teacher.levels, [float(level)] * count) for level in kept])
        arrays = {"trajectory": path.half(), "trajectory_sigmas": kept, "first": torch.tensor(pair.first + opens)}
        if example.context is not None:
            arrays["given"] = example.context[0].half()
        return arrays, {}

    request = Request(PAIRS, pairs, seed, len(kept) * chunk_bytes(clips))
    return fill_shelf(clips, request, teacher, {"levels": kept}, make_path, node_id)


def prefer(clips: ClipStore, teacher: Teacher, vae: Any, judge: str, margin: float, pairs: int, seed: int,
           node_id: str | None) -> tuple[ClipStore, str]:
    """Two takes of each place, the better one first, for preference training. The shelf, and what was done."""
    teacher.check(clips)
    asked = face_judge(clips, vae) if judge == FACES else nearness

    def make_pair(pair: Pair, example: Example) -> tuple[dict[str, Tensor], dict[str, Any]]:
        takes = [teacher.take(example, pair.seed + number)[0] for number in (0, 1)]
        scores, mask = asked(takes, example)
        better = int(scores[1] > scores[0])
        apart = abs(scores[1] - scores[0])
        if apart < margin:
            raise PairLeftOut(f"the takes are {apart:.3f} apart, less than the margin of {margin:g}")
        arrays = {"winner": takes[better][0].half(), "loser": takes[1 - better][0].half(), "mask": mask.half(),
                  "first": torch.tensor(pair.first)}
        if example.context is not None:
            arrays["given"] = example.context[0].half()
        return arrays, {"scores": sorted(scores, reverse=True)}

    request = Request(PREFERENCES, pairs, seed, 2 * chunk_bytes(clips))
    return fill_shelf(clips, request, teacher, {"judge": judge, "margin": margin}, make_pair, node_id)


def fill_shelf(clips: ClipStore, request: Request, teacher: Teacher, given: dict[str, Any], make: Callable,
               node_id: str | None) -> tuple[ClipStore, str]:
    made_with = teacher.made_with({**given, "format": clips.format})
    shelf, report = PairMaker(clips, request, made_with, make, ClipProgress(node_id, "pair")).make()
    return shelf, f"{report}, in {shelf.folder / shelf.shelf}"


def chunk_bytes(clips: ClipStore) -> int:
    own = clips.format
    cells = own.channels * (own.height // own.spatial_ratio) * (own.width // own.spatial_ratio)
    return 2 * cells * own.chunk_latents


def nearness(takes: Sequence[Tensor], example: Example) -> tuple[list[float], Tensor]:
    """How near each take is to the clip itself, which has the same speech: 1 less the squared difference as a share of
    the clip's variance, in the face where the clip has a mask. The mask (1, n, h, w)."""
    count = example.latents.shape[2]
    mask = torch.zeros_like(example.latents[0, :1])
    if "mask" in example.clip:
        mask = example.clip["mask"][:, example.first_latent:example.first_latent + count].float()
    weight = mask if mask.any() else torch.ones_like(mask)
    spread = (weight * (example.latents[0] - example.latents[0].mean(dim=(1, 2, 3), keepdim=True)).square()).sum()
    apart = [(weight * (take[0] - example.latents[0]).square()).sum() for take in takes]
    return [float(1 - each / spread.clamp(min=1e-12)) for each in apart], mask


def face_judge(clips: ClipStore, vae: Any) -> Judge:
    """By how much of a take's face is that of the clip's own picture. Raises FacesMissing."""
    own = clips.format
    grid = own.height // own.spatial_ratio, own.width // own.spatial_ratio

    def decode(latents: Tensor) -> Tensor:
        return vae.decode(latents).reshape(-1, own.height, own.width, 3).float().cpu()

    def judge(takes: Sequence[Tensor], example: Example) -> tuple[list[float], Tensor]:
        assert example.reference is not None
        person = OpenCvFaces(face_folders(), float(own.rate)).of_picture(decode(example.reference)[0])
        if person is None:
            raise PairLeftOut("the clip's picture shows no face")
        scores, mask = [], torch.zeros(1, example.latents.shape[2], *grid)
        for latents in takes:
            frames = decode(latents if example.context is None else torch.cat([example.context, latents], 2))
            frames = frames[-((latents.shape[2] - 1) * own.temporal_ratio + 1):]
            found = OpenCvFaces(face_folders(), float(own.rate))(frames)
            assert found.embeddings is not None and found.boxes is not None
            seen = found.embeddings.isfinite().all(1)
            boxed = found.boxes.isfinite().all(1)
            if not seen.any() or boxed.float().mean() < 0.5:
                raise PairLeftOut("a take shows no face")
            alike = torch.nn.functional.cosine_similarity(found.embeddings[seen], person[None].to(found.embeddings))
            scores.append(float(alike.mean()))
            nearest = (torch.arange(len(boxed))[:, None] - boxed.nonzero().T).abs().argmin(1)
            boxes = found.boxes[boxed][nearest]
            whole = Box(0, 0, own.width, own.height)
            mask = torch.maximum(mask, face_mask(boxes, len(frames), whole, grid, own.temporal_ratio).float())
        return scores, mask

    OpenCvFaces(face_folders(), float(own.rate))     # missing files are said before the first take
    return judge
