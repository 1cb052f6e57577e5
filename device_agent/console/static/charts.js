// Latency and exit mix over the last minutes, with a mark where the plan changed. Drawn by uPlot.

import uPlot from "./uplot.js";
import { clock, ms, percent } from "./format.js";
import { exitShade } from "./stages.js";

const MOST = 300, LEAST = 60, SMOOTH = 5;

const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function marks(state) {
  return (chart) => {
    const { ctx, bbox } = chart;
    ctx.save();
    ctx.strokeStyle = token("--muted");
    ctx.setLineDash([4, 4]);
    ctx.lineWidth = devicePixelRatio;
    for (const change of state().now.changes.slice(1)) {
      const x = chart.valToPos(change.at, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  };
}

function axes(values) {
  const plain = { stroke: token("--muted"), font: "12px system-ui, sans-serif", grid: { stroke: token("--line"), width: 1 }, ticks: { show: false } };
  return [
    { ...plain, size: 38, gap: 12, grid: { show: false }, space: 80, values: (_, at) => at.map((each) => (each % 60 ? clock(each) : clock(each).slice(0, 5))) },
    { ...plain, size: 52, values },
  ];
}

function options(root, state, series, values, y, bands) {
  return {
    bands,
    width: root.clientWidth, height: 210, series, axes: axes(values), hooks: { draw: [marks(state)] },
    scales: { x: { time: true }, y }, cursor: { y: false, points: { size: 7 } }, legend: { live: true },
    padding: [8, 26, 0, 0],
  };
}

function seconds(state) {
  const end = Math.floor(state.now.at), by = new Map(state.history.map((each) => [each.at, each]));
  const first = state.history.length ? state.history[0].at : end;
  const length = Math.min(MOST, Math.max(LEAST, end - first + 5));
  return Array.from({ length }, (_, i) => [end - length + i, by.get(end - length + i)]);
}

function latency(state) {
  const all = seconds(state);
  const of = (name) => all.map(([, each]) => (each && each[name] !== null ? 1000 * each[name] : null));
  return [all.map(([at]) => at), of("p50_seconds"), of("p95_seconds")];
}

/** Shares of the exits, each on top of the later ones, so that the first drawn is the whole. */
function mix(state) {
  const all = seconds(state), exits = state.model.exits.length;
  const sums = all.map((_, i) => {
    const sum = new Array(exits).fill(0);
    for (const [, each] of all.slice(Math.max(0, i - SMOOTH + 1), i + 1))
      each?.exits.forEach((count, exit) => { sum[exit] += count; });
    return sum;
  });
  const stacked = Array.from({ length: exits }, (_, exit) => sums.map((sum) => {
    const whole = sum.reduce((a, b) => a + b, 0);
    return whole ? sum.slice(0, exit + 1).reduce((a, b) => a + b, 0) / whole : null;
  }));
  return [all.map(([at]) => at), ...stacked.reverse()];
}

const shade = (index, count) => `color-mix(in oklab, ${token("--exit")} ${exitShade(index, count)}, ${token("--surface")})`;

export function createCharts(latencyRoot, mixRoot) {
  let charts = [], current = null;
  const state = () => current;

  function resolved(color) {
    const probe = document.createElement("i");
    probe.style.color = color;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }

  function build() {
    charts.forEach((chart) => chart.destroy());
    const { exits } = current.model;
    const line = (label, stroke, extra) => ({ label, stroke, width: 2, points: { show: false }, spanGaps: false, value: (_, v) => ms(Number.isFinite(v) ? v / 1000 : null), ...extra });
    const time = { label: "at", value: (_, v) => (Number.isFinite(v) ? clock(v) : "–") };
    const first = new uPlot(options(latencyRoot, state, [time, line("median", token("--ink")), line("95 % within", token("--muted"), { dash: [2, 3], width: 1.5 })],
      (_, at) => at.map((v) => `${+v.toPrecision(3)}`), { range: (_, low, high) => [0, high ? 1.1 * high : 10] },
      [{ series: [2, 1], fill: resolved("color-mix(in oklab, var(--muted) 18%, transparent)") }]), latency(current), latencyRoot);
    const areas = exits.map((exit, i) => {
      const fill = resolved(shade(i, exits.length));
      return { label: `${exit.name} exit`, stroke: token("--surface"), fill, width: 1.5 / devicePixelRatio + 0.5, points: { show: false }, value: (chart, v, series, at) => own(chart, series, at) };
    }).reverse();
    const second = new uPlot(options(mixRoot, state, [time, ...areas], (_, at) => at.map((v) => percent(v)), { range: [0, 1] }), mix(current), mixRoot);
    charts = [first, second];
  }

  /** What a band stands for by itself: what it reaches, less what the bands below it reach. */
  function own(chart, series, at) {
    if (at === null || at === undefined) return "–";
    const top = chart.data[series][at], below = chart.data[series + 1]?.[at] ?? 0;
    return top === null || top === undefined ? "–" : percent(top - below);
  }

  new ResizeObserver(() => charts.forEach((chart) => chart.setSize({ width: chart.root.parentElement.clientWidth, height: 210 }))).observe(latencyRoot);

  /** New data; its legend tells the last values, unless somebody points at others. */
  function show(chart, data) {
    chart.setData(data);
    if (chart.cursor.left < 0) chart.setLegend({ idx: data[1].findLastIndex((value) => value !== null) });
  }

  return {
    begin(given) { current = given; build(); },
    update(given) {
      current = given;
      if (document.hidden || !charts.length) return;
      [latency, mix].forEach((of, i) => show(charts[i], of(given)));
    },
  };
}
