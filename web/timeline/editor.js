// The timeline's element: it shows a script and a plan, and hands over a new script with every edit. It keeps nothing but
// where one looks, what is chosen and what is being dragged.
import { make } from "../nodes.js";
import { draw, layOut } from "./drawing.js";
import { add, change, clock, nearest, parse, remove } from "./story.js";

export const CSS = `
.lodestar-timeline { display: flex; flex-direction: column; width: 100%; height: 100%; min-height: 76px; gap: 2px;
  box-sizing: border-box; background: #20252c; border-radius: 6px; color: #dfe6ef; font: 11px sans-serif; overflow: hidden; }
.lodestar-timeline canvas { flex: 1 1 0; width: 100%; min-height: 0; display: block; cursor: default; outline: none; }
.lodestar-timeline canvas:focus { box-shadow: inset 0 0 0 1px #5b8def; }
.lodestar-timeline textarea { flex: 1 1 0; min-height: 0; resize: none; border: 0; padding: 4px; background: #181c21;
  color: inherit; font: 12px monospace; white-space: pre; }
.lodestar-timeline .bar { display: flex; gap: 3px; padding: 2px; align-items: center; }
.lodestar-timeline .bar input, .lodestar-timeline .bar button { height: 20px; box-sizing: border-box; font: inherit;
  border: 1px solid #3a424d; border-radius: 4px; background: #181c21; color: inherit; padding: 0 5px; }
.lodestar-timeline .bar .time { width: 56px; flex: none; }
.lodestar-timeline .bar .value { flex: 1 1 40px; min-width: 0; }
.lodestar-timeline .bar button { cursor: pointer; flex: none; }
.lodestar-timeline .bar .problem { color: #f0a08a; flex: 1 1 40px; overflow: hidden; white-space: nowrap; }
.lodestar-timeline [hidden] { display: none; }`;
const NEW = { prompt: "what happens", keyframe: "", anchor: "0.5 s", driving: "" };
const NAMES = { prompt: "+ prompt", keyframe: "+ picture", anchor: "+ anchor", driving: "+ clip" };
const TITLES = { prompt: "prompt", keyframe: "picture to move towards", anchor: "distance of the anchor",
  driving: "video whose movement the person follows (Wan-Animate)" };
let editors = 0;

export class Editor {
  // `read()`: the script; `write(text)`: the new one; `seconds()`: of the take as far as it is known; `plan()`;
  // `pictureUrl(name)`: of a picture in the input folder; `files(kind)`, `firstFile(kind)`: what a mark may name.
  constructor(host) {
    this.host = host;
    this.view = null;             // [from, to] seconds; null: the whole take
    this.chosen = null;           // {kind, seconds}
    this.drag = null;
    this.pictures = new Map();
    this.canvas = make("canvas", { tabIndex: 0, ariaLabel: "Timeline of the story" });
    this.canvas.dataset.captureWheel = "true";
    this.text = make("textarea", { hidden: true, spellcheck: false, placeholder: "0:00 she smiles\n0:12.5 she laughs" });
    this.time = make("input", { className: "time", title: "When, in the take: 0:12.5" });
    this.value = make("input", { className: "value", title: "Its text, picture, distance or video" });
    this.names = make("datalist", { id: `lodestar-files-${++editors}` });
    this.value.setAttribute("list", this.names.id);
    this.problem = make("span", { className: "problem" });
    const buttons = Object.keys(NEW).map(kind => make("button", {
      className: `add-${kind}`, textContent: NAMES[kind], title: `A new ${TITLES[kind]} in the middle of what is shown`,
      onclick: () => this.insert(kind, this.middle()) }));
    this.mode = make("button", { className: "as-text", textContent: "script", title: "Show the script itself",
      onclick: () => this.showText(this.text.hidden) });
    this.bar = make("div", { className: "bar" }, this.time, this.value, this.names, this.problem, ...buttons, this.mode);
    this.element = make("div", { className: "lodestar-timeline" }, this.canvas, this.text, this.bar);
    this.listen();
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", event => this.press(event));
    canvas.addEventListener("pointermove", event => this.move(event));
    canvas.addEventListener("pointerup", event => this.release(event));
    canvas.addEventListener("pointercancel", () => { this.drag = null; this.refresh(); });
    canvas.addEventListener("dblclick", event => this.open(event));
    canvas.addEventListener("wheel", event => this.zoom(event), { passive: false });
    canvas.addEventListener("keydown", event => this.key(event));
    this.time.addEventListener("change", () => this.retime());
    this.value.addEventListener("change", () => this.edit({ value: this.value.value }));
    this.text.addEventListener("change", () => this.commit(this.text.value));
    for (const input of [this.time, this.value, this.text])
      input.addEventListener("keydown", event => event.stopPropagation());
    new ResizeObserver(() => this.refresh()).observe(canvas);
  }

