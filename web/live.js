// Live Take's pictures in its node while they are made: a <video> that is fed the fragments of an HLS folder, which ComfyUI's
// own /view serves, as they come. Where the page may not feed it (ComfyUI's --disable-api-nodes forbids blob: addresses) the
// browser's own HLS plays the folder, some seconds behind; one that has none (Firefox) says so.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const CODECS = 'video/mp4; codecs="avc1.64001f, mp4a.40.2"';
const HLS = "application/vnd.apple.mpegurl";
const FEWEST = 4; // fragments that a browser's own HLS begins with
const BEHIND_SECONDS = 60; // of what was played, kept for going back
const CANNOT = "This browser does not play the pictures while they are made: it has no HLS, and the page may not feed it. Start ComfyUI "
  + "without --disable-api-nodes, use Chrome, Edge or Safari, or play the growing .live.mp4. The video comes here when it is finished.";

function nodeAt(id) { // "17:14" is node 14 in the subgraph of node 17
  return String(id).split(":").reduce((node, part) => (node?.subgraph ?? node)?.getNodeById?.(part),
    app.rootGraph ?? app.graph);
}

class LivePlayer {
  constructor(video, playlist) {
    this.video = video;
    this.route = `/view?${new URLSearchParams(playlist)}`;
    this.shown = new Set();
    const Source = globalThis.ManagedMediaSource ?? globalThis.MediaSource;
    if (!Source?.isTypeSupported(CODECS)) return this.leaveToBrowser();
    this.media = new Source();
    video.disableRemotePlayback = true; // a ManagedMediaSource asks for it
    video.addEventListener("error", () => this.leaveToBrowser(), { once: true });
    video.src = URL.createObjectURL(this.media);
    this.work = new Promise((resolve) => this.media.addEventListener("sourceopen", resolve, { once: true })).then(() => {
      this.buffer = this.media.addSourceBuffer(CODECS);
    });
  }

  leaveToBrowser() {
    this.media = null;
    this.work = Promise.resolve();
    if (this.video.canPlayType(HLS)) return this.update(false);
    app.extensionManager.toast.add({ severity: "warn", summary: "Live Take", detail: CANNOT });
  }

  /** Chrome gives a playlist of a single fragment up for good: it gets one of some, and again what it gave up. */
  leavePlaylist(fragments, over) {
    if (this.left && !this.video.error || fragments < FEWEST && !over) return;
    this.left = true;
    this.video.src = api.apiURL(this.route);
  }

  /** Show what the playlist has now; `over`: nothing follows. One after the other, however often it is called. */
  update(over) {
    this.work = this.work?.then(() => this.catchUp(over)).catch((error) => console.info("Live Take:", error));
  }

  async catchUp(over) {
    const text = await (await api.fetchApi(this.route, { cache: "no-store" })).text();
    if (!this.media) return this.leavePlaylist(text.split("#EXTINF").length - 1, over);
    if (this.media.readyState !== "open") return;
    const head = text.match(/#EXT-X-MAP:URI="([^"]+)"/)?.[1];
    for (const address of [head, ...text.split("\n").filter((line) => line && !line.startsWith("#"))]) {
      if (!address || this.shown.has(address)) continue;
      const part = await api.fetchApi(`/${address}`, { cache: "no-store" });
      if (!part.ok) continue; // older than what the preview keeps
      this.shown.add(address);
      const data = await part.arrayBuffer();
      await this.wait(() => this.buffer.appendBuffer(data));
    }
    const at = this.video.currentTime;
    if (at > 2 * BEHIND_SECONDS) await this.wait(() => this.buffer.remove(0, at - BEHIND_SECONDS));
    if (over) this.media.endOfStream();
  }

  wait(act) {
    return new Promise((resolve, reject) => {
      this.buffer.addEventListener("updateend", resolve, { once: true });
      this.buffer.addEventListener("error", reject, { once: true });
      act();
    });
  }
}

function playerOf(node, playlist) {
  const key = JSON.stringify(playlist);
  if (node.lodestarLive?.key === key) return node.lodestarLive.player;
  let video = node.lodestarLive?.video;
  if (!video) {
    video = Object.assign(document.createElement("video"), { controls: true, autoplay: true, muted: true,
      playsInline: true, className: "lodestar-live" });
    video.style.width = "100%";
    video.addEventListener("loadeddata", () => video.play().catch(() => {})); // autoplay waits until it is in sight
    node.addDOMWidget("live", "lodestar_live", video, { serialize: false, hideOnZoom: false });
  }
  node.lodestarLive = { key, video, player: new LivePlayer(video, playlist) };
  return node.lodestarLive.player;
}

app.registerExtension({
  name: "lodestar.live",
  setup() {
    api.addEventListener("lodestar.live", ({ detail }) => {
      const node = detail.node === null ? null : nodeAt(detail.node);
      if (node && (detail.frames > 0 || node.lodestarLive)) playerOf(node, detail.playlist).update(detail.frames < 0);
    });
  },
});
