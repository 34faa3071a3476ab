"""Which pictures say who the person is and where they are, and where each stands in time: kept in the video, for Take
Report. What a model does with its own picture is the model's: it is in the list where no technique has moved it."""
import json
import re
from typing import Any

import torch
from torch import Tensor

from ..techniques.layout import Layout, Span
from ..techniques.technique import ChunkPosition, sort_techniques
from ..techniques.tensor_digest import digest_tensor
from .take_inputs import TakeInputs

TAG = "lodestar_references"     # in the video's metadata
Entry = dict[str, Any]


def list_references(inputs: TakeInputs) -> list[Entry]:
    """Of the take's last chunk, which begins as all but the first do: `node`, `shows`, `times` from the chunk's first
    latent on, `tokens` where some were left out, `same_as` where an earlier one is the same picture."""
    chunk, reference = inputs.plan.chunks[-1], inputs.reference
    opening = torch.zeros(1, inputs.latent_shape[0], 1, *inputs.latent_shape[1:]) if chunk.index else None
    persistent = inputs.persistent is not None and not inputs.memory_in_channels
    position = ChunkPosition(inputs.plan.seconds_of(chunk)[0], reference, chunk=chunk.index, opening=opening,
                             identity=inputs.views if persistent else None, rolls=bool(inputs.plan.block_latents))
    layout = Layout.of_chunk(chunk.latents)
    if reference is not None:
        layout = layout.append(Span("reference", tuple(range(reference.shape[2]))))
    entries: list[Entry] = []
    for technique in sort_techniques(inputs.techniques_at(chunk)):
        before, layout = layout.spans, technique.layout(layout, position)
        node = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(technique).__name__)
        entries += [describe_span(span, node, reference, opening) for span in layout.spans
                    if span.clean and span.name != "context" and not any(span is other for other in before)]
    own = layout.find("reference")
    if own is not None and not own.placed:
        entries.insert(0, describe_span(own, "Long Take", reference, opening) | {"times": None})
    return mark_copies(entries)


def describe_span(span: Span, node: str, reference: Tensor | None, opening: Tensor | None) -> Entry:
    shown = reference if span.latents is None else span.latents
    what = "the take's picture" if shown is reference else "the take's first frame" if shown is opening else \
        "a picture" if len(span.times) == 1 else f"{len(span.times)} latents"
    tokens = {} if span.tokens is None or span.tokens.whole else {"tokens": [span.tokens.count, span.tokens.total]}
    return {"node": node, "shows": what, "times": list(map(float, span.times)), **tokens,
            "digest": "" if shown is None or shown is opening else digest_tensor(shown)}


def mark_copies(entries: list[Entry]) -> list[Entry]:
    """Without digests: the first of equal ones is named by those that follow."""
    first: dict[str, str] = {}
    for entry in entries:
        if digest := entry.pop("digest"):
            entry |= {"same_as": first[digest]} if digest in first else {}
            first.setdefault(digest, entry["node"])
    return entries


def read_references(text: str) -> list[str]:
    """What a video's metadata say, a line for each; empty where it is not ours."""
    try:
        return [say(entry) for entry in json.loads(text)]
    except (ValueError, TypeError, KeyError):
        return []


def say(entry: Entry) -> str:
    times, tokens = entry["times"], entry.get("tokens")
    where = "where the model has it" if times is None else "at " + ", ".join(f"{time:g}" for time in times)
    copy = f", the same picture as {entry['same_as']}'s" if "same_as" in entry else ""
    some = f", {tokens[0]} of {tokens[1]} tokens" if tokens else ""
    return f"{entry['node']}: {entry['shows']}{copy}{some}, {where}"
