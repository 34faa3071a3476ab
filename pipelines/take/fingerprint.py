"""What a value is, as a digest, so that a finished chunk is used again only where nothing that made it has changed.

Numbers and tensors count by value, containers by what is in them, functions by their code and what they hold, objects
by their class (its methods' code) and their attributes. What has no fingerprint is never the same
as anything, itself included, and its name is kept for the user.
"""
import logging
import os
import re
import struct
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import cached_property, partial, partialmethod, singledispatchmethod
from numbers import Number
from operator import add
from pathlib import PurePath
from pickle import PickleError
from typing import Any
from uuid import UUID

import numpy as np
import torch
from torch import Tensor

from ...techniques.tensor_digest import Unreadable, digest_tensor
from .manifest import digest_texts

SCALARS = (types.NoneType, types.EllipsisType, str, bytes, Number, Enum, torch.dtype, re.Pattern, range, slice,
           PurePath)
NO_VALUE = (torch.device, UUID, logging.Logger)   # where something is computed, which object it was, who speaks of it
OF_PYTHON = sys.stdlib_module_names | {"torch", "numpy"}
MANAGED_DICT = 1 << 4   # of a type's flags: its __dict__ takes no room in the object
WORTH_THREADS = 1 << 22 # bytes: fewer are read before threads have begun
NOT_PICKLED = (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError, PickleError)


class Fingerprints:
    """Digests of values that belong together. `stand_in(value)` gives what is to be read in its place, or itself.

    `unreadable`: per value that could not be read where it was found and what it is.
    """

    def __init__(self, stand_in: Callable[[Any], Any] = lambda value: value):
        self.unreadable: list[str] = []
        self._stand_in = stand_in
        self._seen: dict[int, tuple[Any, str]] = {}     # the value as well: an id is another's once it is gone
        self._open: dict[int, int] = {}                 # values that are being read, by depth
        self._inside: list[str] = []

    def of(self, value: Any, name: str) -> str:
        """The digest of `value`; `name` is the user's name for it, where it has none."""
        self._inside.append(name)
        try:
            return self._read(value)
        finally:
            self._inside.pop()

    def _read(self, value: Any) -> str:
        if isinstance(value, Tensor):
            return self._tensor(self._stand_in(value))
        if isinstance(value, SCALARS):
            return digest_texts(type(value).__name__, scalar_words(value))
        if isinstance(value, NO_VALUE):
            return digest_texts(type(value).__name__)
        if id(value) in self._open:     # it holds itself
            return digest_texts("around it", str(len(self._open) - self._open[id(value)]))
        if id(value) not in self._seen:
            self._open[id(value)] = len(self._open)
            read = self._stand_in(value)
            self._seen[id(value)] = value, digest_texts(*self._parts(read)) if read is value else self._read(read)
            del self._open[id(value)]
        return self._seen[id(value)][1]

    def _tensor(self, tensor: Tensor) -> str:
        try:
            return digest_tensor(tensor)
        except Unreadable as error:
            return self._cannot_tell(str(error))

    def _parts(self, value: Any) -> Iterator[str]:
        """What tells `value`, in order."""
        if isinstance(value, type):
            yield from ("class", *class_words(value))
            yield from (part for name, member in members(value) for part in (name, self._read(member)))
        elif isinstance(value, types.ModuleType):
            yield from ("module", value.__name__)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.MethodType):
            yield from ("method", self._read(value.__func__), self._read(value.__self__))
        elif isinstance(value, types.BuiltinFunctionType):
            owner = value.__self__
            yield from ("builtin", str(value.__module__), value.__qualname__,
                        "" if isinstance(owner, types.ModuleType) else self._read(owner))
        elif isinstance(value, partial):
            yield from ("partial", self._read(value.func), self._read(value.args), self._read(value.keywords))
        elif isinstance(value, weakref.ref):
            yield from ("reference", self._read(value()))
        elif isinstance(value, np.ndarray) and value.dtype != object:
            yield from ("array", str(value.dtype), str(value.shape), np.ascontiguousarray(value).tobytes().hex())
        elif "__wrapped__" in getattr(value, "__dict__", {}) and hides_state(type(value)):
            yield from ("wrapper", self._read(value.__wrapped__))
        else:
            yield from self._container(value)
            yield from self._object(value)

    def _container(self, value: Any) -> Iterator[str]:
        if isinstance(value, Mapping):
            keys = sorted(value, key=str)
            read = self._side_by_side([value[key] for key in keys])
            yield from ("mapping", *sorted(map(add, map(self._read, keys), read)))
        elif isinstance(value, Set):
            yield from ("set", *sorted(self._read(entry) for entry in value))
        elif isinstance(value, (list, tuple)):
            yield from ("list", *(self._read(entry) for entry in value))

    def _side_by_side(self, values: list[Any]) -> Iterable[str]:
        """Tensors by several threads, which reading from a disk or a large memory gains by."""
        if (len(values) < 2 or not all(isinstance(value, Tensor) for value in values)
                or sum(value.numel() * value.element_size() for value in values) < WORTH_THREADS):
            return map(self._read, values)
        with ThreadPoolExecutor(min(len(values), os.cpu_count() or 1)) as pool:
            return pool.map(self._tensor, map(self._stand_in, values))

    def _object(self, value: Any) -> Iterator[str]:
        kind = type(value)
        if kind in (dict, list, tuple, set, frozenset, types.MappingProxyType):
            return
        yield from ("object", self._read(kind))
        self._inside.append(f"{kind.__module__}.{kind.__qualname__}")
        if hides_state(kind):
            yield self._pickle_digest(value)
        else:
            yield from (part for name, attribute in sorted(attributes(value)) for part in (name, self._read(attribute)))
        self._inside.pop()

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        yield from ("function", *function_words(function))
        self._inside.append(f"{function.__module__}.{function.__qualname__}")
        for held in (function.__defaults__, function.__kwdefaults__, cells(function), names_used(function),
                     {name: held for name, held in vars(function).items() if not name.startswith("_")}):
            yield self._read(held)
        self._inside.pop()

    def _pickle_digest(self, value: Any) -> str:
        """Objects made in C that can be pickled count by their pickle."""
        try:
            reduced = value.__reduce_ex__(2)
        except NOT_PICKLED:
            return self._cannot_tell(f"a {type(value).__qualname__}")
        made = (reduced,) if isinstance(reduced, str) else reduced
        return digest_texts(*(self._read(list(part) if isinstance(part, Iterator) else part) for part in made))

    def _cannot_tell(self, what: str) -> str:
        name, *owners = self._inside
        packs = [pack for owner in owners if (pack := pack_of(owner))]
        self.unreadable.append(f"{name} ({what} in {packs[-1] if packs else (owners or ['it'])[-1]})")
        return os.urandom(16).hex()


