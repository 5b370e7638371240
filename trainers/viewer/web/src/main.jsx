// The page: bar, address, keys.
import { Component, render } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { EpisodePage } from "./episode.jsx";
import { GroupPage } from "./group.jsx";
import { Problems } from "./marks.jsx";
import { ReportsPage, RunsPage } from "./reports.jsx";
import { episodeLink, groupLink, link, useRoute } from "./route.js";
import { exported, start, useStore } from "./store.js";
import { Reading, Table, useSelection } from "./table.jsx";
import { plain } from "./text.jsx";

const KEYS = [
  ["/", "search"],
  ["j  k", "next and previous episode"],
  ["Enter", "open the episode"],
  ["g", "its group, side by side"],
  ["t", "raw text and tokens"],
  ["Esc", "back to the list"],
  ["d", "light or dark"],
  ["?", "these keys"],
];

/** An error in a page must not leave it blank. */
class Guard extends Component {
  state = { error: null };

  static getDerivedStateFromError(error) {
    return { error };
  }

  componentDidUpdate(before) {
    if (this.state.error && before.at !== this.props.at) this.setState({ error: null });
  }

  render() {
    return this.state.error ? <Problems list={[`This cannot be shown: ${this.state.error.message ?? this.state.error}`]} /> : this.props.children;
  }
}

function App() {
  const { state, data, error } = useStore();
  if (!data) {
    return error ? <Problems list={[error]} /> : <p class="waiting" aria-busy="true">Opening …</p>;
  }
  return <Viewer {...{ state, data, error }} />;
}

function Viewer({ state, data, error }) {
  const route = useRoute();
  const [page = "", ...parts] = route.parts;
  const [listQuery, setListQuery] = useState(page === "" ? route.query : new URLSearchParams());
  const query = page === "" ? route.query : listQuery;
  const selection = useSelection(data, query);
  const [at, setAt] = useState(0);
  const [raw, setRaw] = useState(false);
  const [help, setHelp] = useState(false);
  const [theme, setTheme] = useTheme();
  const searchBox = useRef(null);
  useEffect(() => {
    if (page === "") setListQuery(route.query);
  }, [route]);
  const neighbours = useNeighbours(data, selection, page === "episode" ? parts : null, setAt);
  const listLink = link([""], query);
  useEffect(() => {
    document.title = plain(page === "episode" ? `${parts[0]} #${+parts[1] + 1}` : state.sources.map((source) => source.label).join(", ")) + " – SearchGym";
  }, [route, state]);
  useKeys({ page, parts, data, selection, at, setAt, neighbours, listLink, searchBox, setRaw, setHelp, setTheme });
  const reports = state.sources.some((source) => source.kind === "benchmark" || source.kind === "audit");
  const runs = state.sources.some((source) => source.kind === "run");
  const tab = (name, href, text) => (
    <a href={href} aria-current={page === name ? "page" : undefined}>
      {text}
    </a>
  );
  return (
    <div class="page">
      <header class="bar">
        <strong>SearchGym</strong>
        <nav aria-label="Pages">
          {tab("", listLink, "Episodes")}
          {runs ? tab("runs", link(["runs"]), "Runs") : null}
          {reports ? tab("reports", link(["reports"]), "Reports") : null}
        </nav>
        <Reading state={state} />
        {error ? <span class="reading">{error}</span> : null}
        <span class="grow" />
        <button onClick={() => setTheme()} title="light or dark (d)">
          {theme === "dark" ? "☾" : theme === "light" ? "☀" : "◐"}
          <span class="unseen">light or dark</span>
        </button>
        <button class="keys" onClick={() => setHelp(!help)} aria-expanded={help} title="keys (?)">
          ?
        </button>
      </header>
      {help ? <Help /> : null}
      <main class={page ? "" : "list-page"}>
        <Guard at={location.hash}>
          {page === "" ? <FileProblems state={state} /> : null}
          {page === "" && !data.size ? <Empty state={state} /> : null}
          {page === "" && data.size ? <Table {...{ data, query, selection, at, setAt, searchBox }} /> : null}
          {page === "episode" ? <EpisodePage file={parts[0]} line={parts[1]} {...{ neighbours, raw, setRaw }} /> : null}
          {page === "group" ? <GroupPage data={data} file={parts[0]} group={parts[1]} /> : null}
          {page === "question" ? <GroupPage data={data} task={parts[0]} /> : null}
          {page === "runs" ? <RunsPage state={state} /> : null}
          {page === "reports" ? <ReportsPage state={state} /> : null}
          {["", "episode", "group", "question", "runs", "reports"].includes(page) ? null : <Problems list={[`There is no page ${page}.`]} />}
        </Guard>
      </main>
    </div>
  );
}

