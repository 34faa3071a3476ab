"""What counts as the same value: by what it is, wherever and in whichever order it lies."""
import cmath
import functools
import itertools
import math
import operator
import re
import subprocess
import sys
import threading
import types
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from lodestar.pipelines import VERSION
from lodestar.pipelines.take import fingerprint
from lodestar.pipelines.take.fingerprint import Fingerprints, pack_of

STRENGTH = 1.0


class Kind(Enum):
    ONE = 1
    TWO = 2


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Hidden:
    __slots__ = ("__value",)

    def __init__(self, value):
        self.__value = value


@dataclass(frozen=True, eq=False)
class Held:
    value: object


class Counted(Held):
    def double(self):
        return 2


def of(value) -> str:
    prints = Fingerprints()
    found = prints.of(value, "value")
    assert prints.unreadable == []
    return found


def scaled(factor):
    return lambda x: x * factor


def test_different_values_differ():
    values = [None, 1, 1.5, "1", True, b"1", Fraction(1, 3), Fraction(2, 3), [1, 2], [2, 1], {"a": 1}, {"a": 2},
              {"b": 1}, {1, 2}, {1, 3}, torch.zeros(2), torch.ones(2), torch.zeros(2, 1),
              torch.zeros(2, dtype=torch.float16), np.zeros(2), np.ones(2), np.float32(1), Kind.ONE, Kind.TWO,
              torch.float16, torch.bfloat16, Held(1), Held(2), Counted(1), Slotted(1), Slotted(2), Held, Slotted,
              scaled(1), scaled(2), lambda x: x + 1, lambda x: x + 2, functools.partial(scaled, 1),
              functools.partial(scaled, 2), Counted(1).double, operator.itemgetter(1), operator.itemgetter(2), max,
              min, re.compile("a"), re.compile("b"), re.compile("a" * 300 + "b"), re.compile("a" * 300 + "c"), math.exp,
              cmath.exp, Hidden(1), Hidden(2), deque([1]), OrderedDict(a=1), torch]
    prints = [of(value) for value in values]
    alike = [(values[i], values[j]) for i, j in itertools.combinations(range(len(values)), 2) if prints[i] == prints[j]]
    assert alike == []


def test_equal_values_are_the_same():
    assert of({"a": 1, "b": [torch.ones(2)]}) == of({"b": [torch.ones(2)], "a": 1})
    assert of({"x", "y", "z"}) == of({"z", "y", "x"})
    assert of(scaled(3)) == of(scaled(3)) and of(Held([1])) == of(Held([1]))
    assert of(torch.ones(4)[1:3]) == of(torch.ones(2)) and of(torch.ones(3, 2).T) == of(torch.ones(2, 3))


def test_devices_and_identities_count_for_nothing():
    import uuid
    assert of([torch.device("cpu"), uuid.uuid4()]) == of([torch.device("meta"), uuid.uuid4()])


def test_a_value_that_holds_itself_is_read():
    def ring(number):
        held = {"number": number}
        held["self"] = held
        return held

    assert of(ring(1)) == of(ring(1)) != of(ring(2))


def uses_a_setting(x):
    return x * STRENGTH


def test_a_setting_that_a_function_names_counts(monkeypatch):
    before = of(uses_a_setting)
    monkeypatch.setitem(globals(), "STRENGTH", 2.0)
    assert of(uses_a_setting) != before


def test_a_method_that_was_replaced_counts(monkeypatch):
    before = of(Counted(1))
    monkeypatch.setattr(Counted, "double", lambda self: 3)
    assert of(Counted(1)) != before


def made(source: str, name="custom_nodes.Some-Pack.nodes"):
    """A module of another pack."""
    module = types.ModuleType(name)
    exec(source, module.__dict__)  # noqa: S102
    return module


PACK = """
import functools, torch
{setting}
def beside(function):
    @functools.wraps(function)
    def around(*inputs): return function(*inputs) * {around}
    return around
class Patch:
    own = {own}
    def __call__(self, x, factor={default}): return x * SETTING * factor
    @functools.cached_property
    def kept(self): return {kept}
    @beside
    def wrapped(self): return self.own
    half = functools.partialmethod(__call__, factor={given})
def patch(x): return x * SETTING
"""
SAME = {"setting": "SETTING = 1.0", "around": "1.0", "own": "[1.0]", "default": "1.0", "kept": "1.0", "given": "1.0"}


