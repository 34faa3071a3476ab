"""What it costs to know a take by its values: values read for a chain of LoRA loaders, and time per byte of weights."""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

from collections.abc import Iterator

import torch
from lodestar.backbones.comfy_values import ComfyValues
from lodestar.pipelines.take.fingerprint import Fingerprints
from lodestar.techniques.tensor_digest import digest_tensor
from rows import Row, show
from timing import compare_times

LOADERS = (1, 10, 100)
MEASURED_BYTES = 1 << 28


def with_loras(model, loaders: int):
    """The model behind a chain of core's LoRA loaders, each with a file of its own for one layer."""
    import comfy.sd
    name = "diffusion_model.blocks.0.self_attn.q"
    rows, columns = model.model.state_dict()[f"{name}.weight"].shape
    for _ in range(loaders):
        lora = {f"{name}.lora_up.weight": torch.randn(rows, 2), f"{name}.lora_down.weight": torch.randn(2, columns)}
        model = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]
    return model


def values_read(model) -> int:
    """How many values are read for the model's fingerprint."""
    values, count = ComfyValues(), 0

    def counting(value):
        nonlocal count
        count += 1
        return values(value)

    prints = Fingerprints(counting)
    prints.of(model, "model")
    assert not prints.unreadable
    return count


def per_loader() -> list[float]:
    """Values read for one more loader, from each number of LOADERS to the next."""
    model = in_process.tiny_model("wan21_t2v")
    counts = [values_read(with_loras(model, loaders)) for loaders in LOADERS]
    return [(more - fewer) / (last - first) for first, last, fewer, more in
            zip(LOADERS, LOADERS[1:], counts, counts[1:], strict=False)]


def reading_weights() -> str:
    """Digest of weights / adding their words up once, which reads them at the memory's speed."""
    weights = torch.randn(MEASURED_BYTES // 4)
    return compare_times(lambda: digest_tensor(weights), lambda: weights.view(torch.int64).sum())


def rows() -> Iterator[Row]:
    near, far = per_loader()
    yield Row("fingerprint of a model: values read per LoRA loader, of 1 to 10 and of 10 to 100 in a chain",
              f"{near:g}, {far:g}", "equal", near == far)
    torch.set_num_threads(1)
    yield Row("timed: fingerprint of weights / reading them once, on one thread", reading_weights())


if __name__ == "__main__":
    show(rows)
