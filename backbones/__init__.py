"""Floor 2: how one model family is spoken to. `find` gives a model its backbone, or refuses it by name."""
from .backbone import Backbone


def find(model) -> Backbone:
    """The backbone that speaks to ComfyUI MODEL `model`. Raises ValueError naming the model and what is supported."""
    from .wan import Wan
    from .wan_s2v import WanS2V
    families = (Wan, WanS2V)
    for family in families:
        found = family.of(model.model)
        if found is not None:
            return found
    supported = "; ".join(family.supported for family in families)
    raise ValueError(f"model: got {type(model.model).__name__} ({type(model.model.diffusion_model).__name__}), which "
                     f"Lodestar does not support. Supported: {supported}")
