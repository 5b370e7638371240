// Runs with their learning curves and alarms, and side by side; reports of benchmarks and credit audits.
import { useEffect, useState } from "preact/hooks";
import { Chart, colour, Legend } from "./chart.jsx";
import { Problems } from "./marks.jsx";
import { link } from "./route.js";
import { getAbout } from "./store.js";
import { number, visible } from "./text.jsx";

const FIRST = ["reward", "rounds", "searches", "tokens", "entropy", "surprisal", "step_kl", "grad_norm", "clip_fraction", "invalid_rounds", "truncated", "equal_groups", "credit_std", "zero_credit_tokens", "kl"];
const HIDDEN = new Set(["em", "f1", "groups", "episodes", "invalid_episodes", "singleton_groups", "empty_groups", "unassisted_em"]);

/** What is known of some sources; read again whenever one of them has changed. */
function useAbout(sources) {
  const [about, setAbout] = useState({});
  const key = sources.map((source) => `${source.label} ${source.changed}`).join("\n");
  useEffect(() => {
    let current = true;
    for (const { label, kind } of sources) {
      getAbout(label).then(
        (value) => current && setAbout((old) => ({ ...old, [label]: value })),
        (error) => current && setAbout((old) => ({ ...old, [label]: { label, kind, problems: [String(error.message ?? error)] } })),
      );
    }
    return () => {
      current = false;
    };
  }, [key]);
  return about;
}

export function RunsPage({ state }) {
  const sources = state.sources.filter((source) => source.kind === "run");
  const about = useAbout(sources);
  const runs = sources.map((source) => about[source.label]).filter(Boolean);
  if (!sources.length) return <p class="nothing">No training run is viewed.</p>;
  const names = runs.map((run) => run.label);
  const known = [...new Set(runs.flatMap((run) => Object.keys(run.series ?? {})))].filter((name) => !HIDDEN.has(name));
  const [first, rest] = [FIRST.filter((name) => known.includes(name)), known.filter((name) => !FIRST.includes(name)).sort()];
  const chart = (name) => (
    <Chart key={name} title={name} alarms={alarms(runs)} series={runs.map((run, index) => ({ label: run.label, index, step: 1, points: run.series?.[name] ?? [] }))} />
  );
  return (
    <article class="runs">
      {runs.map((run) => (
        <Problems key={run.label} list={run.problems?.map((problem) => `${run.label}: ${problem}`)} />
      ))}
      <Summary runs={runs} />
      <Legend names={names} />
      <div class="charts">
        <Chart
          title="Greedy EM on held-out questions"
          range={[0, 1]}
          alarms={alarms(runs)}
          series={runs.map((run, index) => evaluations(run, index))}
        />
        <Chart
          title="EM while training"
          range={[0, 1]}
          alarms={alarms(runs)}
          series={runs.map((run, index) => ({ label: run.label, index, step: 1, points: run.series?.em ?? [] }))}
        />
        {first.map(chart)}
      </div>
      {rest.length ? (
        <details>
          <summary>{rest.length} more metrics</summary>
          <div class="charts">{rest.map(chart)}</div>
        </details>
      ) : null}
      <Alarms runs={runs} />
      <Configuration runs={runs} />
    </article>
  );
}

function evaluations(run, index) {
  const found = (run.evaluations ?? []).filter((one) => one.metrics?.em);
  return {
    label: run.label,
    index,
    marked: true,
    points: found.map((one) => [one.iteration, one.metrics.em.mean]),
    band: found.map((one) => [one.iteration, one.metrics.em.low, one.metrics.em.high]),
  };
}

const alarms = (runs) => runs.flatMap((run) => (run.alarms ?? []).map((alarm) => ({ x: alarm.iteration, text: `${run.label}: ${alarm.name}, iteration ${alarm.iteration}` })));

