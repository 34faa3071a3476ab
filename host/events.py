"""What a running take sends: a line of text to its node in the page, an event to scripts and API clients."""
import time
from collections.abc import Mapping
from typing import Any

from comfy_execution.progress import get_progress_state
from server import PromptServer


class TakeEvents:
    """Sent to whoever queued the prompt; nothing where there is no server. `node`: as the prompt that was queued has
    it; inside a loop of ComfyUI's the node that runs is a copy of it, under an id that nobody has seen."""

    def __init__(self, node_id: str | None):
        self.node = None if node_id is None else get_progress_state().dynprompt.get_display_node_id(node_id)
        self._said = ""

    def say(self, text: str) -> None:
        """ComfyUI's own progress text, which its page shows in the node. The same text is sent once."""
        server = getattr(PromptServer, "instance", None)
        if server is not None and self.node is not None and text != self._said:
            server.send_progress_text(text, self.node, server.client_id)
        self._said = text

    def chunk(self, chunk: int, chunks: int, frames_done: int, frames_total: int, seconds_left: int | None,
              **more: Any) -> None:
        """`lodestar.chunk`: the chunk that begins now, counted from 0; `chunks` at the end of the take."""
        server = getattr(PromptServer, "instance", None)
        if server is not None:
            server.send_sync("lodestar.chunk", {
                "node": self.node, "chunk": chunk, "chunks": chunks, "frames_done": frames_done,
                "frames_total": frames_total, "seconds_left": seconds_left, "time": time.time(), **more},
                server.client_id)

    def live(self, playlist: Mapping[str, str], frames: int, delay_seconds: float) -> None:
        """`lodestar.live`: so many frames can be watched; -1 once none follow. `playlist`: what /view is asked for."""
        server = getattr(PromptServer, "instance", None)
        if server is not None:
            server.send_sync("lodestar.live", {"node": self.node, "playlist": dict(playlist), "frames": frames,
                                               "delay_seconds": delay_seconds, "time": time.time()}, server.client_id)
