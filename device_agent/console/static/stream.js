// The events of the agent, joined again by themselves when it restarts.

import { byId, say } from "./dom.js";

const SILENCE_MS = 6000;

export function connect(model, on) {
  const source = new EventSource(`/api/events${model ? `?model=${encodeURIComponent(model)}` : ""}`);
  let heard = performance.now();
  const show = (state, text) => {
    byId("status").dataset.state = state;
    say(byId("status").querySelector("span"), text);
  };
  for (const name of ["whole", "now", "requests"])
    source.addEventListener(name, (event) => {
      heard = performance.now();
      show("live", "live");
      on[name](JSON.parse(event.data));
    });
  const retry = () => {
    show("lost", "agent not reachable, trying again");
    if (source.readyState !== EventSource.CLOSED) return;  // the browser tries again by itself
    refused(model, on).then((why) => { if (why) show("lost", why); });
    setTimeout(() => { stop(); on.again(); }, 2000);
  };
  source.addEventListener("error", retry);
  const watch = setInterval(() => {
    if (performance.now() - heard > SILENCE_MS && source.readyState === EventSource.OPEN)
      show("lost", "nothing heard for a while");
  }, 1000);
  const stop = () => { clearInterval(watch); source.close(); };
  return stop;
}

/** Why the agent will not tell of `model`, in its own words; nothing where it does not answer. */
async function refused(model, on) {
  const path = `/api/state${model ? `?model=${encodeURIComponent(model)}` : ""}`;
  const reply = await fetch(path, { signal: AbortSignal.timeout(1500) }).catch(() => null);
  if (reply === null || reply.status === 502) return "";
  if (reply.ok) return "too many pages are open, trying again";
  if (reply.status === 400 && model) on.gone();
  return (await reply.json().catch(() => ({}))).error ?? `the agent answered ${reply.status}`;
}

/** A call that does something. Throws an Error with the agent's own sentence. */
export async function call(method, path, body) {
  const reply = await fetch(path, {
    method, body: body instanceof Blob || body === undefined ? body : JSON.stringify(body),
    headers: { "X-Offramp-Console": "1" }, signal: AbortSignal.timeout(30000),
  });
  const said = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(said.error ?? `the agent answered ${reply.status}`);
  return said;
}
