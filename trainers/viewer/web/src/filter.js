// Filters: rows that pass all of them, in order, and for each value of a facet how many rows it would give.
import { FACETS, facet } from "./store.js";

export const SORTS = ["question", "reward", "f1", "recall", "rounds", "searches", "iteration"];

const OUTCOMES = ["right", "wrong", "no answer", "failed"];

/** The facets that the address filters by: name -> set of texts. */
export function chosen(query) {
  const found = {};
  for (const name of Object.keys(FACETS)) {
    const values = query.getAll(name);
    if (values.length) found[name] = new Set(values);
  }
  return found;
}

/** A value of the column `errors` lists several. */
const labels = (name, value) => (name === "errors" ? (value ? value.split(",") : ["none"]) : [String(value ?? "") || "none"]);

/**
 * @param data the rows
 * @param query the filters of the address
 * @param found a function that says whether a row has the searched text; null without a search
 * @returns rows that pass, in order; and counts: facet -> label -> rows
 */
export function select(data, query, found) {
  const wanted = chosen(query);
  const names = Object.keys(FACETS);
  const counts = names.map((name) => new Uint32Array(data.values[name].length));
  const passes = names.map((name) => {
    if (!wanted[name]) return null;
    return Uint8Array.from(data.values[name], (value) => labels(name, value).some((label) => wanted[name].has(label)));
  });
  const codes = names.map((name) => data.codes[name]);
  const rows = [];
  for (let row = 0; row < data.size; row++) {
    if (found && !found(row)) continue;
    let failed = -1; // the only facet that excludes the row; −2: several
    for (let i = 0; i < names.length; i++) {
      if (passes[i] && !passes[i][codes[i][row]]) {
        failed = failed === -1 ? i : -2;
        if (failed === -2) break;
      }
    }
    if (failed === -2) continue;
    if (failed === -1) {
      rows.push(row);
      for (let i = 0; i < names.length; i++) counts[i][codes[i][row]]++;
    } else counts[failed][codes[failed][row]]++;
  }
  return { rows: sort(data, rows, query.get("sort")), counts: Object.fromEntries(names.map((name, i) => [name, totals(data, name, counts[i], wanted[name])])) };
}

function totals(data, name, counts, wanted) {
  const sums = new Map();
  data.values[name].forEach((value, code) => {
    for (const label of labels(name, value)) sums.set(label, (sums.get(label) ?? 0) + counts[code]);
  });
  for (const label of wanted ?? []) if (!sums.has(label)) sums.set(label, 0);
  if (name === "outcome") return OUTCOMES.filter((label) => sums.has(label)).map((label) => [label, sums.get(label)]);
  const numeric = [...sums.keys()].every((label) => label === "none" || !Number.isNaN(+label));
  return [...sums].sort((a, b) => (numeric ? +a[0] - +b[0] : b[1] - a[1]));
}

function sort(data, rows, order) {
  if (!order) return rows;
  const name = order.replace("-", "");
  if (!SORTS.includes(name)) return rows;
  const value = data[name] ? (row) => data[name][row] : (row) => facet(data, name, row);
  const keys = new Map(rows.map((row) => [row, value(row)]));
  const sign = order.startsWith("-") ? -1 : 1;
  return rows.sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    return sign * (x < y ? -1 : x > y ? 1 : 0) || a - b;
  });
}
