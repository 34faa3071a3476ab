// Nodes and widgets of the page, found and drawn alike on the canvas and in Nodes 2.0. Nothing happens when it is loaded.
import { app } from "../../scripts/app.js";

export function nodeAt(id) { // "17:14" is node 14 in the subgraph of node 17
  return String(id).split(":").reduce((node, part) => (node?.subgraph ?? node)?.getNodeById?.(part),
    app.rootGraph ?? app.graph);
}

export function widgetOf(node, name) {
  return node?.widgets?.find(widget => widget.name === name);
}

// Sets a widget as a user would: the page's undo and its mark of an unsaved graph see it.
export function setWidget(node, widget, value) {
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  node.graph?.setDirtyCanvas?.(true, true);
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

// The node itself, or the one that has come into its place: after an undo, Nodes 2.0 keeps showing the elements of the first.
export function occupantOf(node) {
  return (node.graph ?? app.canvas?.graph)?.getNodeById?.(node.id) ?? node;
}

// The node behind a link into `name`, through subgraphs and reroutes where the page resolves them.
export function originOf(node, name) {
  const slot = node.inputs?.findIndex(input => input.name === name) ?? -1;
  if (slot < 0) return null;
  const link = node.graph?.getLink?.(node.inputs[slot].link) ?? node.graph?.links?.[node.inputs[slot].link];
  return link ? node.graph.getNodeById(link.origin_id) : node.getInputNode?.(slot) ?? null;
}

// An element: make("button", { textContent: "Keep", onclick }, ...children).
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// The last widget of a node, which is in no saved graph and no prompt.
export function addPanel(node, name, element, minHeight) {
  const widget = node.addDOMWidget(name, `lodestar_${name}`, element, {
    serialize: false, hideOnZoom: false, getMinHeight: minHeight, getValue: () => "", setValue: () => {} });
  widget.serialize = false;
  for (const kind of ["pointerdown", "pointermove", "pointerup", "wheel", "dblclick"])
    element.addEventListener(kind, event => event.stopPropagation());
  return widget;
}

const styles = new Set();

export function addStyle(name, css) {
  if (styles.has(name)) return;
  styles.add(name);
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
}
