"""Golden fixtures: folders with cases.json, inputs and outputs in safetensors, run through the pack's own classes.

A family of models has a module whose `runner_of(fixtures, host)` gives a function from a case's name to {role: tensor},
or None for a folder it does not know; this file finds the folders, resolves "@name" to tensors, compares and reports.
Unknown cases and roles are failures. check_golden.py runs it as `golden.py FOLDER [COMFYUI]`.
"""
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
from lib import environment  # noqa: E402
from lib.pack import load_pack  # noqa: E402

FAMILIES = ("golden_longcat",)
FAILURES = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, AssertionError, OSError,
            SafetensorError)
TOLERANCE, TIMESTEP_TOLERANCE = 1e-4, 1e-3


def plain_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, **_) -> torch.Tensor:
    """Torch's own on (B, S, H * D), unmasked, as the pack's networks ask for it."""
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Host:
    """What networks are built from, and ComfyUI's Wan 2.1 latent format where there is one."""
    operations: object = torch.nn
    attention: Callable[..., torch.Tensor] = plain_attention
    latent_format: object = None


def comfyui_host(folder: str) -> Host:
    """The operations, attention and latent format of the ComfyUI in `folder`, on the CPU."""
    environment.bring_comfyui(Path(folder))
    import comfy.latent_formats
    import comfy.ldm.modules.attention
    import comfy.ops
    return Host(comfy.ops.manual_cast, comfy.ldm.modules.attention.optimized_attention, comfy.latent_formats.Wan21())


@dataclass
class Result:
    case: str
    error: float = float("nan")
    tolerance: float = TOLERANCE
    reason: str = ""

    @property
    def passed(self) -> bool:
        return not self.reason and self.error <= self.tolerance

    def row(self, width: int) -> str:
        state = "pass" if self.passed else "FAIL"
        return f"{self.case:{width}s} {self.error:10.2e} {self.tolerance:8.0e} {state}  {self.reason}".rstrip()


@dataclass
class Fixtures:
    """One folder: its cases, tensors, and whatever else lies beside them."""
    folder: Path
    tensors: dict = field(default_factory=dict)

    def load(self, name: str) -> dict:
        if name not in self.tensors:
            self.tensors[name] = load_file(self.folder / name)
        return self.tensors[name]

    @property
    def cases(self) -> dict:
        return json.loads((self.folder / "cases.json").read_text(encoding="utf-8"))

    @property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    def call(self, name: str) -> dict:
        """The arguments of a case, with "@name" replaced by the tensor of that name in inputs.safetensors."""
        return {key: self.load("inputs.safetensors")[value[1:]] if isinstance(value, str) and value[:1] == "@" else
                value for key, value in self.cases[name]["call"].items()}



def compare(name: str, fixtures: Fixtures, run: Callable[[str], dict]) -> Result:
    """Run one case and give its largest error over all roles."""
    result = Result(f"{fixtures.folder.name}/{name}")
    worst, expected = 0.0, fixtures.cases[name]["outputs"]
    got = run(name)
    for role, key in expected.items():
        wanted, found = fixtures.load("outputs.safetensors")[key], got.get(role)
        if found is None:
            result.reason = f"nothing computes {role!r}"
        elif found.shape != wanted.shape:
            result.reason = f"{role}: shape {tuple(found.shape)}, wanted {tuple(wanted.shape)}"
        else:
            tolerance = TIMESTEP_TOLERANCE if role.startswith("timesteps") else TOLERANCE
            error = (found.double() - wanted.double()).abs().max().item() if wanted.numel() else 0.0
            error = float("inf") if error != error else error
            if error / tolerance >= worst / result.tolerance:
                worst, result.tolerance = error, tolerance
    result.error = worst
    return result


def check(folder: Path, runner_of: Callable[[Fixtures], Callable[[str], dict] | None]) -> Iterator[Result]:
    """Every case of every fixture folder under `folder`, in order."""
    for path in sorted(folder.rglob("cases.json")):
        fixtures = Fixtures(path.parent)
        run = runner_of(fixtures)
        for name in fixtures.cases:
            if run is None:
                yield Result(f"{path.parent.name}/{name}", reason="no runner knows this folder")
                continue
            try:
                with torch.no_grad():
                    yield compare(name, fixtures, run)
            except FAILURES as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                yield Result(f"{path.parent.name}/{name}",
                             reason=f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")


def runner_of(fixtures: Fixtures, host: Host) -> Callable[[str], dict] | None:
    """The first family's that knows the folder."""
    found = (importlib.import_module(family).runner_of(fixtures, host) for family in FAMILIES)
    return next(filter(None, found), None)


def main(folder: str, comfyui: str | None = None) -> int:
    load_pack()
    host = comfyui_host(comfyui) if comfyui else Host()
    started, results = time.monotonic(), []
    for result in check(Path(folder), lambda fixtures: runner_of(fixtures, host)):
        if not results:
            print(f"{'case':52s} {'max error':>10s} {'at most':>8s}")
        results.append(result)
        print(result.row(52), flush=True)
    failed = sum(not result.passed for result in results)
    print(f"{len(results) - failed} passed, {failed} failed, {time.monotonic() - started:.1f} s")
    return int(failed > 0 or not results)


if __name__ == "__main__":
    sys.modules["golden"] = sys.modules["__main__"]  # the families import this file by its name
    sys.exit(main(*sys.argv[1:]))
