// Numbers as people read them. Unknown is "unknown", or a dash where there is no room.

const three = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3, useGrouping: value >= 10000 });

export const known = (value) => value !== null && value !== undefined;

export function ms(seconds) {
  if (!known(seconds)) return "–";
  const value = 1000 * seconds;
  if (value >= 10000) return `${three(seconds)} s`;
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

export function rate(bytesPerSecond) {
  const bits = 8 * bytesPerSecond;
  for (const [unit, size] of [["Gbit/s", 1e9], ["Mbit/s", 1e6], ["kbit/s", 1e3]])
    if (bits >= 0.9995 * size) return `${three(bits / size)} ${unit}`;
  return `${three(bits)} bit/s`;
}

export function bytes(count) {
  if (!known(count)) return "–";
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
    if (count >= size) return `${three(count / size)} ${unit}`;
  return `${Math.round(count)} B`;
}

export function percent(share) {
  if (!known(share)) return "–";
  const value = 100 * share;
  return `${value > 0 && value < 1 ? "<1" : value.toFixed(0)} %`;
}

/** A confidence or threshold; close to one, as many digits as tell it from one. */
export function sure(value) {
  if (!known(value)) return "–";
  return value > 0.995 && value < 1 ? (Math.floor(value * 10000) / 10000).toFixed(4) : value.toFixed(3);
}

/** When a sample leaves at an exit, in lines: nobody is sure enough for a threshold above one. */
export function condition({ threshold, calibrated }) {
  if (threshold > 1) return [...(calibrated ? [] : ["not calibrated:"]), "never leaves here"];
  return [threshold > 0 ? `if ${sure(threshold)} sure` : "all that come"];
}

/** "12 s", "3 min": how long something has lasted. */
export const ago = (seconds) => (seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);

export const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString("en-GB");
export const title = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const shape = (sizes) => sizes.join("×");

/** "blocks 1–8", counted as people do, from one. */
export function blocks(start, end) {
  if (start === end) return "no blocks";
  return end - start === 1 ? `block ${end}` : `blocks ${start + 1}–${end}`;
}
