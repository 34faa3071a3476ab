// Take Report's node shows five figures; this line below them opens the full report, and the video at its worst moment.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { addPanel, addStyle, make, nodeAt, occupantOf } from "../nodes.js";

const TAKE_REPORT = "LodestarTakeReport", HEIGHT = 28;
const CSS = `
.lodestar-report { display: flex; align-items: flex-start; gap: 4px; width: 100%; min-height: 28px; font: 12px sans-serif; box-sizing: border-box; padding: 2px; }
.lodestar-report[hidden], .lodestar-report [hidden] { display: none; }
.lodestar-report a { flex: 1 1 0; text-align: center; padding: 3px; border: 1px solid #3a424d; border-radius: 4px; background: #181c21;
  color: #dfe6ef; text-decoration: none; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }`;
const lines = new Set();

function addLine(node) {
  const full = make("a", { className: "full", target: "_blank", rel: "noopener", textContent: "full report" });
  const worst = make("a", { className: "worst", target: "_blank", rel: "noopener" });
  const element = make("div", { className: "lodestar-report", hidden: true }, full, worst);
  addPanel(node, "opens", element, () => element.hidden ? 0 : HEIGHT);
  lines.add({ node, show: found => {
    element.hidden = false;
    const url = file => api.apiURL(`/view?${new URLSearchParams(file)}`);
    full.href = url(found.picture);
    worst.hidden = !found.video || found.worst === null;
    if (!worst.hidden) Object.assign(worst, { href: `${url(found.video)}#t=${Math.max(found.worst - 1, 0)}`,
      textContent: `worst moment, ${found.worst.toFixed(1)} s` });
    const here = occupantOf(node);
    here.setSize?.([here.size[0], Math.max(here.size[1], here.computeSize()[1])]);
  } });
  node.setSize?.([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
}

app.registerExtension({
  name: "lodestar.report",
  nodeCreated(node) {
    if (node.comfyClass === TAKE_REPORT) addLine(node);
  },
  setup() {
    addStyle("lodestar-report", CSS);
    api.addEventListener("executed", ({ detail }) => {
      const node = nodeAt(detail.display_node ?? detail.node), [found] = detail.output?.lodestar_report ?? [];
      for (const line of lines)
        if (found && occupantOf(line.node) === node) line.show(JSON.parse(found));
    });
  },
});