def scalar_words(value: Any) -> str:
    if isinstance(value, re.Pattern):
        return f"{value.flags} {value.pattern!r}"       # its repr is cut short
    return f"{type(value).__qualname__}.{value.name}" if isinstance(value, Enum) else repr(value)


def attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of what an object of a class written in Python holds."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        for name in slot_names(kind):
            if hasattr(value, name):
                yield name, getattr(value, name)


def slot_names(kind: type) -> list[str]:
    """The __slots__ of a class alone."""
    slots = vars(kind).get("__slots__", ())
    return [f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
            for name in ((slots,) if isinstance(slots, str) else slots) if name not in ("__dict__", "__weakref__")]


def hides_state(kind: type) -> bool:
    """Whether objects of a class have room for more than Python shows: then C keeps something there."""
    shown = next((base for base in (dict, list, tuple, set, frozenset) if issubclass(kind, base)), object)
    own_dict = kind.__dictoffset__ != 0 and not kind.__flags__ & MANAGED_DICT
    pointers = own_dict + (kind.__weakrefoffset__ > 0) + sum(len(slot_names(base)) for base in kind.__mro__)
    return kind.__basicsize__ > shown.__basicsize__ + struct.calcsize("P") * pointers


def is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, str)) or (isinstance(value, tuple) and all(map(is_plain, value)))


def is_data(value: Any) -> bool:
    """What holds nothing but numbers, texts and tensors."""
    if isinstance(value, Mapping):
        return all(map(is_data, value.values()))
    if isinstance(value, (list, tuple, Set)):
        return all(map(is_data, value))
    return isinstance(value, (types.NoneType, int, float, complex, str, bytes, Enum, torch.dtype, Tensor, np.ndarray))


