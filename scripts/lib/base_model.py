"""The base of a training for commands: its file as a MODEL, beside it a VAE and an audio encoder."""
import argparse
from pathlib import Path

CORE, LOADERS, LOG_MEL = "core", ("core", "longcat"), "log-mel"


def add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", type=Path, required=True, help="the diffusion model's file")
    parser.add_argument("--loader", choices=LOADERS, default=CORE, help="longcat: LongCat, its avatars, the puppet")
    parser.add_argument("--comfyui", type=Path, default=None, help="$COMFYUI_PATH, or the newest that is found")
    parser.add_argument("--cpu", action="store_true")


def load_base(options: argparse.Namespace):
    """The MODEL of the base's file."""
    if not options.base.is_file():
        raise ValueError(f"--base: {options.base} is no file")
    if options.loader == CORE:
        import comfy.sd
        return comfy.sd.load_diffusion_model(str(options.base))
    from lodestar.backbones.longcat.loader import load_longcat
    return load_longcat(str(options.base))


def load_vae(path: Path):
    import comfy.sd
    import comfy.utils
    if not path.is_file():
        raise ValueError(f"--vae: {path} is no file")
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))


def load_encoder(name: str):
    from lodestar.backbones.audio.encoder import load_audio_encoder, log_mel
    if not name:
        return None
    return log_mel() if name == LOG_MEL else load_audio_encoder(Path(name))
