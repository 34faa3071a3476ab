// Says in the Long Take node which chunk is being made, as ComfyUI's own progress text, on the canvas and in Nodes 2.0.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

function progressText({ chunk, chunks, frames_done, frames_total }) {
  const frames = `${frames_done} of ${frames_total} frames`;
  return chunk < chunks ? `Chunk ${chunk + 1} of ${chunks}, ${frames}` : `Finished: ${frames}`;
}

app.registerExtension({
  name: "lodestar.progress",
  setup() {
    api.addEventListener("lodestar.chunk", ({ detail }) =>
      api.dispatchCustomEvent("progress_text", { nodeId: String(detail.node), text: progressText(detail) }));
  },
});
