// Tables of this pack's help pages are as wide as the side panel: long names break instead of running out of it.
import { app } from "../../scripts/app.js";
import { addStyle } from "./nodes.js";

const OURS = `:has(img[src*="/docs/wiring_Lodestar"], img[src*="/docs/layout_"])`; // every page of ours has one
const CSS = `.node-help-content${OURS} :is(th, td) { overflow-wrap: anywhere; }`;

app.registerExtension({
  name: "lodestar.help",
  setup() { addStyle("lodestar-help", CSS); },
});
