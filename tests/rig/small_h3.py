"""Makes MiniMax H3's VAEs small wherever ComfyUI makes one; placed in custom_nodes it does so in a server.

ComfyUI's loader makes them without a size: the picture's of 2.6 billion weights, 36 layers of width 2048, and a file of
other shapes does not fit. So the sizes that the two classes have by default are changed; loader, keys and code stay.
"""
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

NODE_CLASS_MAPPINGS: dict[str, Any] = {}
WEB_DIRECTORY = None


def shrink() -> tuple:
    """What the modules held before; raises ImportError in a ComfyUI without the model."""
    import comfy.ldm.minimax.audio_vae as sound
    import comfy.ldm.minimax.vae as picture
    held = picture, sound, picture.MiniMaxH3VideoVAE, picture.ViT3DDecoder, sound.MiniMaxH3AudioVAE
    picture.ViT3DDecoder = partial(picture.ViT3DDecoder, num_layers=2, heads=2, dim_head=32)
    picture.MiniMaxH3VideoVAE = partial(picture.MiniMaxH3VideoVAE, ch=32, ch_mult=(1,) * 6, num_res_blocks=1)
    sound.MiniMaxH3AudioVAE = partial(sound.MiniMaxH3AudioVAE, encoder_dim=4, latent_dim=64, decoder_dim=128)
    return held


@contextmanager
def small():
    """For the block only."""
    picture, sound, *own = shrink()
    try:
        yield
    finally:
        picture.MiniMaxH3VideoVAE, picture.ViT3DDecoder, sound.MiniMaxH3AudioVAE = own


if __name__ != "small_h3":      # as the tests import it
    with suppress(ImportError):
        shrink()
