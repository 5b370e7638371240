// The rows of all episodes, by column. Rows come in blocks of up to 2,000; a run that is being written adds blocks and
// takes others away. The data come from the server, or from the page itself (an exported file).
import { useEffect, useState } from "preact/hooks";

const EVERY = 2000; // milliseconds between two looks at a run that is being written
const AT_ONCE = 12; // blocks per request

/** Columns that filters offer: name -> heading. "file…" columns come from the row's file. */
export const FACETS = {
  outcome: "Outcome",
  source: "Source",
  trainer: "Trainer",
  kind: "Episodes of",
  iteration: "Iteration",
  type: "Question type",
  hops: "Hops",
  rounds: "Rounds",
  stop: "Why it ended",
  errors: "Errors",
  assisted: "Feedback",
  valid: "For training",
  agent: "Agent",
};

const PLAIN = ["line", "episode_id", "group_id", "task_id", "question", "answer", "gold", "f1", "recall", "reward", "searches"];

let packed = null; // the data of an exported file

async function unpack() {
  const element = document.getElementById("data");
  if (!element || packed) return;
  const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  packed = await new Response(stream).json();
}

async function get(path, query = {}) {
  const response = await fetch(`api/${path}?${new URLSearchParams(query)}`);
  const value = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (value?.error) throw new Error(value.error);
  return value;
}

const getState = () => (packed ? packed.state : get("state"));
export const getAbout = async (source) => (packed ? packed.about[source] : get("about", { source }));

async function getBlocks(ids) {
  if (packed) return Object.fromEntries(ids.map((id) => [id, JSON.parse(packed.blocks[id])]));
  return get("blocks", { id: ids.join(",") });
}

const opened = new Map(); // episodes that were read last

export async function getEpisode(file, line) {
  const key = `${file}:${line}`;
  if (!opened.has(key)) {
    const found = packed ? packed.episodes[file]?.[line] : get("episode", { file, line });
    if (!found) throw new Error(`this file holds no episode ${+line + 1} of ${file}`);
    opened.set(key, found);
    if (opened.size > 64) opened.delete(opened.keys().next().value);
  }
  try {
    return await opened.get(key);
  } catch (error) {
    opened.delete(key);
    throw error;
  }
}

/** Rows in whose text or passages each word begins a word: a function of a row. */
export async function search(text, data) {
  const words = text.match(/[\p{L}\p{N}]+/gu) ?? [];
  if (!words.length) return () => false;
  if (packed) {
    const patterns = words.map((word) => new RegExp(`(?<![\\p{L}\\p{N}])${word}`, "iu"));
    const hits = new Set();
    for (let row = 0; row < data.size; row++) {
      const text = searched(packed.episodes[data.file[row].key][data.line[row]].episode);
      if (patterns.every((pattern) => pattern.test(text))) hits.add(row);
    }
    return (row) => hits.has(row);
  }
  const found = await get("search", { q: text });
  const hits = new Map();
  for (const [block, positions] of Object.entries(found)) {
    const rows = new Uint8Array(4096); // more than a block has
    for (const position of positions) rows[position] = 1;
    hits.set(+block, rows);
  }
  return (row) => hits.get(data.block[row])?.[data.position[row]] === 1;
}

function searched(episode) {
  const parts = [episode.question, episode.task_id, episode.episode_id, episode.outcome.answer, ...(episode.gold.answers ?? [])];
  for (const round of episode.rounds) {
    parts.push(round.text, round.feedback.text, round.judge.reason, ...round.results.flat().flatMap((hit) => [hit.title, hit.text]));
  }
  return parts.join("\n");
}

const EMPTY = { state: null, data: null, error: "" };
let current = EMPTY;
const listeners = new Set();

function publish(change) {
  current = { ...current, ...change };
  for (const listener of listeners) listener(current);
}

export function useStore() {
  const [store, setStore] = useState(current);
  useEffect(() => {
    listeners.add(setStore);
    setStore(current);
    return () => listeners.delete(setStore);
  }, []);
  return store;
}

const blocks = new Map(); // id -> its columns

