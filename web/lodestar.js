// What Lodestar's nodes answered as `ui.text` stands in them as ComfyUI's own progress text, on the canvas and in Nodes 2.0,
// as Long Take's progress does.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { nodeAt } from "./nodes.js";

app.registerExtension({
  name: "lodestar.progress",
  nodeCreated(node) { // Nodes 2.0 takes the picture of a node with a VIDEO input for a video
    if (node.comfyClass === "LodestarTakeReport") node.previewMediaType = "image";
  },
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const node = detail.display_node ?? detail.node, text = detail.output?.text;
      if (text && nodeAt(node)?.comfyClass?.startsWith("Lodestar"))
        api.dispatchCustomEvent("progress_text", { nodeId: String(node), text: [text].flat().join("\n") });
    });
  },
});