  get story() { return parse(this.drag?.text ?? this.host.read()); }
  get seconds() {
    const last = this.story.events.at(-1)?.seconds ?? 0;
    return this.host.plan()?.seconds ?? Math.max(this.host.seconds() || 0, last + 5, 10);
  }
  get span() { return this.view ?? [0, this.seconds * 1.04]; }
  get event() { return this.chosen ? nearest(this.drag?.text ?? this.host.read(), this.chosen.kind, this.chosen.seconds) : null; }

  middle() {
    const [from, to] = this.span;
    return Math.min(Math.round((from + to) / 2 * 10) / 10, Math.max(this.seconds - 0.1, 0));
  }

  commit(text) {
    this.drag = null;
    this.host.write(text);
    this.refresh();
  }

  choose(event) {
    this.chosen = event && { kind: event.kind, seconds: event.seconds };
    this.refresh();
  }

  insert(kind, seconds) {
    const text = add(this.host.read(), { kind, seconds, value: NEW[kind] || this.host.firstFile(kind) });
    this.chosen = { kind, seconds };
    this.commit(text);
    this.value.focus();
    this.value.select();
  }

  edit(changes) {
    const event = this.event;
    if (!event || (changes.value !== undefined && !changes.value.trim() && event.kind !== "anchor" && event.kind !== "again"))
      return this.refresh();
    this.chosen = { kind: event.kind, seconds: changes.seconds ?? event.seconds };
    this.commit(change(this.host.read(), event, changes));
  }

  retime() {
    const found = parse(`${this.time.value.trim()} x`).events[0];
    if (found && this.time.value.includes(":")) this.edit({ seconds: found.seconds });
    else this.refresh();
  }

  drop() {
    const event = this.event;
    if (!event) return;
    this.chosen = null;
    this.commit(remove(this.host.read(), event));
  }

