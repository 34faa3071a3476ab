"""HuMo's own solver as a SAMPLER: UniPC as its authors sample, and the model given whole timesteps, as trained."""
import comfy.samplers
from torch import Tensor
from tqdm.auto import tqdm

from ...techniques import unipc
from ..attach import with_whole_timesteps


def make_sampler(whole_timesteps: bool) -> comfy.samplers.KSAMPLER:
    return comfy.samplers.KSAMPLER(sample_unipc, {"whole_timesteps": whole_timesteps})


def sample_unipc(model, x: Tensor, sigmas: Tensor, extra_args: dict | None = None, callback=None, disable=None,
                 whole_timesteps: bool = False) -> Tensor:
    """In the form of core's samplers. Nothing of it outlives the run, so a take's chunks and its resume need none."""
    given, ones, sigmas = dict(extra_args or {}), x.new_ones(x.shape[0]), sigmas.cpu()
    if whole_timesteps:
        given["model_options"] = with_whole_timesteps(given.get("model_options", {}))
    with tqdm(total=len(sigmas) - 1, disable=disable) as bar:
        def observe(step: int, state: Tensor, clean: Tensor) -> None:
            if callback is not None:
                callback({"x": state, "i": step, "sigma": sigmas[step], "sigma_hat": sigmas[step], "denoised": clean})
            bar.update()

        return unipc.sample(lambda state, sigma: model(state, sigma * ones, **given), x, sigmas, observe)
