// The table of episodes: filters with counts, search, and rows that are drawn only where they are seen.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { chosen, select, SORTS } from "./filter.js";
import { Outcome, rowOutcome, STOPS } from "./marks.jsx";
import { episodeLink, replaceQuery } from "./route.js";
import { exported, FACETS, facet, search } from "./store.js";
import { number, plain, visible } from "./text.jsx";

const HEIGHT = 34; // pixels of a row, as in style.css

const COLUMNS = [
  { name: "outcome", head: "", width: "28px", cell: (data, row) => <Outcome value={rowOutcome(data, row)} /> },
  { name: "question", head: "Question", width: "minmax(160px, 4fr)", cell: (data, row) => visible(data.question[row]) },
  { name: "answer", head: "Answer", width: "minmax(72px, 1fr)", wide: true, cell: (data, row) => visible(data.answer[row] || "–") },
  { name: "gold", head: "Gold", width: "minmax(72px, 1fr)", wide: true, cell: (data, row) => visible(data.gold[row]) },
  { name: "type", head: "Type, hops", width: "96px", wide: true, cell: (data, row) => visible(`${facet(data, "type", row) || "–"} ${facet(data, "hops", row) || ""}`) },
  { name: "rounds", head: "Rounds", width: "58px", facet: true, numeric: true },
  { name: "recall", head: "Recall", width: "52px", wide: true, numeric: true, cell: (data, row) => number(data.recall[row]) },
  { name: "reward", head: "Reward", width: "56px", numeric: true, cell: (data, row) => number(data.reward[row]) },
  { name: "stop", head: "Ended", width: "108px", wide: true, cell: ended },
  { name: "iteration", head: "From", width: "minmax(76px, 116px)", wide: true, cell: origin, optional: ["iteration", "kind", "source"] },
];

function ended(data, row) {
  const errors = facet(data, "errors", row);
  const stop = facet(data, "stop", row);
  const parts = [...(stop === "answered" && errors ? [] : [stop]), ...(errors ? errors.split(",") : [])];
  return visible(parts.join(" · ").replaceAll("_", " "));
}

function origin(data, row) {
  const { source, kind, iteration } = data.file[row];
  const name = iteration === null ? "" : `${kind} ${iteration}`;
  return visible(data.values.source.length > 1 ? `${source} ${name}` : name);
}

/** The selection of the address; kept while an episode of it is read, for "next" and "previous". */
export function useSelection(data, query) {
  const [found, setFound] = useState({ text: "", test: null });
  const text = query.get("q") ?? "";
  useEffect(() => {
    let current = true;
    if (!text) setFound({ text: "", test: null });
    else search(text, data).then((test) => current && setFound({ text, test }), () => {});
    return () => {
      current = false;
    };
  }, [text, data]);
  const test = text && found.text === text ? found.test : null;
  return useMemo(() => ({ ...select(data, query, test), query }), [data, query.toString(), test]);
}

export function Table({ data, query, selection, at, setAt, searchBox }) {
  const { rows, counts } = selection;
  const [filters, setFilters] = useState(false);
  const columns = COLUMNS.filter((column) => !column.optional || column.optional.some((name) => data.values[name].length > 1));
  const change = (edit) => {
    const next = new URLSearchParams(query);
    edit(next);
    replaceQuery(next);
    setAt(0);
  };
  const toggle = (name, label) =>
    change((next) => {
      const had = next.getAll(name);
      next.delete(name);
      for (const other of had) if (other !== label) next.append(name, other);
      if (!had.includes(label)) next.append(name, label);
    });
  const order = (name) =>
    change((next) => next.set("sort", next.get("sort") === `-${name}` ? name : `-${name}`));
  const active = [...query.keys()].filter((name) => name !== "sort").length;
  return (
    <div class="browse">
      <aside class={filters ? "filters open" : "filters"} aria-label="Filters">
        <Filters data={data} counts={counts} wanted={chosen(query)} toggle={toggle} />
      </aside>
      <section class="list">
        <div class="tools">
          <Search box={searchBox} text={query.get("q") ?? ""} set={(text) => change((next) => (text ? next.set("q", text) : next.delete("q")))} />
          <button class="filter-button" aria-expanded={filters} onClick={() => setFilters(!filters)}>
            Filters{active ? ` (${active})` : ""}
          </button>
          <span class="count" role="status">
            {rows.length.toLocaleString("en")} of {data.size.toLocaleString("en")} episodes
          </span>
          {active ? <button onClick={() => replaceQuery(new URLSearchParams())}>Clear filters</button> : null}
        </div>
        <Rows {...{ data, rows, columns, at, setAt, order }} sort={query.get("sort") ?? ""} />
      </section>
    </div>
  );
}

function Search({ box, text, set }) {
  const timer = useRef(0);
  useEffect(() => {
    if (document.activeElement !== box.current) box.current.value = text;
  }, [text]);
  const typed = (event) => {
    clearTimeout(timer.current);
    const value = event.currentTarget.value.trim();
    timer.current = setTimeout(() => set(value), 120);
  };
  return (
    <input
      ref={box}
      type="search"
      defaultValue={text}
      onInput={typed}
      placeholder="Search questions, messages, passages ( / )"
      aria-label="Search questions, messages and passages"
      spellcheck={false}
    />
  );
}