def known_by_version(module: str) -> bool:
    """Whether a version tells a module's code and settings: Python's own, PyTorch's, ComfyUI's."""
    return module.partition(".")[0] in {*OF_PYTHON, "comfy", "comfy_extras"}


def settings_among(values: Mapping[str, Any], module: str) -> dict[str, Any]:
    """Which of a module's or class's names are settings: in another pack's all numbers, texts and tensors."""
    if known_by_version(module):
        return {name: value for name, value in values.items() if is_plain(value) and not name.startswith("_")}
    return {name: value for name, value in values.items() if is_data(value) and not name.startswith("__")}


def class_words(kind: type) -> Iterator[str]:
    """Name and code of a class and of those it is made from; of Python's and PyTorch's own the name says enough."""
    for base in kind.__mro__:
        yield f"{base.__module__}.{base.__qualname__}"
        if base.__module__.partition(".")[0] in OF_PYTHON:
            continue
        for name, member in sorted(vars(base).items()):
            for part in functions_behind(member):
                if isinstance(part, types.FunctionType):
                    yield from (name, *function_words(part))
            if is_plain(member) and not name.startswith("_"):
                yield from (name, repr(member))


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """(name, value) of what else the methods of a class use, where no version tells it: another pack's code."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in OF_PYTHON:
            continue
        for name, member in sorted(vars(base).items()):
            yield from ((name, part) for part in functions_behind(member)
                        if not isinstance(part, types.FunctionType) or not known_by_version(part.__module__ or ""))
        if not known_by_version(base.__module__):
            yield from sorted(settings_among(vars(base), base.__module__).items())


def functions_behind(member: Any) -> list[Any]:
    """What a member of a class runs: the functions behind properties, caches and the like, and what they are given."""
    if isinstance(member, property):
        return [part for function in (member.fget, member.fset) for part in functions_behind(function)]
    if isinstance(member, partialmethod):
        return [*functions_behind(member.func), member.args, member.keywords]
    if isinstance(member, (staticmethod, classmethod)):
        return functions_behind(member.__func__)
    if isinstance(member, (cached_property, singledispatchmethod)):
        return functions_behind(member.func)
    if isinstance(member, (types.FunctionType, partial)):
        return [member]
    return functions_behind(vars(member)["__wrapped__"]) if "__wrapped__" in getattr(member, "__dict__", {}) else []


def function_words(function: types.FunctionType) -> Iterator[str]:
    """Name and code, of what it wraps as well."""
    yield f"{function.__module__}.{function.__qualname__}"
    yield from code_words(function.__code__)
    for held in cells(function):
        if isinstance(held, types.FunctionType) and held is not function:
            yield from code_words(held.__code__)


def code_words(code: types.CodeType) -> Iterator[str]:
    yield from (code.co_code.hex(), *code.co_names, *code.co_varnames, *code.co_freevars, str(code.co_flags),
                str((code.co_argcount, code.co_kwonlyargcount)), getattr(code, "co_exceptiontable", b"").hex())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_words(constant)
        else:
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)


def cells(function: types.FunctionType) -> list[Any]:
    """What a function holds from where it was made."""
    held = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name == "__class__":     # whose method it is
            continue
        try:
            held.append(cell.cell_contents)
        except ValueError:      # not made yet
            held.append(None)
    return held


def names_used(function: types.FunctionType) -> dict[str, Any]:
    """The settings and functions of its own module that a function names."""
    known = {name: function.__globals__[name] for code in codes_in(function.__code__) for name in code.co_names
             if name in function.__globals__}
    beside = {name: value for name, value in known.items() if isinstance(value, types.FunctionType)
               and value.__module__ == function.__module__}
    return {**settings_among(known, function.__module__ or ""), **beside}


def codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_in(constant)


def pack_of(module: str) -> str:
    """The custom node pack that a module, as ComfyUI names it, belongs to; "" for none."""
    found = re.search(r"custom_nodes(?:[/\\.]|_x_)([^/\\.]+)", module)
    return found[1] if found else ""
