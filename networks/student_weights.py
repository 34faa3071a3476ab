"""Files of causal students as their trainers save them: Self-Forcing, Causal-Forcing, AvatarForcing, LiveAvatar.

A trainer's checkpoint holds sets of weights (generator, generator_ema, a critic), names with the wrappers that stood
around the network (model., FSDP's, torch.compile's), and LoRA pairs as PEFT injects them. What the network itself has
is found here, under the names of Wan 2.1; what stood beside it is left out and noted.
"""
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

SETS = {"ema": ("generator_ema", "ema"), "plain": ("generator", "generator_lora", "state_dict", "model")}
AROUND = re.compile(r"\b(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.|\bbase_layer\.")
BEFORE = re.compile(r"(?:(?:module|model|base_model|diffusion_model|dit)\.)+")
HALF = re.compile(r"(.+)\.lora_(A|B|down|up)(?:\.default)?\.weight")
SIDES = {"A": "down", "B": "up"}
WAN = ("blocks.", "patch_embedding.", "text_embedding.", "time_embedding.", "time_projection.", "head.")
AUDIO = ("audio_proj.", "audio_cond_projs.")
PATCH, PACK, FIRST = "patch_embedding.weight", "audio_proj.proj.weight", "blocks.0.self_attn.q.weight"
FLAT = "_flat_param"


class Pair(NamedTuple):
    """down (rank, in), up (out, rank); the change of the layer is alpha / rank * up @ down. `alpha`: None where the
    file does not say."""
    down: Tensor
    up: Tensor
    alpha: float | None


@dataclass(frozen=True, eq=False)
class Student:
    """`whole`: weights by the network's own names. `pairs`: by the layer's path. `notes`: what was left out, for the
    log. `metadata`: of a safetensors file."""
    whole: Mapping[str, Tensor]
    pairs: Mapping[str, Pair]
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_audio(self) -> bool:
        """Whether it has OmniAvatar's audio layers."""
        return PACK in self.whole

    @property
    def needs_base(self) -> bool:
        """Whether it changes a network that is in another file."""
        return FIRST not in self.whole

    def ordinary_pairs(self, scale: float, prefix: str = "diffusion_model.") -> dict[str, Tensor]:
        """{prefix + path + .lora_down.weight | .lora_up.weight | .alpha}, as every LoRA loader reads them. `scale`:
        alpha / rank of pairs without an alpha."""
        found = {}
        for path, (down, up, alpha) in self.pairs.items():
            found[f"{prefix}{path}.lora_down.weight"], found[f"{prefix}{path}.lora_up.weight"] = down, up
            found[f"{prefix}{path}.alpha"] = torch.tensor(scale * len(down) if alpha is None else alpha)
        return found

    def check_pairs(self, weights: Mapping[str, Tensor]) -> None:
        """Raises ValueError, begun with the inputs' names, where a pair changes no layer of `weights`, or one of
        another size."""
        for path, (down, up, _) in self.pairs.items():
            layer = weights.get(f"{path}.weight")
            wanted = (len(up), down.shape[1])
            if layer is None or len(down) != up.shape[1] or (layer.dtype != torch.uint8 and layer.shape != wanted):
                has = "none such" if layer is None else tuple(layer.shape)
                raise ValueError(f"student_name, base_name: the LoRA changes {path} from {wanted[1]} to {wanted[0]} "
                                 f"numbers, the network has {has}: they do not belong together")


def read_student(loaded: Mapping[str, Any], wanted: str) -> Student:
    """What a file holds -> Student. `wanted`: a key of SETS; where the file has the other set alone, it is that.

    Raises ValueError, without the file's name, for what is no student.
    """
    weights, notes = choose_set(loaded, wanted)
    whole: dict[str, Tensor] = {}
    halves: dict[str, dict[str, Tensor]] = {}
    beside: dict[str, int] = {}
    for given, weight in weights.items():
        name = network_name(given)
        if name.startswith("_") or not isinstance(weight, Tensor):
            beside[name.split(".")[0]] = beside.get(name.split(".")[0], 0) + 1
        elif match := HALF.fullmatch(name):
            put(halves.setdefault(match[1], {}), SIDES.get(match[2], match[2]), weight, name)
        elif name.endswith(".alpha"):
            put(halves.setdefault(name.removesuffix(".alpha"), {}), "alpha", weight, name)
        elif name.startswith((*WAN, *AUDIO)):
            put(whole, name, weight, name)
        else:
            raise ValueError(f"it holds {given}, wanted Wan 2.1's layers ({', '.join(WAN)}), OmniAvatar's audio layers "
                             "or LoRA pairs; it is another model's")
    if not whole and not halves:
        raise ValueError(f"it holds {', '.join(list(beside)[:4]) or 'nothing'}, wanted the weights of a network")
    left = [f"{name} ({count} entries)" for name, count in beside.items()]
    return Student(whole, {path: pair_of(path, half) for path, half in halves.items()}, (*notes, *left))


def choose_set(loaded: Mapping[str, Any], wanted: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """(the weights that are wanted, what is left out beside them)."""
    sets = split_sets(loaded)
    if not sets:
        return loaded, ()
    found = [name for kind in (wanted, *SETS) for name in SETS[kind] if sets.get(name)]
    if not found:
        raise ValueError(f"it holds {', '.join(list(sets)[:6])}, wanted generator_ema or generator; it is a part of a "
                         "student's training, or another model's")
    chosen, *_ = found
    return sets[chosen], tuple(name + (f" ({len(entries)} entries)" if entries else "")
                               for name, entries in sets.items() if name != chosen)


def split_sets(loaded: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The sets of weights in a file: the mappings in it, or what stands before the first point of names. Empty where
    it is one set."""
    if any(isinstance(value, Mapping) for value in loaded.values()):
        return {name: value if isinstance(value, Mapping) else {} for name, value in loaded.items()}
    known = {name for names in SETS.values() for name in names if name != "model"}
    sets: dict[str, dict[str, Any]] = {}
    for name, value in loaded.items():
        head, _, rest = name.partition(".")
        sets.setdefault(head, {})[rest] = value
    return dict(sets) if known & set(sets) else {}


def network_name(name: str) -> str:
    """Without what stood around the network."""
    if name.endswith(FLAT):
        raise ValueError(f"it holds {name}, one piece of FSDP's for many layers, which its own trainer alone takes "
                         "apart. Use the consolidated file")
    bare = AROUND.sub("", name)
    before = BEFORE.match(bare)
    return bare[before.end():] if before else bare


def put(into: dict[str, Tensor], key: str, weight: Tensor, name: str) -> None:
    if key in into:
        raise ValueError(f"it holds {name} twice, under two wrappers; it is two networks in one")
    into[key] = weight


def pair_of(path: str, half: Mapping[str, Tensor]) -> Pair:
    if not {"down", "up"} <= set(half):
        raise ValueError(f"{path} has one half of a LoRA pair; the file is damaged, download it again")
    alpha = half.get("alpha")
    return Pair(half["down"], half["up"], None if alpha is None else float(alpha))
