"""What lives for one sampling run: made when it is first asked for, kept for every call, gone with the run."""
import logging
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

RUN = "lodestar_run"    # in transformer_options: the Run, which attach.py puts there
T = TypeVar("T")


@dataclass(eq=False)
class Run:
    """What is kept for the length of one sampling run, and goes with it. `shape`: of the sampler's latent. `steady`: no
    hook changes the weights between calls, so what they made is still what they would make. `text`: the positive
    prompt's (1, tokens, C), None where the guider has none by that name. `ends`: what is then done.
    """
    shape: tuple[int, ...]
    steady: bool = True
    text: Tensor | None = None
    kept: dict[Hashable, Any] = field(default_factory=dict)
    ends: ExitStack = field(default_factory=ExitStack)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gave the first time it was asked for under this key, which holds host values alone. It outlives
        the step, so ComfyUI's record of what a step allocates leaves it out."""
        if key not in self.kept:
            with outside_of_steps():
                self.kept[key] = make()
        return self.kept[key]

    def newest(self, name: Hashable, key: Hashable, make: Callable[[ExitStack], Any]) -> Any:
        """As `once`, but what it gave for another key under the same `name` is gone. `make` is given what is done when
        that is, or the run ends."""
        if name not in self.kept or self.kept[name][0] != key:
            if name in self.kept:
                self.kept.pop(name)[2].close()
            ends = ExitStack()
            self.ends.callback(ends.close)
            with outside_of_steps():
                self.kept[name] = key, make(ends), ends
        return self.kept[name][1]


def outside_of_steps() -> AbstractContextManager:
    """ComfyUI's compiler records no allocation inside, where it has one."""
    try:
        from comfy.model_prefetch import pause_malloc_graph
    except ImportError:
        return nullcontext()
    return pause_malloc_graph()


def once(transformer_options: Mapping, key: Hashable, make: Callable[[], T]) -> T:
    """What `make` gives; in a sampling run it is made the first time and kept for its length. `key`: host values that
    determine it."""
    run = transformer_options.get(RUN)
    return make() if run is None else run.once(key, make)


def say(notice: str, transformer_options: Mapping) -> None:
    """Log a warning, once in a sampling run."""
    once(transformer_options, ("said", notice), partial(logging.getLogger("lodestar").warning, notice))
