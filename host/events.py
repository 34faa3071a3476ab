"""What those who watch a take are told: the page a line of text in the node, scripts and API clients an event."""
import time

from server import PromptServer


class TakeEvents:
    """Sent to whoever queued the prompt; nothing where there is no server."""

    def __init__(self, node_id: str | None):
        self._node, self._said = node_id, ""

    def say(self, text: str) -> None:
        """ComfyUI's own progress text, which its page shows in the node. The same text is sent once."""
        server = getattr(PromptServer, "instance", None)
        if server is not None and self._node is not None and text != self._said:
            server.send_progress_text(text, self._node, server.client_id)
        self._said = text

    def chunk(self, chunk: int, chunks: int, frames_done: int, frames_total: int, seconds_left: int | None) -> None:
        """`lodestar.chunk`: the chunk that begins now, counted from 0; `chunks` at the end of the take."""
        server = getattr(PromptServer, "instance", None)
        if server is not None:
            server.send_sync("lodestar.chunk", {
                "node": self._node, "chunk": chunk, "chunks": chunks, "frames_done": frames_done,
                "frames_total": frames_total, "seconds_left": seconds_left, "time": time.time()}, server.client_id)
