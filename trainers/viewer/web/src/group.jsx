// The episodes of a question side by side. Episodes that acted alike so far share a cell, so that one sees where they part.
import { useEffect, useMemo, useState } from "preact/hooks";
import { actText, goldIds, Outcome, outcomeOf, Problems, Scale } from "./marks.jsx";
import { episodeLink, wellFormed } from "./route.js";
import { facet, getEpisode } from "./store.js";
import { number, plain, shade, signed, visible } from "./text.jsx";

const MOST = 16; // episodes on a page

export function GroupPage({ data, file, group, task }) {
  const rows = useMemo(() => {
    const found = [];
    for (let row = 0; row < data.size; row++) {
      if (task !== undefined ? wellFormed(data.task_id[row]) === task : wellFormed(data.group_id[row]) === group && data.file[row].key === file) found.push(row);
    }
    return found;
  }, [data, file, group, task]);
  const [start, setStart] = useState(0);
  const [found, setFound] = useState(null);
  const shown = rows.slice(start, start + MOST);
  const key = shown.map((row) => `${data.file[row].key}:${data.line[row]}`).join(" ");
  useEffect(() => {
    let current = true;
    const read = shown.map((row) =>
      getEpisode(data.file[row].key, data.line[row]).then((value) => ({ ...value, row, link: episodeLink(data.file[row].key, data.line[row]) })),
    );
    Promise.all(read).then(
      (episodes) => current && setFound({ key, episodes }),
      (error) => current && setFound({ key, error: String(error.message ?? error) }),
    );
    return () => {
      current = false;
    };
  }, [key]);
  if (!rows.length) return <Problems list={["There are no such episodes (any more): a run keeps its newest training episodes."]} />;
  if (found?.key !== key) return <p class="waiting" aria-busy="true" />;
  if (found.error) return <Problems list={[found.error]} />;
  const { episode } = found.episodes[0];
  return (
    <article class="group">
      <header>
        <h1 dir="auto">{visible(episode.question)}</h1>
        <p class="answers">
          <span>
            gold <b>{visible(episode.gold.answers?.[0] ?? "–")}</b>
          </span>
          <span>
            {rows.length} episodes, {rows.filter((row) => facet(data, "outcome", row) === "right").length} right
          </span>
          {rows.length > MOST ? (
            <span>
              <button disabled={!start} onClick={() => setStart(start - MOST)}>←</button> {start + 1}–{Math.min(start + MOST, rows.length)}{" "}
              <button disabled={start + MOST >= rows.length} onClick={() => setStart(start + MOST)}>→</button>
            </span>
          ) : null}
        </p>
      </header>
      <Tree data={data} episodes={found.episodes} files={new Set(rows.map((row) => data.file[row])).size > 1} />
    </article>
  );
}

/** What an episode has done up to and with a round. */
const path = (episode, depth) =>
  JSON.stringify(episode.rounds.slice(0, depth + 1).map(({ action, text }) => [action.kind, actText(action), action.kind === "invalid" ? text : ""]));

function Tree({ data, episodes, files }) {
  const sorted = episodes
    .map((one) => ({ ...one, paths: one.episode.rounds.map((_, depth) => path(one.episode, depth)) }))
    .sort((a, b) => compare(a.paths, b.paths));
  const depth = Math.max(...sorted.map((one) => one.paths.length));
  const limit = Math.max(0, ...sorted.map((one) => one.credit?.limit ?? one.advantages?.limits["true advantage"] ?? 0));
  const what = sorted.some((one) => one.credit) ? "credit" : sorted.some((one) => one.advantages) ? "true advantage" : "";
  return (
    <div class="tree-frame">
      {what ? (
        <p class="small">
          Background: {what} <Scale limit={limit} />. Episodes with the same acts share a cell; below it they part.
        </p>
      ) : (
        <p class="small">Episodes with the same acts share a cell; below it they part.</p>
      )}
      <table class="tree">
        <thead>
          <tr>
            <th />
            {sorted.map((one) => (
              <th scope="col">
                <a href={one.link} title={plain(one.episode.episode_id)}>
                  <Outcome value={outcomeOf(one.episode)} />
                  <small>{where(data, one.row, files)}</small>
                </a>
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {Array.from({ length: depth }, (_, round) => (
            <tr>
              <th scope="row">{round + 1}</th>
              {cells(sorted, round).map((cell) => (
                <Node {...{ ...cell, round, limit }} />
              ))}
            </tr>
          ))}
          <tr class="ends">
            <th scope="row">answer</th>
            {sorted.map(({ episode }) => (
              <td>{episode.outcome.answer ? visible(episode.outcome.answer) : <i>{episode.outcome.stop_reason.replaceAll("_", " ")}</i>}</td>
            ))}
          </tr>
          <tr class="ends">
            <th scope="row">reward</th>
            {sorted.map(({ episode }) => (
              <td>{number(episode.rounds.reduce((sum, round) => sum + round.reward, 0))}</td>
            ))}
          </tr>
        </tbody>
      </table>
    </div>
  );
}

/** Which episode it is: its line, and with several files its run and iteration. */
function where(data, row, files) {
  const iteration = files ? facet(data, "iteration", row) : null;
  const name = iteration === null ? "" : `${facet(data, "kind", row)} ${iteration} `;
  return `${files && data.values.source.length > 1 ? `${data.file[row].source} ` : ""}${name}#${data.line[row] + 1}`;
}

function compare(a, b) {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    if (a[i] !== b[i]) return a[i] < b[i] ? -1 : 1;
  }
  return a.length - b.length;
}

/** The cells of a round: neighbours with equal paths in one. */
function cells(sorted, round) {
  const found = [];
  for (const one of sorted) {
    const last = found.at(-1);
    const key = one.paths[round];
    if (last && key !== undefined && last.key === key) last.members.push(one);
    else found.push({ key, members: [one] });
  }
  return found;
}

function Node({ members, round, limit }) {
  const { episode } = members[0];
  const record = episode.rounds[round];
  if (!record) return <td class="none" />;
  const credit = members.map((one) => (one.credit?.rounds ?? one.advantages?.advantages)?.[round]).filter((value) => value !== null && value !== undefined);
  const mean = credit.length ? credit.reduce((sum, value) => sum + value, 0) / credit.length : undefined;
  const gold = goldIds(episode);
  const hits = record.results.flat();
  return (
    <td colSpan={members.length} class={`node ${record.action.kind}`} style={shade(mean, limit)} title={mean === undefined ? undefined : `mean ${signed(mean)}`}>
      <div class="kind">
        {record.action.kind}
        {hits.length ? <span title="gold passages among the hits">{"★".repeat(hits.filter((hit) => gold.has(hit.id)).length) || "·"}</span> : null}
        {members.length > 1 ? <small>×{members.length}</small> : null}
      </div>
      <div class="words" dir="auto" title={plain(actText(record.action))}>{visible(actText(record.action))}</div>
    </td>
  );
}