function Filters({ data, counts, wanted, toggle }) {
  return Object.entries(FACETS).map(([name, heading]) => {
    const values = counts[name];
    if (values.length < 2 && !wanted[name]) return null;
    return <Facet key={name} {...{ name, heading, values, toggle }} wanted={wanted[name] ?? new Set()} />;
  });
}

const SHOWN = 8;

function Facet({ name, heading, values, wanted, toggle }) {
  const [all, setAll] = useState(false);
  const shown = all ? values : values.filter(([label], i) => i < SHOWN || wanted.has(label));
  return (
    <fieldset>
      <legend>{heading}</legend>
      {shown.map(([label, rows]) => (
        <label key={label} class={rows ? "" : "empty"} title={name === "stop" ? STOPS[label] : undefined}>
          <input type="checkbox" checked={wanted.has(label)} onChange={() => toggle(name, label)} />
          <span>{visible(label.replaceAll("_", " "))}</span>
          <b>{rows.toLocaleString("en")}</b>
        </label>
      ))}
      {values.length > SHOWN ? (
        <button class="more" onClick={() => setAll(!all)}>
          {all ? "fewer" : `all ${values.length}`}
        </button>
      ) : null}
    </fieldset>
  );
}

function Rows({ data, rows, columns, at, setAt, order, sort }) {
  const frame = useRef(null);
  const [view, setView] = useState({ top: 0, height: 900 });
  useLayoutEffect(() => {
    const measure = () => setView({ top: frame.current.scrollTop, height: frame.current.clientHeight });
    measure();
    addEventListener("resize", measure);
    return () => removeEventListener("resize", measure);
  }, []);
  useLayoutEffect(() => {
    const { scrollTop, clientHeight } = frame.current;
    const top = at * HEIGHT;
    if (top < scrollTop) frame.current.scrollTop = top;
    else if (top + 2 * HEIGHT > scrollTop + clientHeight) frame.current.scrollTop = top + 2 * HEIGHT - clientHeight;
  }, [at, rows]);
  const first = Math.max(0, Math.floor(view.top / HEIGHT) - 8);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / HEIGHT) + 8);
  const grid = { gridTemplateColumns: columns.map((column) => column.width).join(" ") };
  const narrow = { gridTemplateColumns: columns.filter((column) => !column.wide).map((column) => column.width).join(" ") };
  const style = matchMedia("(max-width: 900px)").matches ? narrow : grid;
  return (
    <div class="rows" ref={frame} role="table" aria-rowcount={rows.length} onScroll={(e) => setView({ top: e.currentTarget.scrollTop, height: e.currentTarget.clientHeight })}>
      <div class="row head" role="row" style={style}>
        {columns.map((column) => (
          <Head key={column.name} {...{ column, order, sort }} />
        ))}
      </div>
      {rows.length ? null : <p class="nothing">No episode matches. Remove a filter, or search for other words.</p>}
      <div style={{ height: `${rows.length * HEIGHT}px`, position: "relative" }} role="rowgroup">
        <div style={{ transform: `translateY(${first * HEIGHT}px)` }}>
          {rows.slice(first, last).map((row, i) => (
            <a
              key={row}
              role="row"
              class={`row ${first + i === at ? "at" : ""} ${repeats(data, rows, first + i) ? "repeats" : ""}`}
              style={style}
              href={episodeLink(data.file[row].key, data.line[row])}
              onClick={() => setAt(first + i)}
            >
              {columns.map((column) => (
                <Cell key={column.name} {...{ column, data, row }} />
              ))}
            </a>
          ))}
        </div>
      </div>
    </div>
  );
}

/** Whether a row asks the same question as the one above it. */
const repeats = (data, rows, i) => i > 0 && data.question[rows[i]] === data.question[rows[i - 1]];

function Head({ column, order, sort }) {
  const sorted = sort.replace("-", "") === column.name;
  const names = `${column.numeric ? "numeric" : ""} ${column.wide ? "wide" : ""}`;
  return (
    <div role="columnheader" class={names} aria-sort={sorted ? (sort.startsWith("-") ? "descending" : "ascending") : undefined}>
      {SORTS.includes(column.name) ? (
        <button onClick={() => order(column.name)}>
          {column.head}
          {sorted ? (sort.startsWith("-") ? " ↓" : " ↑") : ""}
        </button>
      ) : (
        column.head
      )}
    </div>
  );
}

function Cell({ column, data, row }) {
  const value = column.facet ? facet(data, column.name, row) : null;
  const shown = column.facet ? visible(value === null || value === "" ? "–" : String(value).replaceAll("_", " ")) : column.cell(data, row);
  const whole = column.name === "question" ? plain(data.question[row]) : undefined;
  return (
    <div role="cell" class={`${column.name} ${column.numeric ? "numeric" : ""} ${column.wide ? "wide" : ""}`} title={whole}>
      {shown}
    </div>
  );
}

export const Reading = ({ state }) => {
  if (!state || exported() || state.ready) return null;
  const size = state.files.reduce((sum, file) => sum + file.size, 0);
  const read = state.files.reduce((sum, file) => sum + file.read, 0);
  return <span class="reading">reading {size ? Math.floor((100 * read) / size) : 0} %</span>;
};
