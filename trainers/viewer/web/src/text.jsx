// Text from models, passages and files. It is untrusted: it is only ever shown as text, and characters that change how
// text is read (control characters, ANSI escapes, bidirectional and invisible ones) are shown as marks.

const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\u{e0000}-\u{e007f}]/gu;

const mark = (character) => `[U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;

/** Text for attributes and titles. */
export const plain = (value) => String(value ?? "").replace(HIDDEN, mark);

/** Text for elements: marks are set apart. */
export function visible(value) {
  const text = String(value ?? "");
  if (text.search(HIDDEN) < 0) return text;
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(HIDDEN)) {
    if (found.index > end) parts.push(text.slice(end, found.index));
    parts.push(<span class="control">{mark(found[0])}</span>);
    end = found.index + found[0].length;
  }
  parts.push(text.slice(end));
  return parts;
}

/** A block of text that wraps, as it is written. */
export const Text = ({ children, class: name = "" }) => (
  <div class={`text ${name}`} dir="auto">
    {visible(children)}
  </div>
);

/** A number with few digits; a dash where there is none. */
export function number(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1000 || (size > 0 && size < 10 ** -digits) ? value.toPrecision(2) : value.toFixed(digits);
}

export const signed = (value, digits = 2) =>
  value === null || value === undefined ? "–" : (value > 0 ? "+" : "") + number(value, digits).replace("-", "−");

/** Background of a value on the diverging scale from −limit (orange) over 0 to limit (blue). */
export function shade(value, limit) {
  if (value === null || value === undefined || !limit) return undefined;
  const share = Math.round(Math.min(1, Math.abs(value) / limit) * 70);
  return { backgroundColor: `color-mix(in srgb, var(${value < 0 ? "--negative" : "--positive"}) ${share}%, transparent)` };
}
