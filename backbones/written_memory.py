"""What a stream remembers on a model whose `memory` is "written", as causal students are trained (AvatarForcing): keys
before RoPE and values of its picture, and of its last finished latents as a forward of them at level 0 left them.

What a finished latent's keys are depends on what it saw, so they are never computed again: they are the stream's state.
Text and speech reach them too, so each condition of a guider has its own.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..techniques.kv_cache import Pair
from ..techniques.temporal_anchor import TemporalAnchor
from .kv_slots import KVSlots

MEMORY = "lodestar_memory"      # in transformer_options: a MemoryCall
PICTURE, RECENTS = "picture", "recents"


@dataclass(eq=False)
class WrittenMemory:
    """`anchor`: how many latents stay, and where. `conditions`: names of a guider's conditions by their uuid, the same
    in every run; `kept`: slots by what they are of and the condition's name. `shown`: for which conditions, and
    of which latent, the picture's are."""
    anchor: TemporalAnchor
    conditions: dict[Any, str] = field(default_factory=dict)
    kept: dict[tuple[str, str], KVSlots] = field(default_factory=dict)
    shown: tuple[tuple, Tensor] | None = None

    def begin(self, conditions: Mapping[str, Sequence[dict]], device: torch.device) -> None:
        """A run of a guider that has these conditions begins."""
        self.conditions = {entry["uuid"]: f"{name} {index}" for name, entries in conditions.items()
                           for index, entry in enumerate(entries)}
        for slots in self.kept.values():
            slots.bring(device)

    def branches(self, transformer_options: Mapping) -> tuple[str, ...]:
        """The conditions that a call has one behind the other in its batch."""
        return tuple(self.conditions[uuid] for uuid in transformer_options["uuids"])

    def read(self, what: str, branches: Iterable[str], block: int, held: int, dtype: torch.dtype) -> Pair:
        pairs = [self.kept[what, branch].read(block, held, dtype) for branch in branches]
        key, value = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*pairs, strict=True))
        return key, value

    def write(self, what: str, branches: Sequence[str], block: int, key: Tensor, value: Tensor, slots: Sequence[int]
              ) -> None:
        for branch, its_key, its_value in zip(branches, key.chunk(len(branches)), value.chunk(len(branches)),
                                              strict=True):
            if (what, branch) not in self.kept:
                count = 1 if what == PICTURE else self.anchor.latents
                self.kept[what, branch] = KVSlots(count, self.anchor.offload, self.anchor.precision)
            self.kept[what, branch].write(block, its_key, its_value, slots)

    def slots_of(self, latents: range) -> tuple[int, ...]:
        """Where the newest of some finished latents, counted from 0, are kept."""
        return tuple(latent % self.anchor.latents for latent in latents[-self.anchor.latents:])

    def times(self, latents: range) -> tuple[float, ...]:
        """When the latents held, the oldest of which stands at 0, stand in the order of their slots."""
        return tuple(time for _, time in sorted((latent % self.anchor.latents, float(latent - latents.start))
                                                for latent in latents))

    @property
    def bytes(self) -> int:
        return sum(slots.bytes for slots in self.kept.values())

    def state(self) -> dict[str, Tensor]:
        """What cannot be made again: all but the picture's."""
        return {f"memory/{branch}/{name}": tensor for (what, branch), slots in self.kept.items() if what == RECENTS
                for name, tensor in slots.state().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from another run's `state`."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("memory/"):
                _, branch, part = name.split("/")
                parts.setdefault(branch, {})[part] = tensor
        for branch, tensors in parts.items():
            slots = KVSlots(self.anchor.latents, self.anchor.offload, self.anchor.precision)
            slots.restore(tensors)
            self.kept[RECENTS, branch] = slots

    def close(self) -> None:
        for slots in self.kept.values():
            slots.close()
        self.kept.clear()


@dataclass(frozen=True, eq=False)
class MemoryCall:
    """What one call of the model has of a memory. `first_time`: when its own first latent stands. `seen`: what it sees,
    and when each slot of that stands. `writes`: what its own newest latents are kept as, in `slots`; "" for nothing.
    `window_audio`: whether a call that writes the picture has the window's audio features, instead of zeros.
    """
    memory: WrittenMemory
    first_time: int = 0
    seen: tuple[tuple[str, tuple[float, ...]], ...] = ()
    writes: str = ""
    slots: tuple[int, ...] = ()
    window_audio: bool = False

    @property
    def times(self) -> tuple[float, ...]:
        """When everything that it sees stands."""
        return tuple(time for _, times in self.seen for time in times)

    def read(self, branches: Sequence[str], block: int, dtype: torch.dtype) -> Pair | None:
        """Keys before RoPE and values (B, tokens, heads, D) of what it sees, in the order of `times`."""
        pairs = [self.memory.read(what, branches, block, len(times), dtype) for what, times in self.seen]
        if len(pairs) < 2:
            return pairs[0] if pairs else None
        key, value = (torch.cat(parts, 1) for parts in zip(*pairs, strict=True))
        return key, value

    def write(self, branches: Sequence[str], block: int, key: Tensor, value: Tensor) -> None:
        """Of one block the keys before RoPE and values (B, tokens, heads, D) of its own latents."""
        self.memory.write(self.writes, branches, block, key, value, self.slots)
