"""How far a take is, from the server's messages, on one line of a terminal."""
import shutil
import sys
import time

from lib.graph import Graph


def bar(done: float, width: int = 16) -> str:
    filled = round(min(max(done, 0.0), 1.0) * width)
    return "[" + "#" * filled + "." * (width - filled) + "]"


class Progress:
    """Turns the server's messages into two bars on one line; where that is no terminal, one line per chunk."""

    def __init__(self, graph: Graph):
        self.kinds = {node.id: node.kind for node in graph.nodes()}
        self.chunk: dict = {}           # what the server said of it last
        self.step, self.steps, self.last_line = 0, 1, ""
        self.borders: list[int] = []    # the first frame of each chunk but the take's first
        self.begun: tuple[int, float] | None = None  # first chunk seen (a resumed take starts late), when

    def __call__(self, kind: str, data: dict) -> None:
        if kind == "executing" and data.get("node"):
            self.tell(f"{self.kinds.get(data['node'], 'node')} (node {data['node']})")
        elif kind == "lodestar.chunk":
            self.chunk, self.step = data, 0
            if 0 < data["frames_done"] < data["frames_total"]:
                self.borders.append(data["frames_done"])
            self.begun = self.begun or (data["chunk"], time.monotonic())
            self.tell(self.bars())
        elif kind == "progress" and self.chunk and data.get("node") == self.chunk["node"]:
            self.steps = max(1, data["max"] // self.chunk["chunks"])
            self.step = data["value"] - self.chunk["chunk"] * self.steps
            if sys.stdout.isatty():
                self.tell(self.bars())

    def bars(self) -> str:
        first, since = self.begun or (0, time.monotonic())
        chunk, chunks = self.chunk["chunk"], self.chunk["chunks"]
        if chunk >= chunks:
            return f"take {bar(1)} {self.chunk['frames_done']}/{self.chunk['frames_total']} frames"
        inside = min(max(self.step / self.steps, 0), 1)
        finished = chunk - first
        pace = f" {(time.monotonic() - since) / finished:.1f} s each" if finished else ""
        return (f"take {bar((chunk + inside) / chunks)} {self.chunk['frames_done']}/{self.chunk['frames_total']} frames"
                f"  chunk {chunk + 1}/{chunks} {bar(inside, 8)}{pace}")

    def tell(self, line: str) -> None:
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            print("\r" + line[:width].ljust(width), end="", flush=True)
        elif line != self.last_line:
            print(line, flush=True)
        self.last_line = line
