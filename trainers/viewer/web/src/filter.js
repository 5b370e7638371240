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
  const passes = names.map((name) => {
    if (!wanted[name]) return null;
    return Uint8Array.from(data.values[name], (value) => labels(name, value).some((label) => wanted[name].has(label)));
  });
  // Of each kind of rows, the only facet that excludes it; −1: none does; −2: several do.
  const excluded = data.first.map((row) => {
    const by = names.flatMap((name, i) => (passes[i] && !passes[i][data.codes[name][row]] ? [i] : []));
    return by.length > 1 ? -2 : (by[0] ?? -1);
  });
  const sizes = new Uint32Array(data.first.length);
  const rows = [];
  for (let row = 0; row < data.size; row++) {
    if (found && !found(row)) continue;
    const kind = data.kind[row];
    sizes[kind]++;
    if (excluded[kind] === -1) rows.push(row);
  }
  const counts = names.map((name, i) => {
    const sums = new Uint32Array(data.values[name].length);
    data.first.forEach((row, kind) => {
      if (excluded[kind] === -1 || excluded[kind] === i) sums[data.codes[name][row]] += sizes[kind];
    });
    return [name, totals(data, name, sums, wanted[name])];
  });
  return { rows: sort(data, rows, query.get("sort")), counts: Object.fromEntries(counts) };
}

function totals(data, name, counts, wanted) {
  const sums = new Map();
  data.values[name].forEach((value, code) => {
    for (const label of labels(name, value)) sums.set(label, (sums.get(label) ?? 0) + counts[code]);
  });
  for (const label of wanted ?? []) if (!sums.has(label)) sums.set(label, 0);
  if (name === "outcome") return OUTCOMES.filter((label) => sums.has(label)).map((label) => [label, sums.get(label)]);
  const numeric = [...sums.keys()].every((label) => label === "none" || !Number.isNaN(+label));
  const place = (label) => (label === "none" ? Infinity : +label);
  return [...sums].sort((a, b) => (numeric ? place(a[0]) - place(b[0]) : b[1] - a[1]));
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
