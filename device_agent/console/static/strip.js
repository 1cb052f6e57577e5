// The network as a strip of blocks: who runs which, what would cross at each split point, and the exits.

import { calm, h, s, say } from "./dom.js";
import { bytes, percent, shape, sure, title } from "./format.js";
import { exitShade, TIERS } from "./stages.js";

const CUT_TOP = 46, BARS = 62, ROW = 116, ROW_HEIGHT = 34, NAMES = ROW + ROW_HEIGHT + 17, LAMPS = 196;
const MIN_LABEL = 50;

const operation = (after) => after.split("/").pop().replace(/_\d+$/, "").split(":")[0];

export function createStrip(root, note) {
  const svg = s("svg", { class: "network", role: "img" });
  root.append(svg);
  let model = null, width = 0, drawn = null, last = null;

  new ResizeObserver(() => { if (root.clientWidth !== width && last) { layout(); update(last); } }).observe(root);

  const x = (split) => (split / (model.split_points.length - 1)) * width;

  function layout() {
    width = root.clientWidth;
    if (!model || !width) return;
    const count = model.split_points.length - 1, each = width / count;
    const staggered = width < 560;
    const height = LAMPS + (staggered ? 108 : 62);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    const most = Math.sqrt(Math.max(...model.split_points.map((p) => p.bytes)));
    drawn = { blocks: [], bars: [], exits: [], names: TIERS.map((tier) => s("text", { class: `span t-${tier}`, y: NAMES, "text-anchor": "middle" }, title(tier))) };
    const bars = model.split_points.map((point) => {
      const tall = Math.max(2, (BARS - 8) * Math.sqrt(point.bytes) / most);
      const wide = Math.max(2, Math.min(9, each * 0.4));
      const at = Math.min(Math.max(x(point.index), wide / 2), width - wide / 2);
      const bar = s("rect", { class: "size", x: at - wide / 2, y: ROW - 6 - tall, width: wide, height: tall, rx: Math.min(2, wide / 2) },
        s("title", {}, `split point ${point.index}: ${shape(point.shape)}, ${bytes(point.bytes)} as float32`));
      drawn.bars.push(bar);
      return bar;
    });
    const blocks = model.split_points.slice(1).map((point, i) => {
      const gap = each > 8 ? 1.5 : 0.5;
      const block = s("rect", { class: "block", x: i * each + gap / 2, y: ROW, width: each - gap, height: ROW_HEIGHT, rx: each > 14 ? 4 : 1 },
        s("title", {}, `block ${i + 1}: ${operation(point.after)}`));
      drawn.blocks.push(block);
      return block;
    });
    const labels = each < MIN_LABEL ? [] : model.split_points.slice(1).map((point, i) =>
      s("text", { class: "op", x: (i + 0.5) * each, y: ROW + ROW_HEIGHT / 2 + 4, "text-anchor": "middle" }, operation(point.after).slice(0, Math.floor(each / 7))));
    drawn.cuts = [0, 1].map(() => cut());
    drawn.exits = model.exits.map((exit, i) => outlet(exit, staggered && i % 2 === 1));
    svg.replaceChildren(...bars, ...blocks, ...labels, ...drawn.names, ...drawn.exits.map((e) => e.root), ...drawn.cuts.map((c) => c.root));
  }

  function cut() {
    const parts = { label: s("text", { class: "cutname", y: 15 }), line: s("line", { y1: 22, y2: ROW + ROW_HEIGHT + 4 }) };
    parts.root = s("g", { class: "cut" }, parts.line, parts.label);
    return parts;
  }

  function outlet(exit, low) {
    const at = x(exit.split_point), anchor = at < 60 ? "start" : at > width - 60 ? "end" : "middle";
    const inner = anchor === "start" ? Math.max(at, 8) : anchor === "end" ? Math.min(at, width - 8) : at;
    const drop = low ? 46 : 0, textAt = anchor === "middle" ? at : anchor === "start" ? 0 : width;
    const parts = { lamp: s("circle", { class: "lamp", cx: inner, cy: LAMPS - 10 + drop, r: 7 }) };
    parts.share = s("tspan", { class: "share" }, "–");
    parts.root = s("g", { class: "exit", style: { "--shade": exitShade(exit.index, model.exits.length) } },
      s("path", { class: "ramp", d: `M${inner} ${ROW + ROW_HEIGHT + 2}V${LAMPS - 18 + drop}` }), parts.lamp,
      s("text", { class: "exitname", x: textAt, y: LAMPS + 20 + drop, "text-anchor": anchor }, `exit ${exit.name} `, parts.share),
      s("text", { class: "threshold", x: textAt, y: LAMPS + 37 + drop, "text-anchor": anchor },
        exit.threshold > 0 ? `if ${sure(exit.threshold)} sure` : "all that come"),
      s("title", {}, `exit ${exit.name} after block ${exit.split_point}`));
    return parts;
  }

  function tierOf(block, stages) {
    const stage = stages.find((each) => each.start <= block && block < each.end);
    return stage ? stage.tier : "none";
  }

  function showCuts(plan) {
    const ends = plan.hops.map((hop) => x(hop.split_point));
    drawn.cuts.forEach((parts, i) => {
      const hop = plan.hops[i];
      parts.root.classList.toggle("gone", !hop);
      if (!hop) return;
      const last = model.split_points.length - 1;
      const empty = hop.split_point === last;
      const crowded = i === 1 && Math.abs(ends[1] - ends[0]) < 170;
      const at = Math.min(Math.max(ends[i], 1), width - 1);
      const anchor = ends[i] < 90 ? "start" : ends[i] > width - 90 ? "end" : "middle";
      parts.root.style.transform = `translateX(${at}px)`;
      parts.label.setAttribute("text-anchor", anchor);
      parts.label.setAttribute("y", crowded ? 33 : 15);
      parts.line.setAttribute("y1", crowded ? 39 : 21);
      const what = empty ? "nothing left" : `${hop.codec}${hop.bytes ? `, ${bytes(hop.bytes)}` : ""}`;
      say(parts.label, `to ${hop.target}: ${what}`);
    });
  }

  function showNames(stages) {
    drawn.names.forEach((name, i) => {
      const stage = stages.find((each) => each.tier === TIERS[i]);
      const wide = stage ? x(stage.end) - x(stage.start) : 0;
      name.style.opacity = wide > 44 ? 1 : 0;
      if (stage) name.style.transform = `translateX(${(x(stage.start) + x(stage.end)) / 2}px)`;
    });
  }

  function update(state) {
    last = state;
    if (!drawn) layout();
    if (!drawn) return;
    const { plan, window: found } = state.now;
    drawn.blocks.forEach((block, i) => block.setAttribute("class", `block t-${tierOf(i, plan.stages)}`));
    const cuts = plan.hops.map((hop) => hop.split_point);
    drawn.bars.forEach((bar, i) => bar.classList.toggle("crossing", cuts.includes(i)));
    showCuts(plan);
    showNames(plan.stages);
    const all = found.exits.reduce((a, b) => a + b, 0);
    drawn.exits.forEach((parts, i) => {
      const share = all ? found.exits[i] / all : null;
      say(parts.share, percent(share));
      parts.root.style.setProperty("--lit", share ?? 0);
    });
    const text = `Plan: ${plan.text}. ` + state.model.exits.map((e, i) => `Exit ${e.name}: ${percent(all ? found.exits[i] / all : null)}`).join(", ");
    svg.setAttribute("aria-label", text);
  }

  return {
    begin(state) {
      model = state.model;
      drawn = null;
      say(note, `${model.split_points.length - 1} blocks. Columns: size of what would cross at each split point (square-root scale). Below: exits, with their share of the last minute's answers.`);
      layout();
    },
    update,
    light(requests) {
      if (!drawn || calm() || document.hidden) return;
      const lit = new Set(requests.flatMap((r) => r.exits.flatMap((n, i) => (n ? [i] : []))));
      for (const i of lit)
        drawn.exits[i].lamp.animate([{ transform: "scale(1)" }, { transform: "scale(1.5)" }, { transform: "scale(1)" }], { duration: 420, easing: "ease-out" });
    },
  };
}
