// What Long Take shows while it works: the finished chunks as they come, how far it is, and what can be asked of it.
import { make } from "../nodes.js";

export const CSS = `
.lodestar-take { display: flex; flex-direction: column; gap: 3px; width: 100%; height: 100%; min-height: 220px; padding: 4px;
  box-sizing: border-box; background: #20252c; border-radius: 6px; color: #dfe6ef; font: 11px sans-serif; overflow: hidden; }
.lodestar-take.over { min-height: 92px; }
.lodestar-take.whole { min-height: 290px; }
.lodestar-take[hidden], .lodestar-take [hidden] { display: none; }
.lodestar-take video { flex: 1 1 0; min-height: 0; width: 100%; background: #111418; border-radius: 4px; object-fit: contain; }
.lodestar-take .chunks { display: flex; gap: 1px; height: 20px; flex: none; }
.lodestar-take .chunks button { flex: 1 1 0; min-width: 0; padding: 0; border: 0; background: #2a3038; color: #8a93a0; font: 10px
  sans-serif; cursor: pointer; overflow: hidden; }
.lodestar-take .chunks .finished { background: #39506e; color: #eef2f7; }
.lodestar-take .chunks .now { background: #5b8def; color: #ffffff; }
.lodestar-take .chunks .again { box-shadow: inset 0 -3px #d9622b; }
.lodestar-take .chunks .chosen { outline: 1px solid #ffffff; outline-offset: -1px; }
.lodestar-take svg { height: 18px; flex: none; width: 100%; }
.lodestar-take .line { flex: none; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.lodestar-take .asks { display: flex; gap: 3px; flex: none; }
.lodestar-take .asks button { flex: 1 1 auto; height: 20px; border: 1px solid #3a424d; border-radius: 4px; background: #181c21;
  color: inherit; font: inherit; cursor: pointer; padding: 0 4px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.lodestar-take .asks button:disabled { opacity: 0.4; cursor: default; }`;
const FAR = 5, ANOTHER = 1 - 0.363; // CIEDE2000: another colour; a face that SFace takes for another person's

export class Panel {
  // `url(chunk)`: of a finished chunk's video, or null; `ask(request)`; `again(chunk)`.
  constructor(host) {
    this.host = host;
    this.state = null;
    this.chosen = null;    // a chunk, from 0
    this.playing = null;
    this.video = make("video", { muted: true, autoplay: true, playsInline: true, controls: false });
    this.video.addEventListener("ended", () => this.whole || this.play(this.next()));
    this.video.addEventListener("error", () => { this.playing = null; });
    this.chunks = make("div", { className: "chunks" });
    this.trace = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.line = make("div", { className: "line" });
    this.stop = make("button", { className: "stop", textContent: "stop after this",
      title: "After this chunk finish the file with what is there then; queue again to go on", onclick: () => this.ask("stop", this.stop) });
    this.keep = make("button", { className: "keep", textContent: "keep", title: "Keep the chunks when the video is finished, as keep_chunks does",
      onclick: () => this.ask("keep", this.keep) });
    this.again = make("button", { className: "again", onclick: () => this.host.again(this.chosen) });
    this.element = make("div", { className: "lodestar-take", hidden: true }, this.video, this.chunks, this.trace, this.line,
      make("div", { className: "asks" }, this.stop, this.keep, this.again));
  }

  get height() { return this.element.hidden ? 0 : this.whole ? 290 : this.state?.over ? 92 : 220; }

  // The finished video, in a node that has no other place for it.
  showWhole(url) {
    this.whole = url;
    this.element.hidden = this.video.hidden = false;
    this.element.classList.add("over", "whole");
    this.stop.hidden = this.keep.hidden = true;
    this.chunks.hidden = this.again.hidden = this.trace.hidden = !this.state;
    Object.assign(this.video, { src: url, controls: true, muted: false, autoplay: false }).dataset.url = url;
  }

  async ask(request, button) {
    button.disabled = await this.host.ask(request);
  }

