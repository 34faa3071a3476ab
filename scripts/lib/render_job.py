"""One job on one server, as often as it is asked for: a video that is there is taken, a take that runs is followed, one
that was broken off goes on, and only what nobody has made is queued.

What is finished lies in a folder as NAME.mp4 with NAME.json beside it, which says of what it was made. Both appear
whole.
"""
import json
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from lib.comfy_server import LOOK_SECONDS, Client, OnEvent, PromptFailed, ServerGone, finished_video
from lib.graph import Graph
from lib.jobs import FOLDER, Job, sum_of

ANSWERS = 3                 # times that a server may be gone during one job
BUSY_SECONDS = 6 * 3600     # for how long another server may be at the same take
Say = Callable[[str], None]


class NotWhole(OSError):
    """A video came that is cut short."""


def is_finished(job: Job, folder: Path, digest: str) -> bool:
    """Whether the job's video lies in the folder, of just these inputs, and is what was put there."""
    video = folder / f"{job.name}.mp4"
    try:
        found = read_record(video)
        return found is not None and found["digest"] == digest and video.stat().st_size == found["size"] and (
            sum_of(video) == found["sha256"])
    except OSError:
        return False


def check_place(job: Job, folder: Path) -> None:
    """Raise ValueError where the video, or the record beside it, would take the place of what is not ours."""
    video = folder / f"{job.name}.mp4"
    for path in (video, record_of(video)):
        if path.exists() and any(path.samefile(file) for file in job.files()):
            raise ValueError(f"{path} is what {job.name} is made of, and the place of its video: choose another --to "
                             "or name")
    if record_of(video).exists() and read_record(video) is None:
        raise ValueError(f"{record_of(video)} is no record of a video: move it away, or choose another --to or name")


def read_record(video: Path) -> dict | None:
    """What lies beside a video that was put there; None where that is something else. Raises OSError."""
    try:
        found = json.loads(record_of(video).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and {"digest", "size", "sha256"} <= set(found) else None


def say_nothing(words: str) -> None:
    """For who wants no words."""


def render(client: Client, job: Job, folder: Path, on_event: OnEvent | None = None, say: Say = say_nothing) -> str:
    """Make the job's video in `folder`, or find it made. How: "there", "fetched" or "made"; `say` gets words on the
    way.

    Raises what Client.run raises, NotWhole, OSError where the folder cannot be written, and ValueError where the
    workflow has no place for what the job says, or a file of the user's stands in the video's.
    """
    digest = job.digest()
    if is_finished(job, folder, digest):
        return "there"
    folder.mkdir(parents=True, exist_ok=True)
    check_place(job, folder)
    prefix = job.prefix(digest)
    if fetch(client, name_on_server(prefix), job, folder, digest):
        return "fetched"
    queued = client.find_queued(lambda graph: has_prefix(graph, prefix))
    if queued:
        say("it is in the server's queue already")
        entry = client.attach(queued, on_event)
    else:
        entry = client.run(job.graph(client, digest).prompt(), on_event)
    if not fetch(client, finished_video(entry), job, folder, digest):
        raise NotWhole(f"{client.url} made {prefix} and has it no more, or not whole")
    return "made"


def render_through(servers: "Servers", job: Job, folder: Path, on_event: OnEvent | None = None,
                   say: Say = say_nothing) -> str:
    """The same where the server may be gone in between: it is brought back, and the take goes on."""
    gone, until = 0, time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return render(servers.client(), job, folder, on_event, say)
        except ServerGone as error:
            gone += 1
            if gone == ANSWERS:
                raise
            say(f"{error}; trying again")
            servers.bring_back()
        except PromptFailed as error:
            if "FolderBusy" not in error.exception_type or time.monotonic() > until:
                raise
            say("another server makes this take; waiting for it")
            time.sleep(LOOK_SECONDS)


class Servers:
    """A server that somebody else runs; it is waited for."""

    def __init__(self, url: str, patience_seconds: float):
        self._client, self._patience = Client(url), patience_seconds

    def client(self) -> Client:
        return self._client

    def bring_back(self) -> None:
        """Raises ServerGone where it does not come."""
        until = time.monotonic() + self._patience
        while True:
            try:
                self._client.get("/system_stats")
                return
            except ServerGone:
                if time.monotonic() > until:
                    raise
            time.sleep(1)


def name_on_server(prefix: str) -> dict[str, str]:
    """The file that the first finished take of that prefix has on the server."""
    return {"filename": f"{Path(prefix).name}_00001_.mp4", "subfolder": FOLDER, "type": "output"}


def has_prefix(graph: dict, prefix: str) -> bool:
    return any(node.inputs.get("filename_prefix") == prefix for node in Graph(graph).nodes())


def fetch(client: Client, file: dict, job: Job, folder: Path, digest: str) -> bool:
    """Bring a video from the server, whole, under the job's name; False where it is not there, or cut short."""
    video = folder / f"{job.name}.mp4"
    draft = folder / f"{job.name}.{uuid.uuid4().hex[:8]}.mp4.part"   # two may fetch it; in containers, of one PID
    try:
        if not client.save(file, draft) or not is_whole(draft):
            return False
        keep_earlier(video, draft)
        record = {"digest": digest, "size": draft.stat().st_size, "sha256": sum_of(draft), "server": client.url, **file}
        os.replace(draft, video)
        note = draft.with_suffix(".json")
        note.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(note, record_of(video))
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    return True


def record_of(video: Path) -> Path:
    return video.with_suffix(".json")


def keep_earlier(video: Path, new: Path) -> None:
    """A video of that name and other content gets the next free name: nothing that was made is written over."""
    if not video.exists() or sum_of(video) == sum_of(new):
        return
    places = (video.with_name(f"{video.stem}.earlier-{number}.mp4") for number in count(1))
    os.replace(video, next(place for place in places if not place.exists()))


def is_whole(path: Path) -> bool:
    """Whether an MP4 ends where its boxes do: a copy that was cut short does not."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        place, kinds = 0, set()
        while place < size:
            file.seek(place)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if len(head) < 8 or length < 8:
                return False
            kinds.add(head[4:8])
            place += length
    return place == size and {b"moov", b"mdat"} <= kinds