async function refresh() {
  const state = await getState();
  const wanted = state.files.flatMap((file) => file.blocks.map(([id]) => id));
  const missing = wanted.filter((id) => !blocks.has(id));
  const kept = new Set(wanted);
  const gone = [...blocks.keys()].filter((id) => !kept.has(id));
  for (const id of gone) blocks.delete(id);
  for (let start = 0; start < missing.length; ) {
    const size = blocks.size ? AT_ONCE : 1; // the first rows are shown at once
    const found = await getBlocks(missing.slice(start, start + size));
    for (const [id, columns] of Object.entries(found)) blocks.set(+id, columns);
    start += size;
    if (start === size || start >= missing.length) publish({ state, data: arrange(state), error: "" });
  }
  if (!missing.length) publish({ state, error: "", ...(gone.length || !current.data ? { data: arrange(state) } : {}) });
}

/** All rows by column, and for each facet the number of its value in each row. */
function arrange(state) {
  const data = { size: 0, file: [], block: [], position: [], sources: state.sources, codes: {}, values: {} };
  for (const name of PLAIN) data[name] = [];
  const columns = Object.fromEntries(Object.keys(FACETS).map((name) => [name, []]));
  for (const file of state.files) {
    for (const [id] of file.blocks) {
      const block = blocks.get(id);
      if (!block) continue;
      const rows = block.line.length;
      for (const name of PLAIN) append(data[name], block[name]);
      for (const name of ["type", "agent", "stop", "errors", "hops", "rounds"]) append(columns[name], block[name]);
      for (let i = 0; i < rows; i++) {
        data.file.push(file);
        data.block.push(id);
        data.position.push(i);
        columns.source.push(file.source);
        columns.trainer.push(file.trainer);
        columns.kind.push(file.kind);
        columns.iteration.push(file.iteration);
        columns.assisted.push(block.assisted[i] ? "used" : "not used");
        columns.valid.push(block.valid[i] ? "valid" : "not valid");
        columns.outcome.push(outcome(block.em[i], block.stop.values[block.stop.codes[i]]));
      }
      data.size += rows;
    }
  }
  for (const [name, column] of Object.entries(columns)) {
    const known = new Map();
    data.codes[name] = Uint32Array.from(column, (value) => {
      if (!known.has(value)) known.set(value, known.size);
      return known.get(value);
    });
    data.values[name] = [...known.keys()];
  }
  Object.assign(data, kinds(data));
  return data;
}

/**
 * Rows with the same value in every facet are of one kind; there are far fewer kinds than rows, and filters look at kinds.
 * Returns kind (of each row) and first (a row of each kind).
 */
function kinds(data) {
  let kind = new Uint32Array(data.size);
  for (const [name, codes] of Object.entries(data.codes)) {
    const size = data.values[name].length;
    const known = new Map();
    kind = kind.map((old, row) => {
      const key = old * size + codes[row];
      let found = known.get(key);
      if (found === undefined) known.set(key, (found = known.size));
      return found;
    });
  }
  const first = [];
  kind.forEach((one, row) => (first[one] ??= row));
  return { kind, first };
}

const FAILURES = new Set(["retrieval_failed", "agent_failed", "aborted"]); // `StopReason.is_failure`

/** What an episode came to, in a word. */
export function outcome(em, stop) {
  if (FAILURES.has(stop)) return "failed";
  if (em >= 1) return "right";
  return stop === "answered" ? "wrong" : "no answer";
}

function append(target, column) {
  if (Array.isArray(column)) for (const value of column) target.push(value);
  else for (const code of column.codes) target.push(column.values[code]);
}

export const facet = (data, name, row) => data.values[name][data.codes[name][row]];

export async function start() {
  await unpack();
  for (;;) {
    try {
      await refresh();
    } catch (error) {
      publish({ error: current.data && !packed ? "The viewer has stopped: what was read is still here." : String(error.message ?? error) });
    }
    if (packed) return;
    await new Promise((resolve) => setTimeout(resolve, current.state?.ready ? EVERY : EVERY / 4));
  }
}

export const exported = () => packed !== null;