function Summary({ runs }) {
  return (
    <div class="scroll">
      <table class="plain">
        <thead>
          <tr>
            {["Run", "Trainer", "Agent", "Environment", "Iterations", "EM before", "EM now", "Alarms", ""].map((head) => (
              <th scope="col">{head}</th>
            ))}
          </tr>
        </thead>
        <tbody>
          {runs.map((run, index) => {
            const found = (run.evaluations ?? []).filter((one) => one.metrics?.em);
            const done = Math.max(0, ...Object.values(run.series ?? {}).flatMap((points) => points.at(-1)?.[0] ?? 0));
            return (
              <tr key={run.label}>
                <th scope="row" style={{ color: runs.length > 1 ? colour(index) : undefined }}>
                  {visible(run.label)}
                </th>
                <td>{visible(run.config?.trainer ?? "–")}</td>
                <td>{visible(run.config?.agent ?? "–")}</td>
                <td>{visible(run.config?.env ?? "–")}</td>
                <td>
                  {done} of {run.config?.iterations ?? "?"}
                </td>
                <td>{found.length ? <Interval value={found[0].metrics.em} /> : "–"}</td>
                <td>{found.length > 1 ? <Interval value={found.at(-1).metrics.em} /> : "–"}</td>
                <td>{run.alarms?.length || "–"}</td>
                <td>
                  {run.stopped_by ? <span>stopped by {visible(run.stopped_by)} </span> : run.finished ? "" : "not finished "}
                  <a href={link([""], { source: run.label })}>episodes</a>
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

const Interval = ({ value, digits = 3, sign = false }) => {
  const show = (x) => (x === null || x === undefined ? "–" : (sign && x > 0 ? "+" : "") + x.toFixed(digits).replace("-", "−"));
  return (
    <span class="interval">
      {show(value.mean ?? value.value)}{" "}
      <small>
        [{show(value.low)}, {show(value.high)}]
      </small>
    </span>
  );
};

function Alarms({ runs }) {
  const list = runs.flatMap((run) => (run.alarms ?? []).map((alarm) => ({ ...alarm, run: run.label })));
  if (!list.length) return null;
  return (
    <section>
      <h2>Alarms</h2>
      <ul class="alarms">
        {list.map((alarm) => (
          <li>
            <b>{visible(alarm.name.replaceAll("_", " "))}</b>, iteration {alarm.iteration}
            {runs.length > 1 ? <span> of {visible(alarm.run)}</span> : null}: {visible(alarm.seen)}.
            <p>
              Likely cause: {visible(alarm.cause)}. Next: {visible(alarm.advice)}.
            </p>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Configuration({ runs }) {
  const flat = runs.map((run) => ({ ...flatten(run.config ?? {}), ...flatten(run.settings ?? {}, "set ") }));
  const names = [...new Set(flat.flatMap((values) => Object.keys(values)))];
  const differs = names.filter((name) => new Set(flat.map((values) => values[name])).size > 1);
  const same = names.filter((name) => !differs.includes(name));
  const rows = (list) =>
    list.map((name) => (
      <tr key={name}>
        <th scope="row">{visible(name)}</th>
        {flat.map((values) => (
          <td>{visible(values[name] ?? "–")}</td>
        ))}
      </tr>
    ));
  const table = (list) => (
    <div class="scroll">
      <table class="plain">
        {runs.length > 1 ? (
          <thead>
            <tr>
              <th />
              {runs.map((run) => (
                <th scope="col">{visible(run.label)}</th>
              ))}
            </tr>
          </thead>
        ) : null}
        <tbody>{rows(list)}</tbody>
      </table>
    </div>
  );
  return (
    <section>
      {runs.length > 1 ? <h2>Configurations differ in</h2> : null}
      {runs.length > 1 ? differs.length ? table(differs) : <p>nothing</p> : null}
      <details>
        <summary>{runs.length > 1 ? "The same in all runs" : "Configuration"}</summary>
        {table(same)}
      </details>
    </section>
  );
}

function flatten(table, prefix = "") {
  return Object.fromEntries(
    Object.entries(table)
      .filter(([, value]) => value !== "" && !(value && typeof value === "object" && !Object.keys(value).length))
      .map(([name, value]) => [prefix + name, typeof value === "object" ? JSON.stringify(value) : String(value)]),
  );
}

export function ReportsPage({ state }) {
  const sources = state.sources.filter((source) => source.kind === "benchmark" || source.kind === "audit");
  const about = useAbout(sources);
  return (
    <article class="reports">
      {sources.map(({ label, kind }) => {
        const one = about[label];
        if (!one) return <p key={label} class="waiting" aria-busy="true" />;
        return (
          <section key={label}>
            <h1>{visible(label)}</h1>
            <Problems list={one.problems} />
            {kind === "audit" ? <Audit {...one} /> : <Benchmark {...one} />}
          </section>
        );
      })}
    </article>
  );
}

function Benchmark({ report, runs = [] }) {
  const sealed = runs.filter((run) => run.sealed).length;
  const progress = runs.length ? (
    <p>
      {sealed} of {runs.length} started runs are finished.
    </p>
  ) : null;
  if (!report?.rows) return progress ?? <p class="nothing">There is no report yet.</p>;
  const rows = Object.entries(report.rows);
  const high = Math.max(...rows.map(([, row]) => row.mean.high), 0.01);
  const { spec } = report;
  const places = Object.keys(spec.environments ?? {});
  return (
    <div>
      <p>{visible(spec.description)}</p>
      <p class="small">
        {visible(report.date)}; budget {Object.entries(spec.budget).map(([unit, amount]) => `${number(amount)} ${unit}`).join(", ")} per run; compared with {visible(spec.baseline)}.
      </p>
      <div class="scroll">
        <table class="plain forest">
          <thead>
            <tr>
              {["Row", "Seeds", "Test EM", "", "Difference", "p (Holm)", "Verdict", "Remarks"].map((head) => (
                <th scope="col">{head}</th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map(([label, row], index) => {
              const pair = row.against_baseline;
              return (
                <tr key={label}>
                  <th scope="row" style={{ color: colour(index) }}>{visible(label)}</th>
                  <td>{row.seeds}</td>
                  <td><Interval value={row.mean} /></td>
                  <td><Whisker value={row.mean} high={high} index={index} /></td>
                  <td>{pair ? <Interval value={pair.difference} sign /> : ""}</td>
                  <td>{pair?.p_holm == null ? "" : pair.p_holm.toPrecision(2)}</td>
                  <td>{pair ? visible(pair.verdict) : "baseline"}</td>
                  <td>{visible(row.marks.join("; "))}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
      <Legend names={rows.map(([label]) => label)} />
      <div class="charts">
        {places.map((place) => (
          <Chart
            key={place}
            title={`Greedy EM on dev questions, ${place}`}
            x={spec.unit ?? Object.keys(spec.budget)[0]}
            range={[0, 1]}
            series={rows.filter(([, row]) => row.curves?.[place]).map(([label, row]) => series(label, rows.findIndex(([name]) => name === label), row.curves[place]))}
          />
        ))}
      </div>
      {report.missing?.length ? <p>Not run yet: {visible(report.missing.join(", "))}.</p> : null}
      {progress}
    </div>
  );
}

const series = (label, index, curve) => ({
  label,
  index,
  points: curve.x.map((x, i) => [x, curve.mean[i]]),
  band: curve.x.map((x, i) => [x, curve.low[i], curve.high[i]]),
});

const Whisker = ({ value, high, index }) => {
  const to = (x) => 4 + (x / high) * 112;
  return (
    <svg class="whisker" viewBox="0 0 120 14" aria-hidden="true" style={{ color: colour(index) }}>
      <line class="grid" x1="4" x2="116" y1="7" y2="7" />
      <line class="error" x1={to(value.low)} x2={to(value.high)} y1="7" y2="7" />
      <circle cx={to(value.value)} cy="7" r="3.5" />
    </svg>
  );
};

const SCORES = ["sign", "within", "pearson", "idle share", "answer bias"];

function Audit({ label, report }) {
  if (!report?.rules) return null;
  return (
    <div>
      <p>
        Credit against the true advantage of {number(report.rounds)} rounds in {number(report.episodes)} episodes, by{" "}
        {report.settings?.method === "exact" ? "enumeration" : "restored continuations"}. <a href={link([""], { source: label })}>Episodes</a>
      </p>
      <div class="scroll">
        <table class="plain">
          <thead>
            <tr>
              {["Rule", ...SCORES, "cosine", "SNR", "Note"].map((head) => (
                <th scope="col">{head}</th>
              ))}
            </tr>
          </thead>
          <tbody>
            {report.rules.map((rule) => (
              <tr key={rule.label}>
                <th scope="row">{visible(rule.label)}</th>
                {SCORES.map((name) => (
                  <td>{rule.scores?.[name] ? <Interval value={rule.scores[name]} digits={2} /> : "–"}</td>
                ))}
                <td>{number(rule.gradient?.cosine)}</td>
                <td>{number(rule.gradient?.snr, 3)}</td>
                <td>{visible(rule.note ?? "")}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {Object.entries(report.left_out ?? {}).map(([name, reason]) => (
        <p class="small">
          Without {visible(name)}: {visible(reason)}
        </p>
      ))}
    </div>
  );
}
