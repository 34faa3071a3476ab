// The line of text in the Long Take node is ComfyUI's own progress text. `lodestar.chunk` is for API clients; the page only
// has to know the name, or it would call every one of these messages unhandled.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

app.registerExtension({
  name: "lodestar.progress",
  setup() {
    api.addEventListener("lodestar.chunk", () => {});
  },
});
