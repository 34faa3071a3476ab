// Long Take while it works: each `lodestar.chunk` event names the folder of the finished chunks, which the node plays; its
// buttons ask the running take to stop or keep (POST /lodestar/take), or write [again] into Plan Take's script and queue.
// Boxes (subgraph nodes) around a Long Take show the same, and its finished video, which core shows in the node alone.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { addPanel, addStyle, nodeAt, occupantOf, originOf, setWidget, widgetOf } from "../nodes.js";
import { add, change, nearest, parse } from "../timeline/story.js";
import { planOf } from "../timeline/widget.js";
import { CSS, Panel } from "./panel.js";

const LONG_TAKE = "LodestarLongTake";
const lives = new Set();

function nodesOf(graph) {
  return (graph?.nodes ?? []).flatMap(node => [node, ...nodesOf(node.subgraph)]);
}

// Behind `plan`; across the border of a subgraph the only one there is.
function planTakeOf(node) {
  const origin = originOf(node, "plan");
  if (origin?.comfyClass === "LodestarPlanTake") return origin;
  const all = nodesOf(app.rootGraph ?? app.graph).filter(one => one.comfyClass === "LodestarPlanTake");
  return all.length === 1 ? all[0] : null;
}

// A script in which the chunk from `start` to `end` seconds is made again with a noise it has not had yet.
export function scriptAgain(text, start, end) {
  const inside = parse(text).events.find(one => one.kind === "again" && one.seconds >= start && one.seconds < end);
  if (inside) return change(text, nearest(text, "again", inside.seconds), { value: String(Number(inside.value || 1) + 1) });
  return add(text, { kind: "again", seconds: Math.round((start + end) / 2 * 100) / 100, value: "" });
}

function makeAgain(node, chunk, live) {
  const plan = planTakeOf(node), script = widgetOf(plan, "script"), place = planOf(plan)?.chunks[chunk] ?? live.places[chunk];
  if (!script || !place) {
    live.panel.line.textContent = "no Plan Take with a plan is connected; queue once, then choose the chunk";
    return;
  }
  if (!live.state.over) live.ask("keep");
  setWidget(node, widgetOf(node, "keep_chunks"), true);
  setWidget(plan, script, scriptAgain(script.value ?? "", place.start, place.end));
  app.queuePrompt(0);
}

// The boxes (subgraph nodes) in which the node of a path stands, the outermost first.
function boxesOf(path) {
  const parts = String(path).split(":");
  return parts.slice(1).map((_, index) => nodeAt(parts.slice(0, index + 1).join(":"))).filter(Boolean);
}

// Of a Long Take, shown in the node itself or in a box around it.
function addLive(node, box = null) {
  const live = { node, box, state: null, places: {} }, shown = box ?? node;
  live.ask = async request => (await api.fetchApi("/lodestar/take", { method: "POST", body: JSON.stringify({
    folder: live.state.folder, request }) })).ok;
  live.panel = new Panel({
    url: chunk => live.state.folder && api.apiURL(`/view?${new URLSearchParams({
      filename: `chunk_${String(chunk).padStart(4, "0")}.mp4`, subfolder: live.state.folder, type: "output" })}`),
    ask: live.ask,
    startOf: chunk => live.places[chunk]?.start,
    again: chunk => makeAgain(occupantOf(node), chunk, live) });
  live.widget = addPanel(shown, "live", live.panel.element, () => live.panel.height);
  live.change = act => {
    const before = live.panel.height;
    act();
    const target = occupantOf(shown), grown = live.panel.height - before;
    if (grown > 0 && target.size) target.setSize([target.size[0], Math.max(target.size[1], target.computeSize()[1])]);
    target.graph?.setDirtyCanvas?.(true, true);
  };
  live.show = state => live.change(() => {
    live.state = state;
    live.panel.show(state);
  });
  lives.add(live);
  const { onRemoved } = shown;
  shown.onRemoved = function (...all) {
    live.removed = true;
    onRemoved?.apply(this, all);
  };
  shown.setSize?.([shown.size[0], Math.max(shown.size[1], shown.computeSize()[1])]);
  return live;
}

// Those of the node of a path, and of each box around it.
function livesOf(path) {
  const node = path && nodeAt(path), boxes = boxesOf(path);
  if (node?.comfyClass !== LONG_TAKE) return [];
  for (const live of lives) if (live.removed && !live.panel.element.isConnected) lives.delete(live);
  const found = [...lives].filter(live => occupantOf(live.node) === node && (!live.box || boxes.includes(occupantOf(live.box))));
  return [...found, ...boxes.filter(box => !found.some(live => live.box && occupantOf(live.box) === box)).map(
    box => addLive(node, box))];
}

function follow(detail) {
  const over = detail.chunk >= detail.chunks;
  for (const live of livesOf(detail.node)) {
    if (detail.seconds) live.places[detail.chunk] = { start: detail.seconds[0], end: detail.seconds[1] };
    live.show({ ...detail, finished: over ? detail.chunks : detail.finished, over, text: over ? "finished" : undefined });
  }
}

app.registerExtension({
  name: "lodestar.take",
  nodeCreated(node) {
    if (node.comfyClass === LONG_TAKE) addLive(node);
  },
  setup() {
    addStyle("lodestar-take", CSS);
    api.addEventListener("lodestar.chunk", ({ detail }) => follow(detail));
    api.addEventListener("executed", ({ detail }) => {
      const [video] = detail.output?.images ?? [];
      for (const live of video ? livesOf(detail.node) : [])
        if (live.box) live.change(() => live.panel.showWhole(api.apiURL(`/view?${new URLSearchParams(video)}`)));
    });
    for (const kind of ["execution_interrupted", "execution_error", "execution_success"])
      api.addEventListener(kind, () => {
        for (const live of lives)
          if (live.state && !live.state.over) live.show({ ...live.state, over: true,
            text: `${live.state.finished} of ${live.state.chunks} chunks are finished; queue again to go on` });
      });
  },
});
