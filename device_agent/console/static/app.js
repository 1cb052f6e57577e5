// The page: what the agent tells is kept here, and shown by the parts.

import { byId, h, say, toast } from "./dom.js";
import { ms, percent, title } from "./format.js";
import { createCharts } from "./charts.js";
import { createControls } from "./controls.js";
import { createPlans } from "./plans.js";
import { createRequests } from "./requests.js";
import { createRoad } from "./road.js";
import { createStrip } from "./strip.js";
import { createTry } from "./try.js";
import { legend } from "./stages.js";
import { connect } from "./stream.js";

const HISTORY_SECONDS = 300;
const MAX_REQUESTS = 100;

let state = null;
let selected = new URLSearchParams(location.search).get("model");
let disconnect = null;

const query = () => (selected ? `?model=${encodeURIComponent(selected)}` : "");
const parts = {
  road: createRoad(byId("tiers")),
  strip: createStrip(byId("strip"), byId("strip-note")),
  plans: createPlans(byId("why"), byId("candidates")),
  charts: createCharts(byId("latency"), byId("mix")),
  requests: createRequests(byId("requests"), byId("requests-note"), byId("pause")),
  controls: createControls(byId("controls"), query),
  journey: createTry(byId("try"), query),
};
byId("legend-plans").append(...legend());
byId("legend-requests").append(...legend());

function onWhole(whole) {
  if (state && state.started !== whole.started) toast("The agent was started anew; its numbers begin again.");
  state = whole;
  describe();
  for (const part of Object.values(parts)) part.begin?.(state);
  update();
  parts.requests.update(state);
}

function onNow(now) {
  if (!state) return;
  const { history, ...rest } = now;
  const first = history.length ? history[0].at : Infinity;
  state.history = [...state.history.filter((each) => each.at < first), ...history]
    .filter((each) => each.at > now.at - HISTORY_SECONDS);
  state.now = rest;
  update();
}

function onRequests(requests) {
  if (!state) return;
  const last = state.requests.at(-1)?.number ?? -1;
  const fresh = requests.filter((each) => each.number > last);  // the whole may have told the first of these
  state.requests = [...state.requests, ...fresh].slice(-MAX_REQUESTS);
  parts.road.travel(fresh);
  parts.strip.light(fresh);
  parts.requests.update(state);
}

function update() {
  figures();
  byId("legend-plans").hidden = !state.now.candidates.length;
  for (const name of ["road", "strip", "plans", "charts", "controls"]) parts[name].update(state);
}

function describe() {
  const { model, models, selected: name } = state;
  say(byId("model"), `${model.name} version ${model.version}`);
  document.title = `Offramp: ${model.name}`;
  byId("testbed").hidden = !state.testbed;
  byId("testbed").parentElement.classList.toggle("single", !state.testbed);
  const choice = byId("models");
  choice.hidden = models.length < 2;
  byId("model").hidden = models.length > 1;
  choice.querySelector("select").replaceChildren(
    ...models.map((each) => h("option", { value: each, selected: each === name }, each.replace(":", " version "))));
  say(byId("footer"), `Offramp ${state.version}. Model ${model.hash.slice(0, 12)}. ` +
    (state.testbed ? "On a testbed: links are emulated and can be changed here." : "Looking only: nothing can be changed here."));
}

function figures() {
  const { window: found, plan, totals } = state.now;
  const all = found.exits.reduce((a, b) => a + b, 0);
  const early = all ? 1 - found.exits.at(-1) / all : null;
  const shown = [
    ["requests a second", found.per_second.toFixed(found.per_second < 10 ? 1 : 0)],
    ["median", ms(found.p50_seconds)],
    ["95 % within", ms(found.p95_seconds)],
    ["plan expects", ms(plan.expected_seconds)],
    ["left early", percent(early)],
    ["degraded / refused", `${found.degraded} / ${found.refused}`],
  ];
  const list = byId("figures");
  if (!list.children.length) list.append(...shown.map(([name]) => h("div", {}, h("dt", {}, name), h("dd", {}, ""))));
  shown.forEach(([, value], i) => say(list.children[i].lastChild, value));
  list.title = `${totals.requests.toLocaleString("en")} requests since the start; figures are of the last minute, times without the client's own call`;
}

/** What is watched is served no more: on to what is. */
function forget() {
  selected = null;
  history.replaceState(null, "", location.pathname);
}

function join() {
  disconnect?.();
  disconnect = connect(selected, { whole: onWhole, now: onNow, requests: onRequests, again: join, gone: forget });
}

byId("models").querySelector("select").addEventListener("change", (event) => {
  selected = event.target.value;
  history.replaceState(null, "", query());
  toast(`Showing ${title(selected.replace(":", " version "))}.`);
  join();
});
addEventListener("themechange", () => { if (state) parts.charts.begin(state); });
join();
