"""What a template's thumbnail shows: frames of its own result where its weights are in the pack, else its plan as the
timeline of Plan Take draws it: the person, the speech, the chunks with what they repeat, the anchors, the story."""
import json
import re
from pathlib import Path
from typing import Any

from lib import comfy_server, workflow_inputs
from lib.graph import Graph

SIZE, BELOW = (640, 360), (24, 108, 616, 348)       # of the thumbnail and of its picture: left, top, right, bottom
PAPER, SOFT, LINE = "#171718", "#b8b8b8", "#3a424d"
WAVE, CHUNKS, REPEATED, ANCHOR = "#6fa0d8", ("#39506e", "#4a678f"), "#9cc4ff", "#58b368"
STORY = {"keyframe": "#e0a33a", "prompt": "#5b8def"}
FACE, GAP, SECONDS = 150, 20, 20        # pixels of the person's column and of what is behind it; of the plan's time
HIGH = 32                               # pixels of a chunk
OF_THE_PACK = "lodestar_puppet"         # how the weights are called that need no download
SPEECH_SECONDS = 4                      # of a take that is made to be shown


def draw_thumbnail(title: str, line: str, graph: Graph, server: comfy_server.Server):
    """A PIL picture: the title, what the template does, and what it makes."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps
    made = Image.new("RGB", SIZE, PAPER)
    pen = ImageDraw.Draw(made)
    pen.text((24, 16), title, "white", ImageFont.load_default(32))
    pen.text((24, 70), line, SOFT, ImageFont.load_default(18))
    shown = frames_of(graph, server) if is_free(graph) else plan_of(graph, server)
    fitted = ImageOps.contain(shown, (BELOW[2] - BELOW[0], BELOW[3] - BELOW[1]))
    made.paste(fitted, ((SIZE[0] - fitted.width) // 2, (BELOW[1] + BELOW[3] - fitted.height) // 2))
    return made


def is_free(graph: Graph) -> bool:
    """Whether everything it loads is in the pack."""
    return any(node.inputs["model_name"].startswith(OF_THE_PACK) for node in graph.all("LodestarLoadLongCat"))


def frames_of(graph: Graph, server: comfy_server.Server):
    """Four frames of what it makes, side by side."""
    from PIL import Image
    workflow_inputs.set_seconds(graph, SPEECH_SECONDS)
    file = comfy_server.finished_video(server.run(graph.prompt()))
    frames = frames_in(server.base / file["type"] / file["subfolder"] / file["filename"])
    chosen = frames[len(frames) // 8::len(frames) // 4][:4]
    strip = Image.new("RGB", (sum(frame.width for frame in chosen), chosen[0].height))
    for number, frame in enumerate(chosen):
        strip.paste(frame, (number * frame.width, 0))
    return strip


def plan_of(graph: Graph, server: comfy_server.Server):
    """The person that goes in, and the plan of the take."""
    from PIL import Image, ImageDraw, ImageOps
    width, height = BELOW[2] - BELOW[0], BELOW[3] - BELOW[1]
    made = Image.new("RGB", (width, height), PAPER)
    person = ImageOps.contain(picture_of(graph), (FACE, height))
    made.paste(person, (0, (height - person.height) // 2))
    if (plan := ask_plan(graph, server)) is not None:
        draw_plan(ImageDraw.Draw(made), (FACE + GAP, 0, width, height), plan, graph)
        if graph.all("LodestarDrivingVideo"):
            for number, frame in enumerate(frames_in("poses.mp4")[::12][:6]):
                made.paste(ImageOps.fit(frame, (56, 52)), (FACE + GAP + 66 * number, 166))
    else:
        draw_larger(ImageDraw.Draw(made), (FACE + GAP, 0, width, height))
    return made


def draw_larger(pen, box: tuple[int, int, int, int]) -> None:
    """What refining adds: each frame becomes two larger ones. No picture stands in for what a model would make."""
    left, top, right, bottom = box
    middle = (top + bottom) // 2
    pen.line([(left, middle), (left + 50, middle)], SOFT, 3)
    pen.polygon([(left + 50, middle - 8), (left + 64, middle), (left + 50, middle + 8)], SOFT)
    for back in (1, 0):
        corner = (left + 90 + 24 * back, top + 24 - 20 * back)
        pen.rectangle([corner, (corner[0] + 290, corner[1] + 190)], CHUNKS[back], REPEATED, 2)
    pen.text((left + 108, bottom - 52), "720p, two frames for each", "white", font(18))


def picture_of(graph: Graph):
    """What goes in: the picture of Sample Person, else a frame of Sample Video."""
    from PIL import Image
    people = json.loads((workflow_inputs.ASSETS / "people.json").read_text(encoding="utf-8"))
    for person in graph.all("LodestarSamplePerson"):
        return Image.open(workflow_inputs.ASSETS / people[person.inputs["person"]]["picture"]).convert("RGB")
    return frames_in("talking.mp4")[0]


def frames_in(video: str | Path) -> list:
    """Of a file, or of one of the pack's: PIL pictures."""
    import av
    with av.open(str(workflow_inputs.ASSETS / video)) as container:     # an absolute path stays as it is
        return [frame.to_image() for frame in container.decode(video=0)]


