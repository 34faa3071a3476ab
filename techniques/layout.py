"""Everything that is in one model call and *when*: ordered spans of latent frames, each with its RoPE time.

A span's frames are clean (timestep 0) or noisy (the sampler's timestep); a span without latents of its own is one
that the model brings itself, such as the chunk being denoised or Wan S2V's reference.
"""
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from .reference_tokens import Tokens

LOOKAHEAD_LATENTS = 3   # an anchor's distance ahead: 12 pixel frames, where Lookahead Anchoring finds the best lip sync
REFERENCES, BACKGROUND = "references", "background"     # the spans of a video of the person, and of a scene


@dataclass(frozen=True, eq=False)
class Span:
    """`times`: RoPE time of each latent frame. `latents`: (1, C, len(times), h, w) in LATENT space, or None. `placed`:
    whether a technique has decided where it stands. `closed`: whether its frames see one another and nothing else, all
    of them together. `tokens`: which of its tokens there are, None for all. `audio`: audio
    features of its own frames, as its family's `audio_for` gives them."""
    name: str
    times: tuple[float, ...]
    clean: bool = True
    latents: Tensor | None = None
    placed: bool = False
    closed: bool = False
    tokens: Tokens | None = None
    audio: Tensor | None = None

    def __post_init__(self):
        if self.latents is not None and self.latents.shape[2] != len(self.times):
            raise ValueError(f"{self.name}: {self.latents.shape[2]} latent frames came with {len(self.times)} times")

    def at(self, times: Iterable[float]) -> "Span":
        """The same frames at other times."""
        return replace(self, times=tuple(times))


@dataclass(frozen=True, eq=False)
class Layout:
    """`has_more`: whether the model has frames beside these that stay where they are, such as S2V's motion frames."""
    spans: tuple[Span, ...]
    has_more: bool = False

    @classmethod
    def of_chunk(cls, latents: int) -> "Layout":
        """What an unpatched model sees: one noisy chunk at times 0, 1, ..."""
        return cls((Span("chunk", tuple(range(latents)), clean=False),))

    def __getitem__(self, name: str) -> Span:
        found = self.find(name)
        if found is None:
            raise KeyError(f"no span {name!r} in this layout, which has {[span.name for span in self.spans]}")
        return found

    def find(self, name: str) -> Span | None:
        return next((span for span in self.spans if span.name == name), None)

    @property
    def last_time(self) -> float:
        """RoPE time of the chunk's last frame: the n-1 of the papers."""
        return self["chunk"].times[-1]

    @property
    def frames(self) -> int:
        """Latent frames of all spans."""
        return sum(len(span.times) for span in self.spans)

    @property
    def references(self) -> tuple[Span, ...]:
        """The pictures that say who the person is; a video of the person is `find(REFERENCES)`."""
        return tuple(span for span in self.spans if span.name in ("reference", "anchor"))

    def append(self, span: Span) -> "Layout":
        return replace(self, spans=(*self.spans, span))

    def without(self, span: Span) -> "Layout":
        return replace(self, spans=tuple(other for other in self.spans if other is not span))

    def open_with(self, context: Tensor | None) -> "Layout":
        """What was handed over (1, C, k, h, w) as clean frames before the chunk, for models that take it so."""
        if context is None:
            return self
        opened = context.shape[2]
        later = tuple(time + opened for time in self["chunk"].times)
        return self.change("chunk", times=later).append(Span("context", tuple(range(opened)), latents=context))

    def change(self, span: "str | Span", **fields) -> "Layout":
        """The same layout with one span changed: this one, or the first of that name."""
        own = self[span] if isinstance(span, str) else span
        return replace(self, spans=tuple(replace(other, **fields) if other is own else other for other in self.spans))

    def frame_indices(self, span: Span) -> range:
        """Where `span` stands in the sequence, counted in latent frames."""
        start = 0
        for other in self.spans:
            if other is span:
                return range(start, start + len(span.times))
            start += len(other.times)
        raise KeyError(f"span {span.name!r} is not part of this layout")
