"""Golden fixtures: folders with cases.json, inputs and outputs in safetensors, run through the pack's own classes.

A family of models has a module whose `runner_of(fixtures, host)` gives a function from a case's name to {role: tensor},
or None for a folder it does not know. Where the folder has another form than LongCat's (no calls and outputs by name),
the module has `cases_of(fixtures, host)` instead: {case: function to {role: (computed, wanted)}}, or None, and may have
a TOLERANCE of its own. This file
finds the folders, resolves "@name" to tensors, compares and reports. Unknown cases and roles are failures; a case that
raises LeftOut, since this host lacks the classes, is none. check_golden.py runs it as
`golden.py FOLDER [COMFYUI [complete]]`.
"""
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
from lib import environment  # noqa: E402
from lib.pack import load_pack  # noqa: E402

FAMILIES = ("golden_longcat", "golden_rolling", "golden_omniavatar", "golden_infinitetalk", "golden_humo",
            "golden_everanimate")
MARKS = ("cases.json", "config.json")     # a folder with one of them holds fixtures
FAILURES = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, AssertionError, OSError,
            SafetensorError)
TOLERANCE, TIMESTEP_TOLERANCE = 1e-4, 1e-3
Case = Callable[[], dict[str, tuple[torch.Tensor, torch.Tensor]]]     # role: what is computed, what is wanted


class LeftOut(Exception):
    """This host lacks what the case runs on; another one has it."""


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
    left_out: bool = False

    @property
    def passed(self) -> bool:
        return self.left_out or (not self.reason and self.error <= self.tolerance)

    def row(self, width: int) -> str:
        state = "left out" if self.left_out else "pass" if self.passed else "FAIL"
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


def judge(name: str, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]], tolerance: float = TOLERANCE) -> Result:
    """The largest relative L2 error of all roles; what is no float must be equal."""
    result = Result(name, 0.0 if pairs else float("nan"), tolerance, "" if pairs else "nothing was compared")
    for role, (found, wanted) in pairs.items():
        if found.shape != wanted.shape:
            result.reason = f"{role}: shape {tuple(found.shape)}, wanted {tuple(wanted.shape)}"
            break
        found, wanted, exact = found.double(), wanted.double(), not wanted.is_floating_point()
        error = (found - wanted).norm().item() / max(wanted.norm().item(), 1e-12)
        if exact and error:
            result.reason = f"{role}: {(found != wanted).sum().item()} of {wanted.numel()} are not equal"
        elif not error <= tolerance:
            result.reason = f"{role}: {error:.2e}"
        result.error = error if error != error else max(result.error, error)
    return result


def classic(fixtures: Fixtures, run: Callable[[str], dict] | None) -> dict[str, Callable[[], Result]]:
    """The cases of a folder in LongCat's form."""
    def case(name: str) -> Result:
        return compare(name, fixtures, run) if run else Result(name, reason="no runner knows this folder")

    named = (fixtures.folder / "cases.json").is_file()
    return {name: partial(case, name) for name in (fixtures.cases if named else ("?",))}


def cases_of(fixtures: Fixtures, host: Host) -> dict[str, Callable[[], Result]]:
    """Every case of one folder, by the first family that knows it."""
    for family in FAMILIES:
        module = importlib.import_module(family)
        own, tolerance = getattr(module, "cases_of", None), getattr(module, "TOLERANCE", TOLERANCE)
        cases = own(fixtures, host) if own else None
        if cases is not None:
            return {name: partial(lambda name, case, tolerance: judge(name, case(), tolerance), name, case, tolerance)
                    for name, case in cases.items()}
    return classic(fixtures, runner_of(fixtures, host))


def check(folder: Path, host: Host) -> Iterator[Result]:
    """Every case of every fixture folder under `folder`, in order."""
    for path in sorted({mark.parent for name in MARKS for mark in folder.rglob(name)}):
        for name, case in cases_of(Fixtures(path), host).items():
            full = f"{path.name}/{name}"
            try:
                with torch.no_grad():
                    result = case()
            except LeftOut as missing:
                result = Result(name, reason=str(missing), left_out=True)
            except FAILURES as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                result = Result(name, reason=f"{type(error).__name__}: {error} ({Path(where.filename).name}:"
                                             f"{where.lineno})")
            yield replace(result, case=full)


def runner_of(fixtures: Fixtures, host: Host) -> Callable[[str], dict] | None:
    """The first family's that knows the folder."""
    runners = (getattr(importlib.import_module(family), "runner_of", None) for family in FAMILIES)
    return next(filter(None, (runner(fixtures, host) for runner in runners if runner)), None)


def main(folder: str, comfyui: str | None = None, complete: str = "") -> int:
    """`complete`: a case that is left out is a failure, too, since no other host will run it."""
    load_pack()
    host = comfyui_host(comfyui) if comfyui else Host()
    started, results = time.monotonic(), []
    for result in check(Path(folder), host):
        if not results:
            print(f"{'case':52s} {'max error':>10s} {'at most':>8s}")
        results.append(result)
        print(result.row(52), flush=True)
    failed, left_out = sum(not result.passed for result in results), sum(result.left_out for result in results)
    print(f"{len(results) - failed - left_out} passed, {failed} failed, {left_out} left out, "
          f"{time.monotonic() - started:.1f} s")
    return int(failed > 0 or not results or bool(complete and left_out))


if __name__ == "__main__":
    sys.modules["golden"] = sys.modules["__main__"]  # the families import this file by its name
    sys.exit(main(*sys.argv[1:]))
