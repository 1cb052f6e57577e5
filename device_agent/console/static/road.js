// The three tiers, the two links between them, and answers leaving. Dots are real requests on their way.

import { calm, h, s, say } from "./dom.js";
import { ago, blocks, known, ms, percent, rate, title } from "./format.js";
import { TIERS } from "./stages.js";

const STATES = { here: "this machine", reachable: "reachable", silent: "unreachable", quiet: "not heard of lately", unknown: "not heard of yet" };
const MOST_DOTS = 10;
const WAY_MS = 620;

function card(tier) {
  const parts = {
    state: h("span", { class: "state" }), runs: h("p", { class: "runs" }), work: h("p", { class: "work" }), load: h("p", { class: "work" }),
    share: h("strong", {}), lamp: h("i", { class: "lamp", "aria-hidden": "true" }),
  };
  const ramp = s("svg", { class: "ramp", viewBox: "0 0 64 44", "aria-hidden": "true" },
    s("path", { d: "M6 0C6 26 20 32 58 32" }), s("path", { class: "tip", d: "M50 25l9 7-9 7" }));
  parts.root = h("div", { class: `tier t-${tier}`, role: "group", "aria-label": title(tier) },
    h("div", { class: "box" }, h("h3", {}, title(tier), parts.state), parts.runs, parts.work, parts.load),
    h("div", { class: "answers" }, ramp, parts.lamp, h("p", {}, parts.share, " answered here")));
  return parts;
}

function link(source, target) {
  const parts = { rate: h("strong", {}), rtt: h("span", {}), set: h("small", {}), dots: s("g", {}) };
  parts.svg = s("svg", { class: "lane", "aria-hidden": "true" },
    s("line", { class: "asphalt", pathLength: 100, x1: "0", y1: "50%", x2: "100%", y2: "50%" }),
    s("line", { class: "dash", x1: "0", y1: "50%", x2: "100%", y2: "50%" }), parts.dots);
  parts.root = h("div", { class: "link", role: "group", "aria-label": `Link from ${source} to ${target}` },
    h("p", { class: "rate" }, parts.rate), parts.svg, h("p", { class: "rtt" }, parts.rtt, parts.set));
  return parts;
}

export function createRoad(root) {
  const cards = Object.fromEntries(TIERS.map((tier) => [tier, card(tier)]));
  const links = [link("device", "edge"), link("edge", "cloud")];
  root.append(cards.device.root, links[0].root, cards.edge.root, links[1].root, cards.cloud.root);

  function showTier(found) {
    const parts = cards[found.tier];
    parts.root.dataset.state = found.state;
    parts.root.classList.toggle("idle", !found.blocks || found.blocks[0] === found.blocks[1]);
    say(parts.state, STATES[found.state] + (known(found.silent_seconds) ? ` for ${ago(found.silent_seconds)}` : ""));
    const runs = found.blocks === null ? "not in this plan"
      : found.blocks[0] === found.blocks[1] ? "passes its input on" : `runs ${blocks(...found.blocks)}`;
    say(parts.runs, runs);
    const work = [];
    if (known(found.compute_seconds)) work.push(`computes ${ms(found.compute_seconds)}`);
    if (known(found.queue_seconds) && found.queue_seconds > 0.0005) work.push(`queue ${ms(found.queue_seconds)}`);
    say(parts.work, work.join(", ") || "idle");
    say(parts.load, found.slowdown > 1.5 ? `slowed ${found.slowdown.toFixed(1)}× by load` : "");
    say(parts.share, percent(found.share));
  }

  function showLink(found, parts) {
    const cut = found.emulated && !found.emulated.carrying;
    const unknown = !known(found.rtt_seconds) && !known(found.bytes_per_second);
    parts.root.dataset.state = cut ? "cut" : unknown ? "unknown" : "up";
    say(parts.rate, cut ? "cut" : known(found.bytes_per_second) ? `believed ${rate(found.bytes_per_second)}` : "rate unknown");
    say(parts.rtt, known(found.rtt_seconds) ? `RTT ${ms(found.rtt_seconds)}` : "RTT unknown");
    say(parts.set, found.emulated ? `set to ${rate(found.emulated.bytes_per_second)}, ${ms(found.emulated.rtt_seconds)}`
      : known(found.age_seconds) ? `heard ${found.age_seconds < 1 ? "just now" : `${found.age_seconds.toFixed(0)} s ago`}` : "");
  }

  function dot(number, back, delay, tier) {
    const { svg, dots } = links[number];
    const { clientWidth: width, clientHeight: height } = svg;
    const upright = height > width;
    const circle = s("circle", { r: 5, class: `dot t-${tier}`, cx: upright ? width / 2 : 0, cy: upright ? 0 : height / 2 });
    dots.append(circle);
    const far = upright ? `translateY(${height}px)` : `translateX(${width}px)`;
    const frames = [{ transform: "none", opacity: 0 }, { opacity: 1, offset: 0.12 }, { opacity: 1, offset: 0.88 }, { transform: far, opacity: 0 }];
    const moved = circle.animate(frames, { duration: WAY_MS, delay, direction: back ? "reverse" : "normal", easing: "ease-in-out", fill: "both" });
    moved.onfinish = moved.oncancel = () => circle.remove();
  }

  function flash(tier, delay) {
    const frames = [{ boxShadow: "0 0 0 0 var(--c)" }, { boxShadow: "0 0 0 9px transparent" }];
    cards[tier].lamp.animate(frames, { duration: 700, delay, easing: "ease-out" });
  }

  return {
    update({ now }) {
      now.tiers.forEach(showTier);
      now.links.forEach((found, i) => showLink(found, links[i]));
    },
    /** Shows new requests going up as far as they went, and their answers coming back. */
    travel(requests) {
      if (calm() || document.hidden) return;
      const some = requests.slice(-MOST_DOTS);
      some.forEach((request, i) => {
        const far = Math.max(...request.hops.map((hop) => TIERS.indexOf(hop.tier)));
        const start = (i * 250) / some.length;
        for (let hop = 0; hop < far; hop++) {
          dot(hop, false, start + hop * WAY_MS, TIERS[hop]);
          dot(hop, true, start + (2 * far - hop - 1) * WAY_MS, request.tier);
        }
        flash(request.tier, start + TIERS.indexOf(request.tier) * WAY_MS);
      });
    },
  };
}
