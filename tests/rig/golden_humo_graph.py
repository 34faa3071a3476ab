"""HuMo's golden runs through ComfyUI as a graph makes them: its loader, the pack's guider, sampler and conditions."""
import json
import tempfile
from pathlib import Path

import golden
import torch
from safetensors.torch import save_file
from torch import Tensor


def load(fixtures, variant: str, weights: dict[str, Tensor]):
    """A MODEL of the recorded weights, by ComfyUI's own loader."""
    import comfy.sd
    sizes = fixtures.config["model"]["common"]
    config = {"config": json.dumps({"transformer": {key: sizes[key] for key in ("num_heads", "text_dim")}})}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{variant}.safetensors"
        save_file({name: weight.contiguous() for name, weight in weights.items()}, path, metadata=config)
        try:
            return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
        except ZeroDivisionError as error:
            raise golden.LeftOut("this ComfyUI takes the heads from the width alone, too narrow here") from error


def sample(run, model) -> dict[str, tuple[Tensor, Tensor]]:
    """The latents of a whole run. Upstream begins with the noise itself, ComfyUI with that of the first sigma."""
    from unittest.mock import patch

    from lodestar.backbones.humo import guider as humo_guider
    from lodestar.backbones.humo.sampler import make_sampler
    from lodestar.techniques.flow_schedules import humo_schedule
    stored, scales, latents = run.fixtures.load("sample"), run.info["scales"], model.model.latent_format
    guider = make_guider(run, model)
    noise, sigmas = stored[f"{run.name}.noise"][None], humo_schedule(len(run.info["timesteps"]), run.info["shift"])
    with torch.inference_mode(), patch.object(humo_guider, "SWITCH_TIMESTEP", scales.get("step_change")):
        made = guider.sample(noise / sigmas[0], torch.zeros_like(noise), make_sampler(True), sigmas, seed=1,
                             disable_pbar=True)
    return {"latents": (latents.process_in(made)[0, :, :run.info["latents"]], stored[f"{run.name}.latents"])}


def make_guider(run, model):
    from lodestar.backbones.humo.backbone import REFERENCE, SPEECH
    from lodestar.backbones.speech_guider import guide_speech
    inputs, scales, references = run.fixtures.load("inputs"), run.info["scales"], run.references()
    picture = torch.zeros(1, 16, run.slots, *run.info["noise_shape"][2:])
    if references is not None:
        picture = model.model.latent_format.process_out(references)
    reference = torch.cat([torch.full_like(picture[:, :1], float(references is not None)), picture], 1)
    audio = run.speech()
    audio = audio.repeat(*[1] * 4, 1280 // audio.shape[-1]) * float("no_audio" not in run.name)
    return guide_speech(model, [[inputs["context_pos"], {SPEECH: audio, REFERENCE: reference}]],
                        [[inputs["context_neg"], {}]], scales["scale_t"], scales["scale_a"], False,
                        scales.get("scale_i", 1.0))
