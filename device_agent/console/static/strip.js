// The network as a strip of blocks: who runs which, what would cross at each split point, and the exits.

import { calm, h, s, say } from "./dom.js";
import { bytes, condition, percent, shape, title } from "./format.js";
import { exitShade, TIERS } from "./stages.js";

const CUT_TOP = 46, BARS = 62, ROW = 116, ROW_HEIGHT = 34, NAMES = ROW + ROW_HEIGHT + 17, LAMPS = 196;
const MIN_LABEL = 50, LETTER = 7.4;

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
    const lines = Math.max(...model.exits.map((exit) => condition(exit).length));
    const drop = 30 + 16 * lines, height = LAMPS + (staggered ? drop : 0) + 46 + 16 * lines;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    const most = Math.sqrt(Math.max(...model.split_points.map((p) => p.bytes)));
    drawn = { blocks: [], bars: [], exits: [], names: TIERS.map((tier) => s("text", { class: `span gone t-${tier}`, y: NAMES, "text-anchor": "middle" }, title(tier))) };
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
    drawn.exits = model.exits.map((exit, i) => outlet(exit, staggered && i % 2 === 1 ? drop : 0));
    svg.replaceChildren(...bars, ...blocks, ...labels, ...drawn.exits.map((e) => e.ramp), ...drawn.names, ...drawn.exits.map((e) => e.root), ...drawn.cuts.map((c) => c.root));
  }

  function cut() {
    const parts = { label: s("text", { class: "cutname", y: 15 }), line: s("line", { y1: 22, y2: ROW + ROW_HEIGHT + 4 }) };
    parts.root = s("g", { class: "cut gone" }, parts.line, parts.label);
    return parts;
  }

  function outlet(exit, drop) {
    const at = x(exit.split_point), anchor = at < 60 ? "start" : at > width - 60 ? "end" : "middle";
    const inner = anchor === "start" ? Math.max(at, 8) : anchor === "end" ? Math.min(at, width - 8) : at;
    const textAt = anchor === "middle" ? at : anchor === "start" ? 0 : width;
    const parts = { lamp: s("circle", { class: "lamp", cx: inner, cy: LAMPS - 10 + drop, r: 7 }) };
    parts.share = s("tspan", { class: "share" }, "–");
    const style = { "--shade": exitShade(exit.index, model.exits.length) };
    parts.ramp = s("path", { class: "ramp", style, d: `M${inner} ${ROW + ROW_HEIGHT + 2}V${LAMPS - 18 + drop}` });
    parts.root = s("g", { class: "exit", style }, parts.lamp,
      s("text", { class: "exitname", x: textAt, y: LAMPS + 20 + drop, "text-anchor": anchor }, `${exit.name} exit `, parts.share),
      condition(exit).map((line, i) => s("text", { class: "threshold", x: textAt, y: LAMPS + 37 + 16 * i + drop, "text-anchor": anchor }, line)),
      s("title", {}, `${exit.name} exit, after block ${exit.split_point}: ${condition(exit).join(" ")}`));
    return parts;
  }

  function tierOf(block, stages) {
    const stage = stages.find((each) => each.start <= block && block < each.end);
    return stage ? stage.tier : "none";
  }

  /** Shows what was hidden where it belongs; what was in sight already moves there. */
  function place(root, seen, at) {
    const hidden = root.classList.contains("gone");
    root.classList.toggle("gone", !seen);
    if (!seen) return;
    root.classList.toggle("moves", !hidden);
    root.style.transform = `translateX(${at}px)`;
  }

  /** From where to where a label reaches, which nobody has to lay out for that. */
  function reach(at, anchor, text) {
    const wide = LETTER * text.length;
    return anchor === "start" ? [at, at + wide] : anchor === "end" ? [at - wide, at] : [at - wide / 2, at + wide / 2];
  }

  function showCuts(plan) {
    let taken = -Infinity;
    const ends = plan.hops.map((hop) => x(hop.split_point));
    drawn.cuts.forEach((parts, i) => {
      const hop = plan.hops[i];
      const at = hop && Math.min(Math.max(ends[i], 1), width - 1);
      place(parts.root, Boolean(hop), at);
      if (!hop) return;
      const last = model.split_points.length - 1;
      const empty = hop.split_point === last;
      const what = empty ? "nothing left" : `${hop.codec}${hop.bytes ? `, ${bytes(hop.bytes)}` : ""}`;
      const text = `to ${hop.target}: ${what}`, half = (LETTER * text.length) / 2;
      let anchor = at < half ? "start" : at > width - half ? "end" : "middle";
      const crowded = reach(at, anchor, text)[0] < taken;
      if (crowded && at + 2 * half < width) anchor = "start"; // or the line of the cut before would cross it
      taken = reach(at, anchor, text)[1];
      parts.label.setAttribute("text-anchor", anchor);
      parts.label.setAttribute("y", crowded ? 33 : 15);
      parts.line.setAttribute("y1", crowded ? 39 : 21);
      say(parts.label, text);
    });
  }

  function showNames(stages) {
    drawn.names.forEach((name, i) => {
      const stage = stages.find((each) => each.tier === TIERS[i]);
      const wide = stage ? x(stage.end) - x(stage.start) : 0;
      place(name, wide > 44, stage && (x(stage.start) + x(stage.end)) / 2);
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
    const text = `Plan: ${plan.text}. ` + state.model.exits.map((e, i) => `${title(e.name)} exit: ${percent(all ? found.exits[i] / all : null)}`).join(", ");
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