def ask_plan(graph: Graph, server: comfy_server.Server) -> dict[str, Any] | None:
    """What Plan Take tells the page of the workflow's plan; None where there is none."""
    plans = graph.all("LodestarPlanTake")
    if not plans:
        return None
    asked = Graph(graph.prompt())
    for anchor in asked.all("LodestarLookaheadAnchor"):     # the plan says how far ahead it stands
        asked.the("LodestarPlanTake").set(model=anchor[0])
    for encoder in asked.all("CLIPVisionLoader"):           # it decides nothing of a plan
        for node in asked.readers(encoder):
            node.unset(*[name for name, value in node.inputs.items() if value == encoder[0]])
    shown = asked.add("PreviewAny", source=plans[0][1])
    needed, wanted = {shown.id}, [shown.id]
    while wanted:
        inputs = asked.entries[wanted.pop()]["inputs"].values()
        before = {value[0] for value in inputs if isinstance(value, list)} - needed
        needed |= before
        wanted += before
    entry = server.run({id: node for id, node in asked.prompt().items() if id in needed})
    return json.loads(entry["outputs"][plans[0].id]["lodestar_plan"][0])


def draw_plan(pen, box: tuple[int, int, int, int], plan: dict[str, Any], graph: Graph) -> None:
    """Rows over one axis of time: the speech, chunks in turns on two rows, anchors ahead of them, the story."""
    left, top, right, bottom = box
    seconds = min(plan["seconds"], SECONDS)
    chunks = [chunk for chunk in plan["chunks"] if chunk["start"] < seconds]
    reach = max([seconds, *(chunk["end"] + (chunk["ahead"] or 0) for chunk in chunks)])

    def across(time: float) -> float:
        return left + min(time, reach) / reach * (right - left - 8)

    for time in range(0, int(reach) + 1, 5):
        pen.line([(across(time), top), (across(time), bottom - 18)], LINE)
        if across(time) + 30 < right:
            pen.text((across(time) + 3, bottom - 16), f"{time} s", SOFT, font(13))
    draw_wave(pen, plan, (top + 2, top + 70), across, seconds)
    for number, chunk in enumerate(chunks):
        draw_chunk(pen, chunk, number, top + 84 + 38 * (number % 2), across)
    draw_story(pen, graph, top + 168, across, seconds)


def draw_wave(pen, plan: dict[str, Any], rows: tuple[int, int], across, seconds: float) -> None:
    each = plan["seconds"] / max(len(plan["peaks"]), 1)
    middle, half, loudest = sum(rows) / 2, (rows[1] - rows[0]) / 2, max([*plan["peaks"], 1])
    for number, peak in enumerate(plan["peaks"]):
        if number * each < seconds:
            x, high = across(number * each), half * peak / loudest
            pen.line([(x, middle - high), (x, middle + high)], WAVE, 2)


def draw_chunk(pen, chunk: dict[str, Any], number: int, row: float, across) -> None:
    start, end = across(chunk["start"]), across(chunk["end"])
    pen.rectangle([(start, row), (max(end - 1, start + 1), row + HIGH)], CHUNKS[number % 2])
    if chunk["from"] < chunk["start"]:
        pen.rectangle([(across(chunk["from"]), row), (start, row + HIGH)], REPEATED)
    if end - start > 22:
        pen.text((start + 6, row + 7), str(number + 1), "white", font(15))
    if chunk["ahead"]:
        ahead, middle = across(chunk["end"] + chunk["ahead"]), row + HIGH / 2
        pen.line([(end, middle), (ahead, middle)], ANCHOR, 2)
        pen.polygon([(ahead, middle - 7), (ahead + 7, middle), (ahead, middle + 7), (ahead - 7, middle)], ANCHOR)


def draw_story(pen, graph: Graph, row: float, across, seconds: float) -> None:
    """What the script and the nodes say happens when."""
    script = str(graph.the("LodestarPlanTake").inputs.get("script", ""))
    events = [(60 * int(minutes) + float(rest), "prompt", words) for minutes, rest, words in re.findall(
        r"^(\d+):(\d\d(?:\.\d+)?) ([^\[\n]+)", script, re.M)]
    keyframes = graph.all("LodestarNarrativeKeyframe")
    events += [(float(node.inputs["at_seconds"]), "keyframe", "keyframe") for node in keyframes]
    for time, kind, words in events:
        if time < seconds:
            place = row + (26 if kind == "keyframe" else 0)
            behind = min([other for other, of, _ in events if of == kind and other > time], default=seconds)
            while font(12).getlength(words) > across(behind) - across(time) - 10:
                words = words[:-1]
            pen.rectangle([(across(time), place), (across(time) + 3, place + 20)], STORY[kind])
            pen.text((across(time) + 7, place + 2), words.strip(), SOFT, font(12))


def font(size: int):
    from PIL import ImageFont
    return ImageFont.load_default(size)
