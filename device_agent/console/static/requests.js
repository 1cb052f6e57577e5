// The last requests, newest first, each with its waterfall; one of them open with all its numbers.

import { h, say } from "./dom.js";
import { bytes, clock, ms, sure, title } from "./format.js";
import { bar, hopParts, STAGES } from "./stages.js";

const ROWS = 14, EVERY_MS = 700;

function details(request) {
  const head = h("tr", {}, ["", ...STAGES, "sum", "sent", "got back"].map((name) => h("th", { scope: "col" }, name)));
  const rows = request.hops.map((hop) => {
    const times = STAGES.map((stage) => hop[`${stage}_seconds`]);
    return h("tr", {}, h("th", { scope: "row" }, h("i", { class: `key t-${hop.tier} s-compute` }), title(hop.tier)),
      times.map((seconds) => h("td", { class: seconds ? null : "nil" }, ms(seconds))),
      h("td", {}, h("b", {}, ms(times.reduce((a, b) => a + b, 0)))), h("td", {}, bytes(hop.bytes_up)), h("td", {}, bytes(hop.bytes_down)));
  });
  const expected = request.expected_seconds === null ? "fixed plan" : `expected ${ms(request.expected_seconds)}`;
  return h("div", { class: "details" },
    h("p", {}, h("code", {}, request.id), h("span", {}, `${request.samples} ${request.samples === 1 ? "sample" : "samples"}`),
      h("span", {}, "plan ", h("code", {}, request.plan)), h("span", {}, `${expected}, took ${ms(request.seconds)}, without the client's own call`),
      request.degraded ? h("span", { class: "warn" }, `degraded: ${request.degraded.replaceAll("_", " ")}`) : null),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Stages of this request" }, h("table", {}, h("thead", {}, head), h("tbody", {}, rows))));
}

export function createRequests(root, note, pause) {
  let state = null, open = null, held = false, waiting = null, at = 0;
  const body = h("div", { class: "rows" });
  const empty = h("p", { class: "empty" }, "No request yet. Follow one input above, start the sample load, or run ",
    h("code", {}, "offramp infer IMAGE"), ".");
  root.append(empty, body);

  function row(request, longest, exits) {
    const exit = exits[request.exits.reduce((far, n, i) => (n ? i : far), 0)];
    const opened = open === request.number;
    const button = h("button", { type: "button", class: "row", "aria-expanded": String(opened), "data-number": request.number, onclick: () => toggle(request.number) },
      h("span", { class: "when" }, clock(request.at)),
      h("span", { class: "answer" }, h("b", {}, request.label), h("small", {}, sure(request.confidence))),
      h("span", { class: "left" }, h("i", { class: `key t-${request.tier} s-compute` }), `${title(request.tier)}, ${exit.name} exit`,
        request.degraded ? h("em", { class: "warn" }, " degraded") : null),
      bar(hopParts(request.hops), longest),
      h("span", { class: "took" }, ms(request.seconds)));
    return h("div", { class: opened ? "request open" : "request" }, button, opened ? details(request) : null);
  }

  function toggle(number) {
    open = open === number ? null : number;
    draw(true);
  }

  function looking() {
    return held || body.contains(document.activeElement) || open !== null;
  }

  function draw(force) {
    waiting = null;
    if (!state || (looking() && !force && body.children.length)) return tell();
    at = performance.now();
    const shown = force && drawn.length ? drawn : state.requests.slice(-ROWS).reverse();
    drawn = shown;
    const longest = Math.max(...shown.map((each) => each.seconds), 1e-6);
    const focused = document.activeElement?.dataset?.number;
    empty.hidden = shown.length > 0;
    body.replaceChildren(...shown.map((each) => row(each, longest, state.model.exits)));
    if (focused) body.querySelector(`[data-number="${focused}"]`)?.focus();
    tell();
  }
  let drawn = [];

  function tell() {
    const behind = state ? state.requests.filter((each) => each.number > (drawn[0]?.number ?? 0)).length : 0;
    say(note, looking() && behind ? `held; ${behind}${behind >= 100 ? " or more" : ""} newer` : drawn.length ? "each bar is one request: where its time went, from the device's door on" : "");
  }

  pause.addEventListener("click", () => {
    held = !held;
    pause.setAttribute("aria-pressed", String(held));
    say(pause, held ? "Go on" : "Hold");
    if (!held) { open = null; document.activeElement?.blur(); draw(false); }
  });
  body.addEventListener("focusout", () => setTimeout(() => draw(false)));
  body.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && open !== null) toggle(open);
    const rows = [...body.querySelectorAll(".row")], now = rows.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && now >= 0) { event.preventDefault(); rows[now + step]?.focus(); }
  });

  return {
    begin() { open = null; drawn = []; body.replaceChildren(); },
    update(given) {
      state = given;
      if (waiting === null) waiting = setTimeout(() => draw(false), Math.max(0, EVERY_MS - (performance.now() - at)));
    },
  };
}
