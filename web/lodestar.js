// What Lodestar's nodes answered as `ui.text` stands in them as ComfyUI's own progress text, on the canvas and in Nodes 2.0,
// as Long Take's progress does, and stays when the run is over: newer pages take it away then.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { nodeAt } from "./nodes.js";

const lines = new Map(); // by node id: {node, text} of this run

function keepLines() {
  setTimeout(() => { // behind the page's own listeners
    for (const [nodeId, { node, text }] of lines)
      if (nodeAt(nodeId) === node) api.dispatchCustomEvent("progress_text", { nodeId, text });
  });
}

app.registerExtension({
  name: "lodestar.progress",
  nodeCreated(node) { // Nodes 2.0 takes the picture of a node with a VIDEO input for a video
    const gives = type => node.outputs?.some(output => output.type === type);
    if (node.comfyClass?.startsWith("Lodestar") && gives("IMAGE") && !gives("VIDEO")) node.previewMediaType = "image";
  },
  setup() {
    api.addEventListener("execution_start", () => lines.clear());
    api.addEventListener("progress_text", ({ detail }) => {
      const node = nodeAt(detail.nodeId);
      if (node?.comfyClass?.startsWith("Lodestar")) lines.set(String(detail.nodeId), { node, text: detail.text });
    });
    for (const kind of ["execution_success", "execution_interrupted", "execution_error"])
      api.addEventListener(kind, keepLines);
    api.addEventListener("executing", ({ detail }) => { if (detail === null) keepLines(); });
    api.addEventListener("executed", ({ detail }) => {
      const node = detail.display_node ?? detail.node, text = detail.output?.text;
      if (text && nodeAt(node)?.comfyClass?.startsWith("Lodestar"))
        api.dispatchCustomEvent("progress_text", { nodeId: String(node), text: [text].flat().join("\n") });
    });
  },
});
