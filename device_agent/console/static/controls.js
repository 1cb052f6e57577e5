// On a testbed: the emulated links, and a bounded load of samples.

import { h, say, toast } from "./dom.js";
import { ms, rate, title } from "./format.js";
import { call } from "./stream.js";

const RATE = { low: 4, high: 9 }, RTT = { low: 0, high: 3 };
const STEPS = 200;
const PRESETS = [["Fibre", 500e6, 0.004], ["Wi-Fi", 20e6, 0.01], ["LTE", 8e6, 0.05], ["3G", 1e6, 0.12], ["Trickle", 1e5, 0.01]];

const toValue = (position, { low, high }) => 10 ** (low + (position / STEPS) * (high - low));
const toPosition = (value, { low, high }) => Math.round(STEPS * (Math.log10(Math.max(value, 1e-9)) - low) / (high - low));

function slider(name, label, range, change, shown) {
  const output = h("output", { for: name });
  const input = h("input", {
    type: "range", id: name, min: 0, max: STEPS, step: 1,
    oninput: () => say(output, shown(toValue(input.valueAsNumber, range))),
    onchange: () => change(toValue(input.valueAsNumber, range)),
  });
  const set = (value) => {
    if (document.activeElement === input && input.matches(":active")) return;
    input.value = toPosition(value, range);
    say(output, shown(value));
    input.setAttribute("aria-valuetext", shown(value));
  };
  return { root: h("div", { class: "slider" }, h("label", { for: name }, label), input, output), set };
}

function linkControl(number) {
  const put = (wanted) => call("PUT", `/api/links/${number}`, wanted).catch((error) => toast(`The link was not changed: ${error.message}`));
  const speed = slider(`rate-${number}`, "Rate", RATE, (bits) => put({ bits_per_second: Math.round(bits) }), (bits) => rate(bits / 8));
  const delay = slider(`rtt-${number}`, "RTT", RTT, (milliseconds) => put({ rtt_seconds: milliseconds / 1000 }), (milliseconds) => ms(milliseconds / 1000));
  const cut = h("button", { type: "button", class: "cut", "aria-pressed": "false", onclick: () => put({ carrying: cut.getAttribute("aria-pressed") === "true" }) }, "Cut");
  const presets = PRESETS.map(([name, bits, rtt]) => h("button", {
    type: "button", title: `${rate(bits / 8)}, ${ms(rtt)}`,
    onclick: () => put({ bits_per_second: bits, rtt_seconds: rtt, carrying: true }),
  }, name));
  const name = h("span", {});
  const root = h("fieldset", {}, h("legend", {}, name, cut), speed.root, delay.root, h("div", { class: "buttons" }, presets));
  return {
    root,
    update({ source, target, emulated }) {
      say(name, `${title(source)} to ${target}`);
      root.disabled = cut.disabled = !emulated;
      if (!emulated) return;
      speed.set(8 * emulated.bytes_per_second);
      delay.set(Math.max(1000 * emulated.rtt_seconds, 1));
      cut.setAttribute("aria-pressed", String(!emulated.carrying));
      say(cut, emulated.carrying ? "Cut" : "Mend");
    },
  };
}

function loadControl(query) {
  const pace = h("input", { type: "number", id: "load-rate", min: 1, max: 100, value: 20, inputmode: "numeric" });
  const length = h("select", { id: "load-seconds" }, [[30, "30 s"], [60, "1 min"], [300, "5 min"]].map(([value, name]) => h("option", { value, selected: value === 60 }, name)));
  const left = h("p", { class: "note" });
  let running = false, own = true;
  const button = h("button", { type: "button", class: "strong", id: "load-button", onclick: () => {
    const wanted = running ? { stop: true } : { per_second: Number(pace.value), seconds: Number(length.value) };
    call("POST", `/api/load${query()}`, wanted).then(({ load }) => update(load)).catch((error) => toast(error.message));
  } }, "Send samples");
  const root = h("fieldset", { class: "load" }, h("legend", {}, "Sample load"),
    h("div", { class: "buttons" }, h("label", { for: "load-rate" }, pace, " a second"), h("label", { for: "load-seconds" }, "for ", length), button), left);
  function update(load, samples) {
    own = samples ?? own;
    running = Boolean(load);
    say(button, running ? "Stop" : "Send samples");
    say(left, running ? `sending ${load.per_second} a second, ${Math.ceil(load.seconds_left)} s left`
      : own ? "Sends the bundle's own samples, one by one." : "Sends drawn shapes: this bundle carries no samples.");
  }
  return { root, update };
}

export function createControls(root, query) {
  const links = [linkControl(0), linkControl(1)], load = loadControl(query);
  root.append(...links.map((each) => each.root), load.root);
  return {
    update({ now, testbed, model }) {
      if (!testbed) return;
      now.links.forEach((each, i) => links[i].update(each));
      load.update(now.load, model.samples > 0);
    },
  };
}
