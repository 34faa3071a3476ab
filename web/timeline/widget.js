// Plan Take's timeline: a panel in place of the script's text box, which edits that text and nothing else. What the node
// answered to its last run (`lodestar_plan`) is drawn with it, as long as the page is open.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { addPanel, addStyle, nodeAt, occupantOf, setWidget, widgetOf } from "../nodes.js";
import { CSS, Editor } from "./editor.js";

const PLAN_TAKE = "LodestarPlanTake", LEAST = 76, ROOM = 150;
const UNDO_MS = 5000; // an undo loads the whole graph again: for so long the plans of the nodes before it are for those behind
const plans = new WeakMap(), left = new Map(), editors = new Set();

const LOADERS = { keyframe: { loader: "LoadImage", input: "image" }, driving: { loader: "LoadVideo", input: "file" } };
const OTHERS = { keyframe: "picture.png", driving: "video.mp4" };
const files = { keyframe: [], driving: [] }; // in ComfyUI's input folder

async function listFiles([kind, { loader, input }]) {
  const answer = await api.fetchApi(`/object_info/${loader}`);
  const [found, options] = (await answer.json())[loader]?.input.required[input] ?? [[]];
  files[kind] = Array.isArray(found) ? found : options?.options ?? [];
}

export function planOf(node) {
  return plans.get(node);
}

function refreshAll() {
  for (const editor of editors)
    if (editor.element.isConnected) editor.refresh();
    else if (editor.wasShown) editors.delete(editor);
}

function addTimeline(node) {
  const script = widgetOf(node, "script");
  if (!script) return;
  const here = () => occupantOf(node);
  const editor = new Editor({
    read: () => widgetOf(here(), "script")?.value ?? "",
    write: text => setWidget(here(), widgetOf(here(), "script"), text),
    plan: () => plans.get(here()),
    seconds: () => widgetOf(here(), "max_seconds")?.value,
    files: kind => files[kind],
    firstFile: kind => files[kind][0] ?? OTHERS[kind],
    pictureUrl: name => {
      const parts = name.split("/"), filename = parts.pop();
      return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder: parts.join("/"), type: "input" })}`);
    } });
  editors.add(editor);
  addPanel(node, "timeline", editor.element, () => LEAST);
  script.hidden = script.options.hidden = true;
  if (script.element) script.element.hidden = true;
  const { onConfigure, onRemoved } = node, changed = script.callback;
  node.onConfigure = function (...all) {
    onConfigure?.apply(this, all);
    const before = left.get(this.id);
    if (before && Date.now() - before.at < UNDO_MS && !plans.has(this)) plans.set(this, before.plan);
    refreshAll();
  };
  node.onRemoved = function (...all) {
    if (plans.has(this)) left.set(this.id, { plan: plans.get(this), at: Date.now() });
    onRemoved?.apply(this, all);
  };
  script.callback = function (...all) {
    changed?.apply(this, all);
    refreshAll();
  };
  node.setSize?.([Math.max(node.size[0], 380), Math.max(node.size[1], node.computeSize()[1]) + ROOM]);
}

app.registerExtension({
  name: "lodestar.timeline",
  nodeCreated(node) {
    if (node.comfyClass === PLAN_TAKE) addTimeline(node);
  },
  async setup() {
    addStyle("lodestar-timeline", CSS);
    api.addEventListener("executed", ({ detail }) => {
      const node = nodeAt(detail.display_node ?? detail.node), [plan] = detail.output?.lodestar_plan ?? [];
      if (!plan || node?.comfyClass !== PLAN_TAKE) return;
      plans.set(node, JSON.parse(plan));
      refreshAll();
    });
    await Promise.all(Object.entries(LOADERS).map(listFiles));
  },
});
