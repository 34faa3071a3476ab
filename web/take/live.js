// Long Take while it works: each `lodestar.chunk` event names the folder of the finished chunks, which the node plays; its
// buttons ask the running take to stop or keep (POST /lodestar/take), or write [again] into Plan Take's script and queue.
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

function addLive(node) {
  const live = { node, state: null, places: {} };
  live.ask = async request => (await api.fetchApi("/lodestar/take", { method: "POST", body: JSON.stringify({
    folder: live.state.folder, request }) })).ok;
  live.panel = new Panel({
    url: chunk => live.state.folder && api.apiURL(`/view?${new URLSearchParams({
      filename: `chunk_${String(chunk).padStart(4, "0")}.mp4`, subfolder: live.state.folder, type: "output" })}`),
    ask: live.ask,
    again: chunk => makeAgain(occupantOf(node), chunk, live) });
  live.widget = addPanel(node, "live", live.panel.element, () => live.panel.height);
  live.show = state => {
    const before = live.panel.height;
    live.state = state;
    live.panel.show(state);
    const target = occupantOf(node), grown = live.panel.height - before;
    if (grown > 0 && target.size) target.setSize([target.size[0], Math.max(target.size[1], target.computeSize()[1])]);
    target.graph?.setDirtyCanvas?.(true, true);
  };
  lives.add(live);
  const { onRemoved } = node;
  node.onRemoved = function (...all) {
    live.removed = true;
    onRemoved?.apply(this, all);
  };
  node.setSize?.([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
}

function follow(detail) {
  const node = detail.node && nodeAt(detail.node), over = detail.chunk >= detail.chunks;
  for (const live of lives) {
    if (live.removed && !live.panel.element.isConnected) lives.delete(live);
    if (!lives.has(live) || occupantOf(live.node) !== node) continue;
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
    for (const kind of ["execution_interrupted", "execution_error", "execution_success"])
      api.addEventListener(kind, () => {
        for (const live of lives)
          if (live.state && !live.state.over) live.show({ ...live.state, over: true,
            text: `${live.state.finished} of ${live.state.chunks} chunks are finished; queue again to go on` });
      });
  },
});
