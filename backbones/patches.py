"""Patches of other nodes that a model never asks for: said before the first step, or they would do nothing unseen."""
import inspect
import logging
import re
import sys
from collections.abc import Mapping

from torch import nn

REFUSED = {"attn1_output_patch": "Normalized Attention Guidance (NAGuidance)"}   # whole features, not a change of one
logger = logging.getLogger("lodestar")


def check_patches(module: nn.Module, transformer_options: Mapping, model: str) -> None:
    """Log each patch that no layer of `module` asks for. Raises ValueError for one that is a node's whole effect."""
    for name in never_called(module, transformer_options):
        if name in REFUSED:
            raise ValueError(f"model: {REFUSED[name]} does nothing on {model}, whose blocks never call {name}. "
                             "Remove that node")
        logger.warning("another node put a patch named %s on the model; %s never calls it: it does nothing", name,
                       model)


def never_called(module: nn.Module, transformer_options: Mapping) -> list[str]:
    """Names under "patches" and "patches_replace" that no file with a layer of `module` has beside these words."""
    asked: list[tuple[str, ...]]
    asked = [("patches", name) for name, found in transformer_options.get("patches", {}).items() if found]
    asked += [("patches_replace", kind, str(place[0])) for kind, found in
              transformer_options.get("patches_replace", {}).items() for place in found]
    texts = sources(module) if asked else []
    return [".".join(words[1:]) for words in dict.fromkeys(asked)
            if not any(all(quotes(word, text) for word in words) for text in texts)]


def sources(module: nn.Module) -> list[str]:
    """The source of each file with a layer of `module`, in the packages that define the whole of it; of a layer from
    elsewhere, beside which stand others that this network has not, its class alone."""
    kinds = {kind for layer in {type(layer) for layer in module.modules()} for kind in layer.__mro__}
    homes = {package(kind) for kind in type(getattr(module, "_orig_mod", module)).__mro__} - {"torch.nn.modules", ""}
    own = {kind for kind in kinds if package(kind) in homes}
    borrowed = [kind for kind in kinds - own if kind.__module__.startswith("comfy.ldm.")]
    return [inspect.getsource(sys.modules[name]) for name in sorted({kind.__module__ for kind in own})] + \
        [inspect.getsource(kind) for kind in borrowed]


def package(kind: type) -> str:
    return kind.__module__.rpartition(".")[0]


def quotes(word: str, text: str) -> bool:
    return re.search(rf"""["']{re.escape(word)}["']""", text) is not None
