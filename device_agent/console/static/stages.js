// The stacked bars of plans and of requests: one colour per tier, one shade per stage, the same everywhere.

import { h } from "./dom.js";
import { ms, title } from "./format.js";

export const TIERS = ["device", "edge", "cloud"];
export const STAGES = ["queue", "decode", "compute", "encode", "network"];

/** How much of the exits' colour an exit has: the later, the more. */
export const exitShade = (index, count) => `${48 + (52 * index) / Math.max(count - 1, 1)}%`;

/** A planner's term as [tier, stage]: who would book it in a request's waterfall. */
export function ofTerm(term) {
  const [what, where] = term.split(" ");
  if (where === "compute") return [what, "compute"];
  const lower = what === "encode" || what === "network";
  return [TIERS[Number(where) - (lower ? 1 : 0)], what];
}

/** One bar of [tier, stage, seconds] parts; its whole width is `longest` seconds. */
export function bar(parts, longest) {
  const some = parts.filter(([, , seconds]) => seconds > 0);
  const said = some.map(([tier, stage, seconds]) => `${tier} ${stage} ${ms(seconds)}`).join(", ");
  return h("div", { class: "bar", role: "img", "aria-label": said || "no time" },
    some.map(([tier, stage, seconds]) => h("i", {
      class: `t-${tier} s-${stage}`,
      title: `${title(tier)} ${stage}: ${ms(seconds)}`,
      style: { width: `${100 * Math.min(seconds / longest, 1)}%` },
    })));
}

export const hopParts = (hops) =>
  hops.flatMap((hop) => STAGES.map((stage) => [hop.tier, stage, hop[`${stage}_seconds`]]));

export function legend() {
  const key = (tier, stage, text) => h("span", {}, h("i", { class: `t-${tier} s-${stage}` }), text);
  return [
    h("div", {}, TIERS.map((tier) => key(tier, "compute", title(tier)))),
    h("div", {}, STAGES.map((stage) => key("any", stage, stage))),
  ];
}
