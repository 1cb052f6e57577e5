// A black field to draw on in white, with mouse, finger or pen.

import { h } from "./dom.js";

const SIZE = 280, PEN = 22, REST_MS = 650;

/** Calls `done` with a PNG a moment after the last stroke. */
export function createDrawing(done) {
  const canvas = h("canvas", { width: SIZE, height: SIZE, class: "drawing", role: "img", "aria-label": "Field to draw a digit on" });
  const pen = canvas.getContext("2d");
  let waiting = null, last = null;

  function clear() {
    clearTimeout(waiting);
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, SIZE, SIZE);
    canvas.classList.remove("drawn");
  }

  function point(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * SIZE) / box.width, ((event.clientY - box.top) * SIZE) / box.height];
  }

  function line(to) {
    pen.strokeStyle = "#fff";
    pen.lineWidth = PEN;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(...(last ?? to));
    pen.lineTo(...to);
    pen.stroke();
    last = to;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (canvas.classList.contains("sent")) clear();
    canvas.classList.remove("sent");
    canvas.classList.add("drawn");
    canvas.setPointerCapture(event.pointerId);
    clearTimeout(waiting);
    last = null;
    line(point(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) line(point(each));
  });
  canvas.addEventListener("pointerup", () => { waiting = setTimeout(send, REST_MS); });

  function send() {
    clearTimeout(waiting);
    canvas.classList.add("sent");
    canvas.toBlob(done, "image/png");
  }

  clear();
  return { canvas, clear, send };
}
