// Small pieces that several pages show: outcomes, acts, hits, credit.
import { facet, outcome } from "./store.js";
import { number, plain, shade, signed, visible } from "./text.jsx";

export const STOPS = {
  answered: "the agent answered",
  round_budget: "all rounds were played without an answer",
  search_budget: "the agent searched although its searches were spent",
  character_budget: "the budget of characters was spent",
  token_budget: "the context or the token limit of the agent was full",
  retrieval_failed: "the retriever failed; the episode is not used for training",
  agent_failed: "the agent failed; the episode is not used for training",
  aborted: "the caller ended it; the episode is not used for training",
};

const OUTCOMES = { right: ["✓", "right"], wrong: ["✗", "wrong"], "no answer": ["∅", "none"], failed: ["!", "failed"] };

export const outcomeOf = (episode) => outcome(episode.outcome.em, episode.outcome.stop_reason);

export function Outcome({ value, word = false }) {
  const [sign, name] = OUTCOMES[value];
  return (
    <span class={`outcome ${name}`} title={value}>
      <span aria-hidden={word}>{sign}</span>
      {word ? ` ${value}` : <span class="unseen">{value}</span>}
    </span>
  );
}

export const rowOutcome = (data, row) => facet(data, "outcome", row);

/** What the act of a round says, in a line. */
export function actText(action) {
  if (action.kind === "search") return action.queries.join(" · ");
  if (action.kind === "answer") return action.answer;
  if (action.kind === "feedback") return action.draft;
  return action.error || "ended from outside";
}

export function Credit({ value, limit, name = "credit" }) {
  if (value === null || value === undefined) return null;
  return (
    <span class="credit" style={shade(value, limit)} title={`${name} ${value}`}>
      {name} <b>{signed(value)}</b>
    </span>
  );
}

export const Scale = ({ limit }) => (
  <span class="scale">
    {signed(-limit)} <i aria-hidden="true" /> {signed(limit)}
  </span>
);

export const Problems = ({ list }) =>
  list?.length ? (
    <div class="problems" role="alert">
      {list.map((problem) => (
        <p>{visible(problem)}</p>
      ))}
    </div>
  ) : null;

/** Ids of gold passages in the order of the derivation. */
export const goldIds = (episode) => new Set(episode.gold.supporting_ids ?? []);

/** Hits of a round with what they are: gold, and whether an earlier round had found them. */
export function markedHits(episode, index) {
  const gold = goldIds(episode);
  const before = new Set(episode.rounds.slice(0, index).flatMap((round) => round.results.flat().map((hit) => hit.id)));
  return episode.rounds[index].results.map((hits) => hits.map((hit) => ({ ...hit, gold: gold.has(hit.id), again: before.has(hit.id) })));
}

export const Star = ({ hit }) =>
  hit.gold ? (
    <span class={`star ${hit.again ? "again" : ""}`} title={hit.again ? "gold passage, found before" : "gold passage, found for the first time"}>
      {hit.again ? "☆" : "★"}
      <span class="unseen">gold</span>
    </span>
  ) : null;

export const Terms = ({ terms }) => (
  <span class="terms">
    {Object.entries(terms).map(([name, value]) => (
      <span title={plain(`reward term ${name}: ${value}`)}>
        {visible(name)} {number(value)}
      </span>
    ))}
  </span>
);
