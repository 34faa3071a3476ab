// The story script as pipelines/take/story.py reads it, and edits of it that leave every other line as it was.
const LINE = /^(?:(\d+):)?(\d+):(\d{1,2}(?:\.\d+)?)(?:\s+(.*))?$/;
const LIKE_A_TIME = /^\d+[:;.,]\S*\s?.*$/;
const EVENT = /^\[\s*(keyframe|anchor|again|driving)\s*([^\]]*?)\s*\]$/;

// [{seconds, kind: prompt | keyframe | anchor | again | driving, value, first, end}], lines counted from 0, `end` exclusive.
// `problem`: what a line has that cannot be read, for the user; Plan Take says it in full.
export function parse(text) {
  const lines = text.replace(/^\ufeff/, "").split(/\r?\n/), blocks = [];
  lines.forEach((raw, number) => {
    if (!raw.trim() || raw.startsWith("#")) return;
    const block = blocks.at(-1);
    if (/^\s/.test(raw) && block && !LINE.test(raw.trim())) {
      block.words.push(raw.trim());
      block.end = number + 1;
    } else blocks.push({ words: [raw.trim()], first: number, end: number + 1 });
  });
  const events = [];
  let problem = "";
  for (const { words, first, end } of blocks) {
    const read = readBlock(words, blocks.length === 1);
    if (read) events.push({ ...read, first, end });
    else problem ||= `line ${first + 1}: begin it with a time, such as 0:12.5`;
  }
  return { events, problem };
}

function readBlock(words, alone) {
  const found = LINE.exec(words[0]);
  if (!found) return alone && !LIKE_A_TIME.test(words[0]) ? { seconds: 0, kind: "prompt", value: words.join(" ") } : null;
  const [, hours, minutes, seconds, rest] = found, value = [rest ?? "", ...words.slice(1)].join(" ").trim();
  if (Number(seconds) >= 60 || (hours && Number(minutes) >= 60) || !value) return null;
  const time = Number(seconds) + 60 * Number(minutes) + 3600 * Number(hours ?? 0), event = EVENT.exec(value);
  return event ? { seconds: time, kind: event[1], value: event[2] } : { seconds: time, kind: "prompt", value };
}

export function clock(seconds) { // 12.5 -> 0:12.5, the script's own notation, to the millisecond
  const total = Math.round(seconds * 1000), hours = Math.floor(total / 3600000), two = value => String(value).padStart(2, "0");
  const minutes = Math.floor(total / 60000) % 60, fraction = String(total % 1000).padStart(3, "0").replace(/0+$/, "");
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(Math.floor(total / 1000) % 60)}${fraction && `.${fraction}`}`;
}

function write({ seconds, kind, value }) {
  const words = String(value).trim().replace(/\s*\n\s*/g, "\n    ");
  return `${clock(seconds)} ${kind === "prompt" ? words : `[${[kind, words].filter(Boolean).join(" ")}]`}`;
}

export function remove(text, event) {
  const lines = text.split(/\r?\n/);
  lines.splice(event.first, event.end - event.first);
  return lines.join("\n");
}

// The text with one more event, behind all that are not later; its time is moved on where one of its kind has it.
export function add(text, event) {
  const { events } = parse(text), lines = text.trim() ? text.split(/\r?\n/) : [];
  const bare = events.find(one => one.kind === "prompt" && lines[one.first] && !LINE.test(lines[one.first].trim()));
  if (bare) lines[bare.first] = `0:00 ${lines[bare.first].trim()}`;
  let seconds = Math.max(0, Math.round(event.seconds * 1000) / 1000);
  const taken = events.filter(one => one.kind === event.kind).map(one => one.seconds);
  while (taken.some(time => Math.abs(time - seconds) < 0.0005)) seconds = Math.round((seconds + 0.1) * 1000) / 1000;
  const before = events.filter(one => one.seconds <= seconds).at(-1), after = events.find(one => one.seconds > seconds);
  const place = before ? before.end : after ? after.first : lines.length;
  lines.splice(place, 0, ...write({ ...event, seconds }).split("\n"));
  return lines.join("\n");
}

export function change(text, event, changes) {
  return add(remove(text, event), { seconds: event.seconds, kind: event.kind, value: event.value, ...changes });
}

// The event of that kind nearest to a time, to find one again behind an edit.
export function nearest(text, kind, seconds) {
  const alike = parse(text).events.filter(one => one.kind === kind);
  return alike.sort((one, other) => Math.abs(one.seconds - seconds) - Math.abs(other.seconds - seconds))[0] ?? null;
}