  // Of a pointer in CSS pixels of the element, however much the page has scaled it.
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * this.canvas.clientWidth,
      (event.clientY - box.top) / box.height * this.canvas.clientHeight];
  }

  secondsAt(x) {
    const [from, to] = this.span;
    return from + x / this.canvas.clientWidth * (to - from);
  }

  markAt([x, y]) {
    return this.marks.filter(mark => x >= mark.x - 3 && x <= mark.x + Math.max(mark.width, 8) && y >= mark.y - 1 &&
      y <= mark.y + mark.height + 1).at(-1);
  }

  press(event) {
    if (event.button) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture?.(event.pointerId);
    const at = this.place(event), mark = this.markAt(at);
    this.drag = { x: at[0], span: this.span, moved: false, event: mark?.event };
    this.choose(mark?.event ?? null);
  }

  move(event) {
    if (!this.drag) return;
    const [x] = this.place(event), by = (x - this.drag.x) / this.canvas.clientWidth * (this.drag.span[1] - this.drag.span[0]);
    if (!this.drag.moved && Math.abs(x - this.drag.x) < 3) return;
    this.drag.moved = true;
    if (!this.drag.event) {
      this.look(this.drag.span[0] - by, this.drag.span[1] - by);
      return;
    }
    const seconds = Math.max(0, Math.round((this.drag.event.seconds + by) * 20) / 20);
    this.drag.text = change(this.host.read(), this.drag.event, { seconds });
    this.chosen = { kind: this.drag.event.kind, seconds };
    this.refresh();
  }

  release() {
    const text = this.drag?.text;
    this.drag = null;
    if (text !== undefined) this.commit(text);
    else this.refresh();
  }

  open(event) {
    const at = this.place(event), rows = layOut(this.canvas.clientHeight, this.story.events), seconds = Math.round(this.secondsAt(at[0]) * 10) / 10;
    if (this.markAt(at)) return this.value.focus();
    const inside = row => rows[row] && at[1] >= rows[row][0] && at[1] < rows[row][0] + rows[row][1];
    this.insert(inside("keyframes") ? "keyframe" : inside("anchors") ? "anchor" : inside("driving") ? "driving" : "prompt", Math.max(seconds, 0));
  }

  zoom(event) {
    event.preventDefault();
    event.stopPropagation();
    const [from, to] = this.span, at = this.secondsAt(this.place(event)[0]), factor = 1.2 ** Math.sign(event.deltaY);
    if (event.shiftKey || event.deltaX) {
      const by = (event.deltaX || event.deltaY) / this.canvas.clientWidth * (to - from);
      return this.look(from + by, to + by);
    }
    this.look(at - (at - from) * factor, at + (to - at) * factor);
  }

  look(from, to) {
    const most = this.seconds * 1.04, span = Math.min(Math.max(to - from, 0.5), most);
    const start = Math.min(Math.max(from, 0), most - span);
    this.view = span >= most ? null : [start, start + span];
    this.refresh();
  }

  key(event) {
    const event_ = this.event, [from, to] = this.span, step = event.shiftKey ? 1 : 0.1;
    const keys = {
      ArrowLeft: () => event_ ? this.edit({ seconds: Math.max(event_.seconds - step, 0) }) : this.look(from - step * 5, to - step * 5),
      ArrowRight: () => event_ ? this.edit({ seconds: event_.seconds + step }) : this.look(from + step * 5, to + step * 5),
      ArrowUp: () => this.walk(-1), ArrowDown: () => this.walk(1), Delete: () => this.drop(), Backspace: () => this.drop(),
      Enter: () => this.value.focus(), Escape: () => this.choose(null), "+": () => this.look(from + (to - from) / 10, to - (to - from) / 10),
      "-": () => this.look(from - (to - from) / 8, to + (to - from) / 8) };
    if (event.ctrlKey || event.metaKey || !keys[event.key]) return; // undo is the page's own
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  }

  walk(by) {
    const { events } = this.story, now = events.findIndex(one => one.first === this.event?.first);
    this.choose(events[(Math.max(now, by < 0 ? 0 : -1) + by + events.length) % events.length] ?? null);
  }

  showText(on) {
    this.text.hidden = !on;
    this.canvas.hidden = on;
    this.mode.textContent = on ? "drawn" : "script";
    this.refresh();
    if (on) this.text.focus();
  }

  picture(name) {
    let image = this.pictures.get(name);
    if (!image) {
      image = make("img", { onload: () => this.refresh(), src: this.host.pictureUrl(name) });
      this.pictures.set(name, image);
    }
    return image.complete && image.naturalWidth ? image : null;
  }

  offer(names) { // files, to choose a mark's value from
    if (names === this.offered) return;
    this.offered = names;
    this.names.replaceChildren(...names.map(value => make("option", { value })));
  }

  refresh() {
    const { events, problem } = this.story, { canvas } = this, [from, to] = this.span, event = this.event;
    const ratio = Math.min(globalThis.devicePixelRatio || 1, 2), width = canvas.clientWidth, height = canvas.clientHeight;
    this.problem.textContent = problem;
    this.problem.hidden = !problem;
    this.time.hidden = this.value.hidden = !event || Boolean(problem) || !this.text.hidden;
    this.offer(this.host.files(event?.kind === "driving" ? "driving" : "keyframe"));
    if (event && document.activeElement !== this.time) this.time.value = clock(event.seconds);
    if (event && document.activeElement !== this.value) this.value.value = event.value;
    if (document.activeElement !== this.text) this.text.value = this.host.read();
    this.wasShown ||= this.element.isConnected;
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio))
      Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const chosen = event ? events.findIndex(one => one.first === event.first) : -1;
    this.marks = draw(context, width, height, { events, plan: this.host.plan(), seconds: this.seconds, from, to, chosen,
      pictures: name => this.picture(name) });
  }
}
