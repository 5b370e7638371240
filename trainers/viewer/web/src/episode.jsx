// One episode, round by round.
import { useEffect, useState } from "preact/hooks";
import { actText, Credit, goldIds, markedHits, Outcome, outcomeOf, Problems, Scale, Star, STOPS, Terms } from "./marks.jsx";
import { groupLink, link, parse } from "./route.js";
import { getEpisode } from "./store.js";
import { number, plain, shade, signed, Text, visible } from "./text.jsx";

const ACT = /<(?:search|answer|feedback|tool_call)>/;
const SHORT = 220; // characters of a passage that are shown at first

export function useEpisode(file, line) {
  const [found, setFound] = useState({});
  useEffect(() => {
    let current = true;
    getEpisode(file, line).then(
      (value) => current && setFound({ key: `${file}:${line}`, ...value }),
      (error) => current && setFound({ key: `${file}:${line}`, error: String(error.message ?? error) }),
    );
    return () => {
      current = false;
    };
  }, [file, line]);
  return found.key === `${file}:${line}` ? found : {};
}

export function EpisodePage({ file, line, neighbours, raw, setRaw }) {
  const found = useEpisode(file, line);
  useEffect(() => {
    for (const near of found.episode ? [neighbours.next, neighbours.previous] : []) {
      if (near) getEpisode(...parse(near).parts.slice(1)).catch(() => {}); // in advance; an error is shown when it is opened
    }
  }, [found.episode, neighbours.next]);
  if (found.error) return <Problems list={[found.error]} />;
  if (!found.episode) return <p class="waiting" aria-busy="true" />;
  const { episode, credit, advantages, problems } = found;
  const limit = credit?.limit ?? 0;
  const trueLimit = advantages?.limits["true advantage"] ?? 0;
  return (
    <article class="episode">
      <Problems list={problems} />
      <header>
        <nav class="steps" aria-label="Episodes">
          {neighbours.previous ? <a href={neighbours.previous} rel="prev">← previous</a> : <span />}
          <span>{neighbours.text}</span>
          {neighbours.next ? <a href={neighbours.next} rel="next">next →</a> : <span />}
        </nav>
        <h1 dir="auto">{visible(episode.question)}</h1>
        <p class="answers">
          <Outcome value={outcomeOf(episode)} word />
          <span>
            answer <b>{episode.outcome.answer ? visible(episode.outcome.answer) : "–"}</b>
          </span>
          <span title={plain((episode.gold.answers ?? []).join("\n"))}>
            gold <b>{visible(episode.gold.answers?.[0] ?? "–")}</b>
          </span>
        </p>
      </header>
      <div class="columns">
        <div class="rounds">
          {episode.rounds.map((_, index) => (
            <RoundCard key={index} {...{ episode, index, credit, advantages, limit, trueLimit, raw }} />
          ))}
          <p class="ended">
            <b>Ended after {episode.rounds.length} rounds:</b> {STOPS[episode.outcome.stop_reason]}.
          </p>
          {raw ? <Tokens {...{ ...found, limit }} /> : null}
        </div>
        <aside class="facts">
          <Facts {...{ episode, credit, file }} />
          <Derivation episode={episode} />
          {credit || advantages ? <Profile {...{ episode, credit, advantages, limit, trueLimit }} /> : null}
          <button onClick={() => setRaw(!raw)} aria-pressed={raw}>
            {raw ? "Hide" : "Show"} raw text and tokens
          </button>
        </aside>
      </div>
    </article>
  );
}

function RoundCard({ episode, index, credit, advantages, limit, trueLimit, raw }) {
  const round = episode.rounds[index];
  const { action } = round;
  const thought = thinking(round.text, action);
  const value = credit?.rounds?.[index];
  return (
    <section class={`round ${action.kind}`} id={`round-${index + 1}`}>
      <h2>
        <span class="number">{index + 1}</span>
        <span class="kind">{action.kind}</span>
        <Credit value={value} limit={limit} />
        <Credit value={advantages?.advantages?.[index]} limit={trueLimit} name="true advantage" />
        {round.reward ? <span class="earned">reward {number(round.reward)}</span> : null}
      </h2>
      {thought ? <Text class="thought">{thought}</Text> : null}
      {action.kind === "invalid" ? <Text class="message">{round.text}</Text> : null}
      <Text class="act">{actText(action)}</Text>
      {round.retrieval.status === "error" ? <p class="failed">The retriever failed.</p> : null}
      {markedHits(episode, index).map((hits, query) => (
        <ol class="hits" key={query}>
          {hits.length ? null : <li class="nothing">nothing was found</li>}
          {hits.map((hit) => (
            <HitLine key={hit.id} hit={hit} />
          ))}
        </ol>
      ))}
      {round.feedback.text ? <Text class="feedback">{round.feedback.text}</Text> : null}
      <Verdict judge={round.judge} />
      {Object.values(round.reward_terms).some(Boolean) ? <Terms terms={round.reward_terms} /> : null}
      {raw ? <Raw round={round} /> : null}
    </section>
  );
}