const FileProblems = ({ state }) => (
  <Problems
    list={[
      ...(state.problem ? [state.problem] : []),
      ...state.files.flatMap((file) => file.problems.map((problem) => `${file.key}, ${problem}`)),
      ...(state.of > state.files.reduce((sum, file) => sum + file.blocks.reduce((rows, block) => rows + block[1], 0), 0)
        ? [`This file holds a part of ${state.of.toLocaleString("en")} episodes: those of the newest iterations.`]
        : []),
    ]}
  />
);

function Empty({ state }) {
  if (!state.ready) return <p class="waiting" aria-busy="true">Reading episodes …</p>;
  return (
    <div class="nothing">
      <p>There are no episodes here yet.</p>
      {state.sources.some((source) => source.kind === "run") ? <p>A run saves training episodes with its checkpoints (checkpoint_every), and the episodes of every evaluation.</p> : null}
    </div>
  );
}

const Help = () => (
  <dl class="help">
    {KEYS.map(([key, text]) => [<dt><kbd>{key}</kbd></dt>, <dd>{text}</dd>])}
  </dl>
);

/** Links to the neighbours of an episode in the selection of the list. */
function useNeighbours(data, selection, parts, setAt) {
  const index = useMemo(
    () => (parts ? selection.rows.findIndex((row) => data.file[row].key === parts[0] && data.line[row] === +parts[1]) : -1),
    [selection, parts?.[0], parts?.[1]],
  );
  useEffect(() => {
    if (index >= 0) setAt(index);
  }, [index]);
  const to = (i) => (i >= 0 && i < selection.rows.length ? episodeLink(data.file[selection.rows[i]].key, data.line[selection.rows[i]]) : null);
  if (index < 0) return { previous: null, next: null, text: "" };
  return { previous: to(index - 1), next: to(index + 1), text: `${(index + 1).toLocaleString("en")} of ${selection.rows.length.toLocaleString("en")}` };
}

/** The theme and what changes it; it is kept in this browser where that is allowed. */
function useTheme() {
  const [theme, set] = useState(() => stored() ?? "");
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
  }, [theme]);
  return [
    theme,
    () =>
      set((old) => {
        const dark = old ? old === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
        const next = dark ? "light" : "dark";
        try {
          localStorage.setItem("theme", next);
        } catch {
          // a file opened from disk may not be allowed to
        }
        return next;
      }),
  ];
}

function stored() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

function useKeys(now) {
  const latest = useRef(now);
  latest.current = now;
  useEffect(() => {
    const pressed = (event) => {
      const { page, parts, data, selection, at, setAt, neighbours, listLink, searchBox, setRaw, setHelp, setTheme } = latest.current;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target instanceof HTMLInputElement && event.target.type === "search") {
        if (event.key === "Escape" || event.key === "Enter") event.target.blur();
        return;
      }
      const row = selection.rows[at];
      const move = (step) => {
        if (page === "") setAt(Math.max(0, Math.min(selection.rows.length - 1, at + step)));
        else if (page === "episode") location.hash = (step > 0 ? neighbours.next : neighbours.previous) ?? location.hash;
      };
      const open = page === "episode" ? groupOf(data, parts) : page === "" && row !== undefined ? groupLink(data.file[row].key, data.group_id[row]) : null;
      const actions = {
        "/": () => (page === "" ? searchBox.current?.focus() : (location.hash = listLink)),
        j: () => move(1),
        k: () => move(-1),
        ArrowDown: () => page === "" && move(1),
        ArrowUp: () => page === "" && move(-1),
        ArrowRight: () => page === "episode" && move(1),
        ArrowLeft: () => page === "episode" && move(-1),
        Enter: () => page === "" && row !== undefined && document.activeElement === document.body && (location.hash = episodeLink(data.file[row].key, data.line[row])),
        g: () => open && (location.hash = open),
        t: () => setRaw((value) => !value),
        Escape: () => page && (location.hash = listLink),
        d: () => setTheme(),
        "?": () => setHelp((value) => !value),
      };
      if (!actions[event.key]) return;
      if (event.key === "/" || event.key.startsWith("Arrow")) {
        if (page === "" || event.key === "/") event.preventDefault();
      }
      actions[event.key]();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

function groupOf(data, [file, line]) {
  for (let row = 0; row < data.size; row++) {
    if (data.line[row] === +line && data.file[row].key === file) return groupLink(file, data.group_id[row]);
  }
  return null;
}

start();
document.documentElement.classList.toggle("exported", exported());
render(<App />, document.getElementById("app"));
