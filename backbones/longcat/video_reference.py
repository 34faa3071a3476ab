"""What stands beside a call as KV cache of LongCat: closed spans, exactly as the model's conditioning frames are."""
from torch import Tensor

from ...networks.longcat.call import Cached
from ...networks.longcat.video import keep_video
from ...techniques.kv_cache import KVCache
from ...techniques.rope import scaled_axes, split_head
from ..reference_pass import Beside, Keep, frequencies_of, kept_once, options_alone, tokens_of
from ..sampling_run import say


def video_keys(network, x: Tensor, latents: Tensor, one: Beside, options: dict, name: str) -> Cached:
    """What every frame of a call on `x` sees of a span beside it, whose `latents` are in model space."""
    (rows, columns), span = network.config.patch[1:], one.span
    tokens = tokens_of(one, (x.shape[3] // rows, x.shape[4] // columns))
    if span.audio is not None:
        say(f"video reference: {name} was trained with conditioning frames that have no audio; what is said in the "
            "video may help or harm", options)

    def make(keep: Keep) -> None:
        keep_video(network, latents[:1], tokens, keep, span.audio, options_alone(options))

    cache: KVCache = kept_once(options, (id(network), x.dtype), one, x.device, make, tokens)
    axes = scaled_axes(options.get("rope_options"))
    frequencies: Tensor = frequencies_of(options, cache, span.times[0], split_head(network.config.head_dim), 10000.0,
                                         axes)
    return ((cache, frequencies),)
