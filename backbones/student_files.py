"""A student's files on disk, as Load Student names them: read as weights alone, what is left out of them said."""
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.lora
from torch import Tensor

from ..networks.student_weights import Student, read_student
from ..networks.weight_files import SAFETENSORS, read_weights
from . import attach
from .weight_loading import UNREADABLE, load_weights, strip_prefix, why_unreadable

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
S2V = "casual_audio_encoder."       # of Wan 2.2 S2V's network alone
logger = logging.getLogger("lodestar")


@dataclass(frozen=True)
class StudentFiles:
    """`file`: of the student, or one of its shards. `chosen`: "ema" or "plain", which of two sets in one file.
    `base`: the network that a LoRA alone belongs to."""
    file: Path
    chosen: str = "ema"
    base: Path | None = None

    def read(self) -> Student:
        """Raises ValueError that begins with `student_name` and says what came, what was wanted, what to do."""
        loaded: dict = {}
        metadata: dict[str, str] = {}
        for shard in self.shards():
            found, notes = self.load(shard)
            loaded, metadata = loaded | found, metadata | notes
        try:
            return replace(read_student(loaded, self.chosen), metadata=metadata)
        except ValueError as error:
            raise ValueError(f"student_name: {self.file.name} is no student that Lodestar knows: {error}. Known are "
                             "Self-Forcing, Causal-Forcing, AvatarForcing and LiveAvatar, in their authors' files") \
                from error

    def kind(self) -> str:
        """Of which network it is: "omniavatar", "s2v" or "wan". ValueError as of `read`."""
        student = self.read()
        if student.has_audio:
            return "omniavatar"
        if not student.needs_base:
            return "wan"
        return "s2v" if any(name.startswith(S2V) for name in self.read_base()[0]) else "wan"

    def shards(self) -> list[Path]:
        """The file, or all that it is one part of."""
        match = SHARD.fullmatch(self.file.name)
        if match is None:
            return [self.file]
        name, _, count, ending = match.groups()
        shards = [self.file.with_name(f"{name}-{index:05}-of-{count}{ending}") for index in range(1, int(count) + 1)]
        if missing := [shard.name for shard in shards if not shard.is_file()]:
            raise ValueError(f"student_name: {self.file.name} is one of {int(count)} shards, of which {len(missing)} "
                             f"are not beside it, {missing[0]} first. Download the whole folder")
        return shards

    @staticmethod
    def load(path: Path) -> tuple[dict, dict[str, str]]:
        """(everything in one file, its metadata). What torch.save wrote is mapped, so a set that is not wanted is not
        read."""
        if path.suffix.lower() in SAFETENSORS:
            return load_weights(path, "student_name")
        try:
            return read_weights(path)
        except UNREADABLE as error:
            raise ValueError(f"student_name: {why_unreadable(path, error)}") from error

    def read_base(self) -> tuple[dict[str, Tensor], dict]:
        """(weights, metadata) of the base. ValueError where none came."""
        if self.base is None:
            raise ValueError(f"base_name: none came, and {self.file.name} holds changes of a network alone. Choose Wan "
                             "2.2 S2V for LiveAvatar, Wan 2.1 text-to-video 1.3B for the other students")
        weights, metadata = load_weights(self.base, "base_name")
        return strip_prefix(weights), metadata

    def log(self, student: Student, kind: str, scale: float) -> None:
        """What the file is and which set of it, what is left out, at which scale its LoRA is."""
        scales = sorted({(pair.alpha or scale * len(pair.down)) / len(pair.down) for pair in student.pairs.values()})
        parts = [f"{self.file.name}: {kind}"]
        if scales:
            parts.append(f"LoRA of {len(student.pairs)} layers at {', '.join(f'{scale:g}' for scale in scales)}"
                         " of alpha by rank")
        parts += [f"left out: {', '.join(student.notes)}"] if student.notes else []
        if self.base is not None and not student.needs_base:
            parts.append(f"{self.base.name} is not used, the file is whole")
        logger.info("; ".join(parts))


def with_lora(model, student: Student, scale: float):
    """A clone with the student's LoRA as ComfyUI's own patches, which stream, offload and work on float 8 weights.
    `scale`: alpha by rank where the file does not say."""
    if not student.pairs:
        return model
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    return attach.with_weight_patches(model, comfy.lora.load_lora(student.ordinary_pairs(scale), keys), 1.0, {})
