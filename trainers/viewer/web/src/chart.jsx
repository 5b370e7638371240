// A line chart: markers where something was measured, bands for intervals, one colour per series.
import { useState } from "preact/hooks";
import { number, visible } from "./text.jsx";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [340, 190, 44, 22, 8, 10];

/** Colours of Okabe and Ito's palette, which are told apart with any colour vision (style.css). */
export const colour = (index) => `var(--series-${(index % 7) + 1})`;

/** After seven series the colours begin again, with another dash. */
const dash = (index) => ["none", "6 3", "2 2"][Math.floor(index / 7) % 3];

/** Round numbers from low to high, about `count` of them. */
export function ticks(low, high, count = 5) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 5].find((factor) => factor * power >= raw * 0.999) ?? 10) * power;
  const first = Math.ceil(low / step - 1e-9);
  const size = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: Math.max(0, Math.min(size, 2 * count + 2)) }, (_, i) => +((first + i) * step).toPrecision(12));
}

/**
 * @param series [{label, index, points: [[x, y]], band: [[x, low, high]], marked, step}]; a line joins points up to `step`
 *   apart, and none joins those of a marked series
 * @param alarms [{x, text}]
 */
export function Chart({ title, series, alarms = [], range, x: xLabel = "iteration" }) {
  const [at, setAt] = useState(null);
  const all = series.flatMap((one) => [...one.points, ...(one.band ?? []).flatMap(([x, low, high]) => [[x, low], [x, high]])]);
  if (!all.length) return null;
  const xs = all.map(([x]) => x);
  const ys = all.map(([, y]) => y);
  const [x0, x1] = [least(xs), most(xs)];
  let [y0, y1] = range ?? [least(ys), most(ys)];
  if (y1 - y0 <= 1e-9 * Math.max(Math.abs(y0), Math.abs(y1))) [y0, y1] = y0 === 0 ? [0, 1] : [Math.min(0, y0), Math.max(0, y1)];
  const toX = (x) => LEFT + ((x - x0) / (x1 - x0 || 1)) * (WIDTH - LEFT - RIGHT);
  const toY = (y) => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - BOTTOM - TOP);
  const line = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join("");
  const band = (points) => `${line(points.map(([x, low]) => [x, low]))}L${line(points.map(([x, , high]) => [x, high]).reverse()).slice(1)}Z`;
  const move = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const x = x0 + (((event.clientX - box.left) / box.width) * WIDTH - LEFT) * ((x1 - x0) / (WIDTH - LEFT - RIGHT));
    setAt(xs.reduce((best, value) => (Math.abs(value - x) < Math.abs(best - x) ? value : best), xs[0]));
  };
  const near = at === null ? [] : series.map((one) => [one, one.points.find(([x]) => x === at)]).filter(([, point]) => point);
  return (
    <figure class="chart">
      <figcaption>{visible(title.replaceAll("_", " ").replace(/\b(em|f1|kl)\b/g, (name) => name.toUpperCase()))}</figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`${title} over ${xLabel}`} onPointerMove={move} onPointerLeave={() => setAt(null)}>
        {ticks(y0, y1).map((tick) => (
          <g key={tick}>
            <line class="grid" x1={LEFT} x2={WIDTH - RIGHT} y1={toY(tick)} y2={toY(tick)} />
            <text x={LEFT - 6} y={toY(tick) + 3.5} text-anchor="end">{short(tick)}</text>
          </g>
        ))}
        {ticks(x0, x1).map((tick) => (
          <text key={tick} x={toX(tick)} y={HEIGHT - 6} text-anchor="middle">{short(tick)}</text>
        ))}
        {series.map((one) => (
          <g key={one.label} style={{ color: colour(one.index) }}>
            {one.band?.length && !one.marked ? <path class="band" d={band(one.band)} /> : null}
            {one.marked ? one.band?.map(([x, low, high]) => <line class="error" x1={toX(x)} x2={toX(x)} y1={toY(low)} y2={toY(high)} />) : null}
            {one.marked ? null : runsOf(one.points, one.step).map((points) => <path key={points[0][0]} class="line" stroke-dasharray={dash(one.index)} d={line(points)} />)}
            {(one.marked ? one.points : runsOf(one.points, one.step).filter((points) => points.length === 1).flat()).map(([x, y]) => <circle cx={toX(x)} cy={toY(y)} r={one.marked ? 3.2 : 1.8} />)}
          </g>
        ))}
        {alarms.map((alarm) => (
          <path key={`${alarm.x} ${alarm.text}`} class="alarm" d={`M${toX(alarm.x)} ${HEIGHT - BOTTOM - 7}l4.5 7h-9z`}>
            <title>{alarm.text}</title>
          </path>
        ))}
        {at === null ? null : <line class="cursor" x1={toX(at)} x2={toX(at)} y1={TOP} y2={HEIGHT - BOTTOM} />}
        {near.map(([one, [x, y]]) => (
          <circle key={one.label} class="near" style={{ color: colour(one.index) }} cx={toX(x)} cy={toY(y)} r="3.5" />
        ))}
      </svg>
      <p class="reading-off">
        {at === null ? (
          xLabel
        ) : (
          <span>
            {number(at)}
            {near.map(([one, [, y]]) => (
              <span>
                {" · "}
                {series.length > 1 ? `${one.label} ` : ""}
                <b>{number(y, 3)}</b>
              </span>
            ))}
          </span>
        )}
      </p>
    </figure>
  );
}

/** Points in stretches without a gap: no line crosses what was not measured. */
function runsOf(points, step = Infinity) {
  const found = [];
  for (const point of points) {
    if (found.length && point[0] - found.at(-1).at(-1)[0] <= step) found.at(-1).push(point);
    else found.push([point]);
  }
  return found;
}

const least = (list) => list.reduce((a, b) => Math.min(a, b));
const most = (list) => list.reduce((a, b) => Math.max(a, b));
const short = (value) => (Math.abs(value) >= 10000 ? `${+(value / 1000).toFixed(1)}k` : Math.abs(value) > 0 && Math.abs(value) < 0.001 ? value.toExponential(0) : `${+value.toFixed(3)}`).replace("-", "−");

export const Legend = ({ names }) =>
  names.length < 2 ? null : (
    <ul class="legend">
      {names.map((name, index) => (
        <li key={name} style={{ color: colour(index) }}>
          <svg viewBox="0 0 24 6" aria-hidden="true">
            <path class="line" stroke-dasharray={dash(index)} d="M0 3H24" />
          </svg>
          <span>{visible(name)}</span>
        </li>
      ))}
    </ul>
  );
