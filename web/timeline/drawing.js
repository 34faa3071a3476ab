// The timeline as it is drawn: rows for time, speech, chunks, anchors, keyframes and prompts. Nothing here is changed by
// drawing; `marks` says where an event stands, for the pointer.
import { clock } from "./story.js";

export const COLOURS = { prompt: "#5b8def", keyframe: "#e0a33a", anchor: "#58b368", again: "#d9622b", driving: "#a77bd8" };
const SOFT = "#8a93a0", LINE = "#3a424d", CHUNK = "#39506e", ODD = "#2f4058", OVERLAP = "#7fb0ff55", WAVE = "#6fa0d8";
const ROWS = [["ruler", 16], ["wave", 26], ["chunks", 22], ["anchors", 18], ["keyframes", 34], ["prompts", 22]];
const DRIVEN = ["driving", 18];
const COMPACT = [["ruler", 14], ["chunks", 16], ["prompts", 18]];

// {row: [top, height]}: all rows where there is room, else those that say most; they share what room is left. Videos that
// drive have a row where there are any.
export function layOut(height, events = []) {
  const driven = events.some(event => event.kind === "driving"), all = driven ? ROWS.toSpliced(4, 0, DRIVEN) : ROWS;
  const rows = height >= 80 ? all : COMPACT, least = rows.reduce((sum, [, size]) => sum + size, 0);
  const stretch = Math.max(height / least, 0.5);
  let top = 0;
  return Object.fromEntries(rows.map(([name, size]) => [name, [top, (top += size * stretch) - (top - size * stretch)]]));
}

export function rowOf(kind, rows) {
  const wanted = { prompt: "prompts", keyframe: "keyframes", anchor: "anchors", again: "chunks", driving: "driving" }[kind];
  return rows[wanted] ?? rows.prompts;
}

// {events, plan, seconds, from, to, chosen, pictures} into a 2d context of `width` x `height` CSS pixels; returns marks
// [{event, x, y, width, height}].
export function draw(context, width, height, state) {
  const rows = layOut(height, state.events), across = seconds => (seconds - state.from) / (state.to - state.from) * width;
  context.clearRect(0, 0, width, height);
  context.font = "10px sans-serif";
  context.textBaseline = "middle";
  drawRuler(context, rows.ruler, width, state, across);
  if (rows.wave) drawWave(context, rows.wave, width, state);
  drawChunks(context, rows.chunks, state, across);
  if (rows.anchors) drawAnchors(context, rows.anchors, state, across);
  const end = across(state.seconds);
  context.strokeStyle = SOFT;
  context.strokeRect(end, 0, 0.5, height);
  return state.events.map((event, index) => drawEvent(context, rows, state, across, event, index));
}

function drawRuler(context, [top, height], width, state, across) {
  const span = state.to - state.from, wanted = span * 70 / width;
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800].find(one => one >= wanted) ?? 3600;
  context.fillStyle = SOFT;
  context.strokeStyle = LINE;
  for (let time = Math.ceil(state.from / step) * step; time <= state.to; time += step) {
    const x = across(time);
    context.strokeRect(x, top, 0.25, height);
    context.fillText(clock(time), x + 3, top + height / 2);
  }
}

function drawWave(context, [top, height], width, { plan, from, to }) {
  if (!plan?.peaks?.length) {
    context.fillStyle = SOFT;
    context.fillText("the speech is drawn after a run", 6, top + height / 2);
    return;
  }
  context.fillStyle = WAVE;
  const each = plan.seconds / plan.peaks.length;
  for (let x = 0; x < width; x++) {
    const first = Math.floor((from + (to - from) * x / width) / each);
    const last = Math.max(first + 1, Math.floor((from + (to - from) * (x + 1) / width) / each));
    const loud = Math.max(0, ...plan.peaks.slice(Math.max(first, 0), Math.max(last, 0))) / 100;
    context.fillRect(x, top + height / 2 * (1 - loud), 1, Math.max(height * loud, 0.5));
  }
}

function drawChunks(context, [top, height], { plan, from, to }, across) {
  (plan?.chunks ?? []).forEach((chunk, index) => {
    if (chunk.end < from || chunk.from > to) return;
    const left = across(chunk.start), right = across(chunk.end);
    context.fillStyle = index % 2 ? ODD : CHUNK;
    context.fillRect(left, top + 2, Math.max(right - left - 1, 1), height - 4);
    if (chunk.from < chunk.start) {
      context.fillStyle = OVERLAP;
      context.fillRect(across(chunk.from), top + 2, left - across(chunk.from), (height - 4) / 2);
    }
    if (plan.remakes?.includes(index)) {
      context.fillStyle = COLOURS.again;
      context.fillRect(left, top + height - 4, Math.max(right - left - 1, 1), 2);
    }
  });
  context.fillStyle = "#dfe6ef";
  (plan?.chunks ?? []).forEach((chunk, index) => { // over the boxes: of narrow ones each tenth
    const left = across(chunk.start), label = String(index + 1), room = across(chunk.end) - Math.max(left, 0);
    if (room > 8 + 6 * label.length || (room > 0 && (index + 1) % 10 === 0))
      context.fillText(label, Math.max(left, 0) + 3, top + height / 2);
  });
}

function drawAnchors(context, [top, height], { plan, from, to }, across) {
  const y = top + height / 2;
  for (const { end, ahead } of plan?.chunks ?? []) {
    if (ahead === null || end + ahead < from || end > to) continue;
    context.strokeStyle = context.fillStyle = `${COLOURS.anchor}99`;
    context.beginPath();
    context.moveTo(across(end), y);
    context.lineTo(across(end + ahead), y);
    context.stroke();
    diamond(context, across(end + ahead), y, 3);
  }
}

function diamond(context, x, y, size) {
  context.beginPath();
  context.moveTo(x, y - size);
  context.lineTo(x + size, y);
  context.lineTo(x, y + size);
  context.lineTo(x - size, y);
  context.fill();
}

function drawEvent(context, rows, state, across, event, index) {
  const [top, height] = rowOf(event.kind, rows), x = across(event.seconds), colour = COLOURS[event.kind];
  const next = state.events.find(other => other.kind === event.kind && other.seconds > event.seconds);
  const picture = event.kind === "keyframe" && rows.keyframes ? state.pictures(event.value) : null;
  const lasts = Math.max(across(next?.seconds ?? state.seconds) - x - 2, 10);
  const size = { prompt: lasts, driving: lasts, keyframe: height, anchor: 64, again: 46 }[event.kind];
  const mark = { event, x, y: top + 1, width: size, height: height - 2 };
  context.fillStyle = `${colour}${event.kind === "prompt" ? "44" : "66"}`;
  context.fillRect(x, mark.y, size, mark.height);
  if (picture) context.drawImage(picture, x, mark.y, size, mark.height);
  context.fillStyle = colour;
  context.fillRect(x, mark.y, 2, mark.height);
  context.save();
  context.beginPath();
  context.rect(x, mark.y, size, mark.height);
  context.clip();
  context.fillStyle = "#eef2f7";
  const words = { prompt: event.value, driving: event.value, keyframe: picture ? "" : event.value, again: "again",
    anchor: event.value ? `${event.value}` : "as the node" }[event.kind];
  context.fillText(words, Math.max(x, 0) + 5, top + height / 2);
  context.restore();
  if (index === state.chosen) {
    context.strokeStyle = "#ffffff";
    context.strokeRect(x + 0.5, mark.y + 0.5, size - 1, mark.height - 1);
  }
  return mark;
}