/** What the agent wrote before its act. */
function thinking(text, action) {
  if (action.kind === "invalid") return "";
  const inside = text.match(/<(think|thinking|thought|reasoning)>([\s\S]*?)<\/\1>/i);
  const before = inside ? inside[2] : text.slice(0, Math.max(0, text.search(ACT)));
  return before.trim();
}

function HitLine({ hit }) {
  const [whole, setWhole] = useState(false);
  const long = hit.text.length > SHORT;
  return (
    <li class={hit.gold ? "gold" : ""}>
      <div class="title">
        <Star hit={hit} />
        <span dir="auto">{visible(hit.title || hit.id)}</span>
        <small title={plain(`passage ${hit.id}`)}>{number(hit.score)}</small>
      </div>
      <Text class="passage">{long && !whole ? `${hit.text.slice(0, SHORT)}…` : hit.text}</Text>
      {long ? (
        <button class="more" onClick={() => setWhole(!whole)}>
          {whole ? "less" : "more"}
        </button>
      ) : null}
    </li>
  );
}

function Verdict({ judge }) {
  if (judge.status === "off") return null;
  if (judge.status !== "ok") {
    return (
      <p class={judge.status === "error" ? "verdict failed" : "verdict"}>
        judge: {judge.status === "error" ? "failed" : "not judged yet"} {visible(judge.reason)}
      </p>
    );
  }
  return (
    <p class="verdict">
      judge: utility <b>{number(judge.utility)}</b> · reasoning <b>{number(judge.reasoning)}</b> · contribution{" "}
      <b>{number(judge.utility * judge.reasoning)}</b>
      {judge.reason ? <span> — {visible(judge.reason)}</span> : null}
    </p>
  );
}

const Raw = ({ round }) => (
  <div class="raw">
    <h3>message</h3>
    <Text class="message">{round.text}</Text>
    {round.observation ? <h3>observation</h3> : null}
    {round.observation ? <Text class="message">{round.observation}</Text> : null}
    <p class="small">
      {round.policy_version === null ? null : <span>weights of update {round.policy_version} · temperature {number(round.temperature)} · top-p {number(round.top_p)} · </span>}
      state {round.anchor}
    </p>
  </div>
);

function Tokens({ episode, credit, pieces, limit }) {
  if (!episode.segments.length) return <p class="small">This agent keeps no tokens.</p>;
  let sampled = 0; // credit counts sampled tokens only
  return (
    <section class="tokens">
      <h2>Tokens</h2>
      <p class="small">
        {limit ? (
          <span>
            Background: credit <Scale limit={limit} />.{" "}
          </span>
        ) : null}
        Grey: prompt and observations. {pieces ? "" : "No tokenizer was found, so the numbers of the tokens are shown."}
      </p>
      {episode.segments.map((segment, s) => (
        <div class="segment" key={s}>
          {segment.tokens.map((token, i) => {
            const own = segment.mask[i] ? sampled++ : -1;
            const value = own >= 0 ? credit?.tokens?.[own] : undefined;
            const about = [`token ${token}`, `round ${segment.rounds[i] + 1}`];
            if (own >= 0) about.push(`log π ${segment.logprobs[i].toFixed(3)}`);
            if (value !== undefined) about.push(`credit ${value}`, credit.in_loss[own] ? "" : "not in the loss");
            return (
              <span key={i} class={own >= 0 ? "own" : ""} style={shade(value, limit)} title={about.filter(Boolean).join(", ")}>
                {pieces ? visible(pieces[s][i].replaceAll("\n", "⏎")) : token}
              </span>
            );
          })}
        </div>
      ))}
    </section>
  );
}