@pytest.mark.parametrize("change", [
    {"setting": "SETTING = 2.0"}, {"setting": "SETTING = [1.0]"}, {"setting": "SETTING = torch.ones(1)"},
    {"setting": "SETTING = dict(a=1.0)"}, {"around": "2.0"}, {"own": "[2.0]"}, {"own": "torch.ones(1)"},
    {"default": "2.0"}, {"kept": "2.0"}, {"given": "2.0"}], ids=str)
def test_what_another_packs_methods_use_counts(change):
    before, after = (made(PACK.format(**record)) for record in (SAME, {**SAME, **change}))
    assert of(before.Patch()) == of(made(PACK.format(**SAME)).Patch()) != of(after.Patch())
    if "setting" in change:
        assert of(before.patch) != of(after.patch)


@pytest.mark.parametrize("setting", ["[{}]", "torch.full((1,), {}.0)", "dict(a={})", "(1, [{}])"])
def test_a_setting_of_any_kind_counts_by_value(setting):
    first, second, again = (made(PACK.format(**{**SAME, "setting": f"SETTING = {setting.format(number)}"}))
                            for number in (1, 2, 1))
    assert of(first.patch) == of(again.patch) != of(second.patch)
    assert of(first.Patch()) == of(again.Patch()) != of(second.Patch())


def test_an_object_that_wraps_a_function_counts_whole():
    class Scaled:
        def __init__(self, factor):
            functools.update_wrapper(self, uses_a_setting)
            self.factor = factor

    def marked(factor):
        def function(x):
            return x * function.factor
        function.factor = factor
        return function

    assert of(Scaled(1)) == of(Scaled(1)) != of(Scaled(2)) and of(marked(1)) == of(marked(1)) != of(marked(2))


def test_a_ring_is_the_same_whatever_was_read_before_it():
    ring, shared = {}, [1]
    ring["self"] = ring
    assert of([shared, shared, ring]) == of([[1], [1], ring])


@pytest.mark.parametrize("value", [(i for i in range(3)), threading.Lock(), Held(threading.Lock()),
                                   torch.eye(2).to_sparse()],
                         ids=["generator", "lock", "object with a lock", "sparse tensor"])
def test_what_has_no_fingerprint_is_named_and_is_never_the_same(value):
    first, second = Fingerprints(), Fingerprints()
    assert first.of({"a": value}, "guider") != second.of({"a": value}, "guider")
    (line,) = first.unreadable
    assert line.startswith("guider (a ")


def test_the_pack_of_a_module_is_what_its_folder_is_called():
    assert pack_of("/home/me/ComfyUI/custom_nodes/Some-Pack") == "Some-Pack"
    assert pack_of("/home/me/ComfyUI/custom_nodes/Some-Pack.nodes.model") == "Some-Pack"
    assert pack_of(r"C:\ComfyUI\custom_nodes\Some-Pack") == "Some-Pack" and pack_of("comfy.hooks") == ""


def test_code_counts_alike_in_every_process():
    code = ("import sys; sys.path[:0] = {path!r}; import conftest; from lodestar.pipelines.take.fingerprint import "
            "Fingerprints; import lodestar.pipelines.take.take as take; "
            "print(Fingerprints().of([take.make_take, take.TakePast, {{'a', 'b', 'c'}}], 'x'))")
    here = str(Path(__file__).parent)
    found = {subprocess.run([sys.executable, "-c", code.format(path=[here])], env={"PYTHONHASHSEED": seed}, check=True,
                            stdout=subprocess.PIPE, text=True).stdout for seed in ("1", "2")}
    assert len(found) == 1


def test_the_version_is_the_projects():
    project = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{VERSION}"' in project


def test_small_tensors_are_read_without_threads_and_large_ones_alike(monkeypatch):
    """A model has thousands of layers, each with a weight and a bias: a thread for each costs more than reading it."""
    started, begin = [], threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: (started.append(thread), begin(thread)))
    layer = {"weight": torch.arange(6.0), "bias": torch.ones(3)}
    alone = of(layer)
    assert not started
    monkeypatch.setattr(fingerprint, "WORTH_THREADS", 0)
    assert of(layer) == alone and started
