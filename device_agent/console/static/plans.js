// The planner's candidates: how each would cut, where its time would go, and why one of them is in force.

import { h, say } from "./dom.js";
import { bytes, ms, title } from "./format.js";
import { bar, ofTerm, TIERS } from "./stages.js";

const parts = (terms) => Object.entries(terms).map(([term, seconds]) => [...ofTerm(term), seconds]);

function mini(stages, last) {
  return h("span", { class: "mini", "aria-hidden": "true" }, TIERS.map((tier) => {
    const stage = stages.find((each) => each.tier === tier);
    const share = stage ? (stage.end - stage.start) / last : 0;
    return h("i", { class: `t-${tier} s-compute`, style: { width: `${100 * share}%` } });
  }));
}

/** "0:8, int4 8:14, fp16 14:20": segments in the order of travel, with the codecs between them. */
export function short(stages) {
  return stages.map((each) => `${each.tier === "device" ? "" : `${each.codec} `}${each.start}:${each.end}`).join(" › ");
}

function row(each, longest, last) {
  return h("li", { class: each.chosen ? "chosen" : null },
    h("div", { class: "what" }, h("b", {}, title(each.name), each.chosen ? h("em", {}, "in force") : null), mini(each.stages, last), h("code", {}, short(each.stages))),
    bar(parts(each.terms), longest),
    h("div", { class: "cost" }, h("strong", {}, ms(each.seconds)), h("small", {}, bytes(each.bytes))));
}

export function createPlans(why, root) {
  let shown = "";
  return {
    update({ now, model }) {
      say(why, now.why);
      const key = JSON.stringify(now.candidates.map((c) => [c.plan, c.chosen, c.seconds.toPrecision(2)]));
      if (key === shown) return;
      shown = key;
      if (!now.candidates.length) {
        root.replaceChildren(h("p", { class: "empty" }, now.plan.fixed
          ? "Start the agent without --splits to have plans compared."
          : "Plans appear here as soon as the tiers above have told what they can do and the links are measured."));
        return;
      }
      const longest = Math.max(...now.candidates.map((each) => each.seconds));
      root.replaceChildren(h("ol", {}, now.candidates.map((each) => row(each, longest, model.split_points.length - 1))));
    },
  };
}