function Facts({ episode, credit, file }) {
  const { outcome } = episode;
  const status = { learned: "learned from", skipped: "skipped: nothing to compare with", invalid: "dropped: the infrastructure failed" };
  const facts = [
    ["EM / F1", `${number(outcome.em)} / ${number(outcome.f1)}`],
    ["recall of gold passages", number(outcome.recall)],
    ["reward", number(episode.rounds.reduce((sum, round) => sum + round.reward, 0))],
    ["rounds / searches", `${outcome.rounds} / ${outcome.searches}`],
    ["question", `${episode.extra.type ?? "?"}, ${episode.extra.hops || "?"} hop${episode.extra.hops === 1 ? "" : "s"}, ${episode.split}`],
    ["agent", episode.agent],
    ...(episode.valid_for_training ? [] : [["for training", "not valid"]]),
    ["corpus / retriever", `${episode.env.corpus ?? "?"} / ${episode.env.retriever ?? "?"}`],
    ...(credit ? [["credit", `${credit.trainer}${credit.unit ? `, by ${credit.unit}` : ""}; ${status[credit.status]}`]] : []),
    ...(credit?.relative_reward != null ? [["reward − group mean", signed(credit.relative_reward)]] : []),
    ...(episode.parent_id ? [["forked", `from ${episode.parent_id} at round ${episode.fork_round + 1}`]] : []),
    ["episode", episode.episode_id],
  ];
  return (
    <div>
      <dl>
        {facts.map(([name, value]) => [<dt>{name}</dt>, <dd>{visible(value)}</dd>])}
      </dl>
      <p>
        <a href={groupLink(file, episode.group_id)}>the group of this episode</a>
        <br />
        <a href={link(["question", episode.task_id])}>all episodes of this question</a>
      </p>
    </div>
  );
}

/** The gold derivation, and in which round each of its passages was found. */
function Derivation({ episode }) {
  const chain = episode.gold.chain ?? [];
  if (!chain.length && !goldIds(episode).size) return null;
  const foundIn = (ids) => {
    const index = episode.rounds.findIndex((round) => round.results.flat().some((hit) => ids.includes(hit.id)));
    return index < 0 ? <span class="missing">not found</span> : <a href={`#round-${index + 1}`} onClick={(event) => jump(event, index)}>round {index + 1}</a>;
  };
  const hops = chain.length ? chain : [...goldIds(episode)].map((id) => ({ query: id, passage_ids: [id] }));
  return (
    <div>
      <h2>Gold derivation</h2>
      <ol class="chain">
        {hops.map((hop) => (
          <li>
            <span dir="auto">
              {visible(hop.query)}
              {hop.relation ? <i> {visible(hop.relation)} </i> : null}
              {hop.bridge ? <b>{visible(hop.bridge)}</b> : null}
            </span>
            <small>{foundIn(hop.passage_ids)}</small>
          </li>
        ))}
      </ol>
    </div>
  );
}

function jump(event, index) {
  event.preventDefault(); // the address names the episode
  document.getElementById(`round-${index + 1}`)?.scrollIntoView({ block: "start" });
}

/** Credit of each round: the trainer's, and in an audit the truth and each rule's. */
function Profile({ episode, credit, advantages, limit, trueLimit }) {
  const rows = [];
  if (credit) rows.push(["credit", credit.rounds, limit]);
  if (advantages) {
    rows.push(["truth", advantages.advantages, trueLimit]);
    for (const [rule, values] of Object.entries(advantages.credit ?? {})) rows.push([rule, values, advantages.limits[rule]]);
  }
  return (
    <div class="profile">
      <h2>Credit by round</h2>
      <table>
        <thead>
          <tr>
            <th scope="col">round</th>
            {rows.map(([name]) => (
              <th scope="col">{visible(name)}</th>
            ))}
          </tr>
        </thead>
        <tbody>
          {episode.rounds.map((round, index) => (
            <tr>
              <th scope="row">
                {index + 1} {round.action.kind}
              </th>
              {rows.map(([, values, most]) => (
                <td style={shade(values[index], most)}>{signed(values[index])}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      {advantages?.errors?.some((error) => error > 0) ? <p class="small">Standard error of the true advantage: at most {number(Math.max(...advantages.errors), 3)}.</p> : null}
    </div>
  );
}