  // {chunk, chunks, finished, colours, identity, identity_note, again, over, text}
  show(state) {
    const begun = !this.state || this.state.over;
    if (!state.over && this.whole) {
      this.whole = null;
      this.element.classList.remove("whole");
      Object.assign(this.video, { controls: false, muted: true, autoplay: true });
    }
    this.state = state;
    this.element.hidden = false;
    this.element.classList.toggle("over", Boolean(state.over));
    this.stop.hidden = this.keep.hidden = Boolean(state.over);
    this.video.hidden = Boolean(state.over) && !this.whole;
    this.chunks.hidden = this.again.hidden = false;
    if (state.over && !this.whole) this.video.pause();
    if (begun && !state.over) {
      this.stop.disabled = this.keep.disabled = false;
      this.playing = null;
    }
    if (this.chosen !== null && this.chosen >= state.chunks) this.chosen = null;
    if (this.playing === null && state.finished && !state.over) this.play(state.finished - 1);
    this.refresh();
  }

  next() {
    if (this.chosen !== null) return this.chosen;
    const after = (this.playing ?? -1) + 1;
    return after < this.state.finished ? after : this.state.finished - 1;
  }

  play(chunk) {
    const url = chunk >= 0 && chunk < this.state.finished && !this.state.over && this.host.url(chunk);
    if (!url) return;
    this.playing = chunk;
    if (this.video.dataset.url === url) this.video.currentTime = 0;
    else Object.assign(this.video, { src: url }).dataset.url = url;
    this.video.play().catch(() => {});  // a page may refuse to play by itself
  }

  choose(chunk) {
    this.chosen = this.chosen === chunk ? null : chunk;
    if (this.chosen !== null && !this.state.over && chunk < this.state.finished) this.play(chunk);
    const place = this.whole && this.chosen !== null && this.host.startOf(chunk);
    if (place) this.video.currentTime = place;
    this.refresh();
  }

  refresh() {
    const { chunk, chunks, finished, text, again } = this.state;
    if (this.chunks.childElementCount !== chunks)
      this.chunks.replaceChildren(...Array.from({ length: chunks }, (_, index) => make("button", {
        textContent: chunks <= 30 || (index + 1) % 10 === 0 ? String(index + 1) : "", title: `chunk ${index + 1}`,
        onclick: () => this.choose(index) })));
    [...this.chunks.children].forEach((button, index) => {
      button.className = ["chunk", index < finished && "finished", index === chunk && !this.state.over && "now",
        index === chunk && again && "again", index === this.chosen && "chosen"].filter(Boolean).join(" ");
    });
    this.line.textContent = text ?? ""; // while it works ComfyUI's own line says how far it is, with every step
    this.line.hidden = !text;
    this.again.textContent = this.chosen === null ? "choose one" : `make ${this.chosen + 1} again`;
    this.again.title = "Click a chunk above first. Makes this chunk with other noise and leaves all others as they are";
    this.again.disabled = this.chosen === null;
    this.drawTraces();
  }

  // Each as a share of where it is bad: how far the colours are, and the face where faces can be found.
  drawTraces() {
    const { chunks, colours = {}, identity = {}, identity_note: note } = this.state;
    const points = (found, share) => Object.entries(found).map(([index, value]) => [(Number(index) + 0.5) / chunks * 100, share(value)]);
    const colour = points(colours, value => value / FAR), face = points(identity, value => (1 - value) / ANOTHER);
    this.trace.hidden = colour.length < 2;
    this.trace.style.display = colour.length < 2 ? "none" : "";
    this.trace.setAttribute("viewBox", "0 0 100 18");
    this.trace.setAttribute("preserveAspectRatio", "none");
    const most = Math.max(1, ...[...colour, ...face].map(([, share]) => share)), y = share => 17 - 16 * share / most;
    const line = (path, stroke, name) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
      for (const [key, value] of Object.entries({ points: path, fill: "none", stroke, class: name, "vector-effect": "non-scaling-stroke" }))
        element.setAttribute(key, value);
      return element;
    };
    const drawn = (trace, stroke, name) => line(trace.map(([x, share]) => `${x},${y(share)}`).join(" "), stroke, name);
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = ["blue: how far the colours are from the first chunk's (CIEDE2000; at the red line they are another colour)",
      face.length ? "orange: how far the face is from the first chunk's (at the red line it is another person's)" :
        ["identity is not measured", note].filter(Boolean).join(": ")].join("\n");
    this.trace.replaceChildren(title, line(`0,${y(1)} 100,${y(1)}`, "#a05048", "limit"), drawn(colour, "#6fa0d8", "colours"),
      ...(face.length > 1 ? [drawn(face, "#e0a33a", "identity")] : []));
  }
}
