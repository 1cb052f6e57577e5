// One input on its journey: drawn, dropped, chosen, or one of the bundle's samples.

import { h, toast } from "./dom.js";
import { createDrawing } from "./draw.js";
import { bytes, condition, ms, percent, shape, sure, title } from "./format.js";
import { call } from "./stream.js";

const SAMPLES = 12;

function tiles(step) {
  const many = step.tiles.length, columns = many === 1 ? 1 : many <= 4 ? 2 : many <= 9 ? 3 : many <= 16 ? 4 : 6;
  const more = step.channels > many && step.shape.length === 3 ? h("small", {}, `${many} of ${step.channels} channels`) : null;
  return [h("div", { class: "tiles", style: { "--columns": columns } },
    step.tiles.map((url) => h("img", { src: url, alt: "" }))), more];
}

function verdict(exit, leaves, travelled) {
  if (leaves && exit.confidence < exit.threshold) return "answers here: nobody above did";
  if (leaves) return exit.threshold > 0 ? "sure enough, leaves here" : "last exit, answers here";
  if (exit.threshold > 1) return condition(exit).join(" ");
  if (travelled) return "not sure enough, travels on";
  return exit.confidence >= exit.threshold ? "would have left here at the latest" : "would have travelled on";
}

function gauge(exit, leaves, travelled) {
  const said = verdict(exit, leaves, travelled);
  return h("div", { class: "verdict" },
    h("p", {}, h("b", {}, exit.label), ` ${sure(exit.confidence)} sure`),
    h("div", { class: "gauge", role: "img", "aria-label": `confidence ${sure(exit.confidence)}, ${condition(exit).join(" ")}` },
      h("i", { style: { width: `${100 * exit.confidence}%` } }), exit.threshold > 0 && exit.threshold <= 1 ? h("u", { style: { left: `${100 * exit.threshold}%` } }) : null),
    h("small", {}, exit.threshold > 0 && exit.threshold <= 1 ? `needs ${sure(exit.threshold)}: ${said}` : title(said)));
}

function stepCard(step, found, tier) {
  const leaves = step.exit && step.exit.index === found.exit;
  return h("li", { class: `step t-${tier}${step.travelled ? "" : " beyond"}${leaves ? " leaves" : ""}` },
    h("h4", {}, `After block ${step.split_point}`, h("span", {}, step.travelled ? title(step.tier) : "not needed")),
    h("figure", { "aria-label": `Activation ${shape(step.shape)}` }, tiles(step), h("figcaption", {}, shape(step.shape))),
    step.exit ? gauge(step.exit, leaves, step.travelled) : null,
    step.codec && step.travelled && !leaves ? h("p", { class: "crossing" }, `crosses as ${step.codec}, ${bytes(step.bytes)}`) : null);
}

function answer(found) {
  const right = found.truth === undefined ? null : h("small", {}, found.truth === found.label ? "right, it is one" : `it is ${found.truth}`);
  return h("div", { class: `answer-card t-${found.tier}` },
    h("p", { class: "big" }, found.label), right,
    h("p", {}, `${sure(found.confidence)} sure, at the ${found.tier}, in ${ms(found.seconds)} from the device's door`),
    found.degraded ? h("p", { class: "warn" }, "degraded: a tier could not be reached in time") : null,
    h("ul", { class: "scores" }, found.scores.map((each) => h("li", {}, h("span", {}, each.label),
      h("i", { style: { "--share": each.score } }), h("span", {}, percent(each.score))))));
}

function journey(found) {
  const [input, ...steps] = found.steps;
  const first = h("li", { class: "step input" }, h("h4", {}, "Input", h("span", {}, "what the network sees")),
    h("figure", {}, h("div", { class: "tiles", style: { "--columns": 1 } }, h("img", { src: found.input, alt: "the input" })), h("figcaption", {}, shape(input.shape))),
    input.codec ? h("p", { class: "crossing" }, `crosses as ${input.codec}, ${bytes(input.bytes)}`) : null);
  return [h("ol", { class: "steps", tabindex: 0, "aria-label": "Steps of the journey" }, first, steps.map((step) => stepCard(step, found, step.tier))), answer(found)];
}

export function createTry(root, query) {
  const result = h("div", { class: "journey", "aria-live": "polite" });
  const welcome = (text) => result.replaceChildren(h("p", { class: "empty" }, text));

  async function go(path, body) {
    root.classList.add("busy");
    try {
      const join = path.includes("?") ? "&" : "?";
      const found = await call("POST", `${path}${query() ? join + query().slice(1) : ""}`, body);
      result.replaceChildren(...journey(found));
    } catch (error) {
      toast(error.name === "TimeoutError" ? "No answer came in time; try again." : `${title(error.message)}.`);
    } finally {
      root.classList.remove("busy");
    }
  }

  const file = h("input", { type: "file", id: "file", accept: "image/png,image/jpeg,image/webp", onchange: () => { if (file.files[0]) go("/api/journey", file.files[0]); file.value = ""; } });
  const drop = h("label", { class: "drop", for: "file" }, h("span", {}, h("b", {}, "Drop a picture here"), " or choose one"), file);
  for (const name of ["dragover", "dragenter"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    const [first] = event.dataTransfer.files;
    if (first) go("/api/journey", first);
  });

  let begun = null;
  return {
    begin({ model }) {
      if (begun === model.hash) return; // the agent came back; what was drawn may stay
      begun = model.hash;
      if (!model.image) {
        root.replaceChildren(h("p", { class: "empty" }, "This model takes arrays, not pictures. Send it some with ", h("code", {}, "offramp infer ARRAY.npy"), " and see them below."));
        return;
      }
      const drawing = model.image[2] === 1 ? createDrawing((blob) => go("/api/journey?drawn=1", blob)) : null;
      const inputs = h("div", { class: "inputs" });
      if (drawing) inputs.append(h("div", { class: "paper" }, drawing.canvas, h("div", { class: "buttons" },
        h("button", { type: "button", onclick: drawing.clear }, "Clear"), h("button", { type: "button", class: "strong", onclick: drawing.send }, "Send"))));
      inputs.append(drop);
      if (model.samples) inputs.append(h("div", { class: "samples", role: "group", "aria-label": "Samples" },
        Array.from({ length: Math.min(SAMPLES, model.samples) }, (_, i) => h("button", { type: "button", "aria-label": `Sample ${i + 1}`, onclick: () => go(`/api/journey?sample=${i}`) },
          h("img", { src: `/api/samples/${i}${query()}`, alt: "", loading: "lazy" })))));
      root.replaceChildren(inputs, result);
      welcome(drawing ? "Draw a digit on the black field, drop a picture, or choose a sample. It travels as a real request; what each part of the network makes of it appears here."
        : "Drop a picture or choose one. It travels as a real request; what each part of the network makes of it appears here.");
    },
  };
}
