// Plots over time, and small lines in tables.
import { html, useEffect, useRef, useState } from '../lib/html.js';
import { number, time } from '../lib/format.js';

/** Space around the lines, for the labels of the axes, in pixels. */
const MARGIN = { top: 12, right: 28, bottom: 26 };
/** Distance between two labels of the time axis at least, in pixels. */
const LABEL_DISTANCE = 80;
/** Distances between the labels of the time axis, in seconds. */
const STEPS = [1, 5, 15, 30, 60, 120, 300, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_592_000];
/** Series that have a colour of their own. */
const COLOURS = 6;
/** Class of a series' colour: an end of an interval has that of the first series. @param {any} series @param {number} index */
const colour = (series, index) => `c${series.dash ? 1 : (index % COLOURS) + 1}`;

/** Round numbers from at most `min` to at least `max`, about `wanted` of them. @param {number} min @param {number} max @param {number} wanted */
export function ticks(min, max, wanted) {
  const rough = (max - min || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((it) => it * power >= rough * 0.999) ?? 10);
  const first = Math.floor(min / step + 0.001);
  return Array.from({ length: Math.ceil(max / step - 0.001) - first + 1 }, (_, index) => (first + index) * step);
}

/** Round times of the local clock between two times, with their labels. @param {number} from @param {number} to @param {number} wanted */
export function timeTicks(from, to, wanted) {
  const step = STEPS.find((it) => (to - from) / it <= wanted) ?? Math.ceil((to - from) / wanted / 86_400) * 86_400;
  const shift = new Date(from * 1000).getTimezoneOffset() * 60;
  const label = (at) => (step < 60 ? at.slice(11) : at.endsWith('00:00:00') ? at.slice(5, 10) : at.slice(11, 16));
  const all = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) all.push({ at, text: label(time(at * 1000)) });
  return all;
}

/**
 * Lines over time. A point is inspected with the pointer or the arrow keys, and all are in a table.
 * @param {{label: string, times: number[], series: {name: string, values: (number | null)[], dash?: boolean}[],
 *   bands?: [number, number][], unit?: string, height?: number}} props `times` in seconds; `bands`: pairs of series
 *   between which the area is filled.
 */
export function Plot({ label, times, series, bands = [], unit = '', height = 220 }) {
  const box = useRef(null);
  const [width, setWidth] = useState(0);
  const [chosen, choose] = useState(/** @type {number | null} */ (null));
  useEffect(() => {
    const watch = new ResizeObserver(([it]) => setWidth(Math.max(160, it.contentRect.width)));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  const last = times.length - 1;
  const at = Math.min(chosen ?? last, last);
  const shown = (value) => (value == null ? '–' : number(value) + unit);
  const text = times.length ? `${time(times[at] * 1000)}: ${series.map((it) => `${it.name} ${shown(it.values[at])}`).join(', ')}` : 'no data';
  const key = (event) => {
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (next == null) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(last, next)));
  };
  const scale = useScale(times, series, width, height);
  const point = (event) => {
    const x = event.clientX - box.current.getBoundingClientRect().left;
    const distance = (index) => Math.abs(scale.x(times[index]) - x);
    choose(times.reduce((best, _, index) => (distance(index) < distance(best) ? index : best), 0));
  };
  return html`<figure class="plot"><figcaption class="key"><span class="mono">${times.length ? time(times[at] * 1000) : ''}</span>
      ${series.map((it, index) => html`<span><span class=${`swatch ${colour(it, index)}`}></span>${it.name} <strong>${shown(it.values[at])}</strong></span>`)}</figcaption>
    <div ref=${box} class="canvas" tabindex="0" role="slider" aria-label=${label} aria-valuemin="0" aria-valuemax=${Math.max(0, last)} aria-valuenow=${Math.max(0, at)} aria-valuetext=${text}
      onKeyDown=${key} onPointerMove=${point} onPointerDown=${point} onPointerLeave=${() => choose(null)} onBlur=${() => choose(null)}>
      <svg height=${height} viewBox=${`0 0 ${width} ${height}`} aria-hidden="true">${width > 0 && times.length > 0 && html`<${Axes} scale=${scale} unit=${unit} />
        ${bands.map(([low, high]) => html`<path class=${`band ${colour(series[low], low)}`} d=${area(scale, times, series[low].values, series[high].values)} />`)}
        ${series.map((it, index) => html`<g class=${colour(it, index)}><path class=${it.dash ? 'line dash' : 'line'} d=${line(scale, times, it.values)} />
          ${it.values[at] != null && (chosen != null || !last) && html`<circle cx=${scale.x(times[at])} cy=${scale.y(it.values[at])} r="4" />`}</g>`)}
        ${chosen != null && html`<line class="cursor" x1=${scale.x(times[at])} x2=${scale.x(times[at])} y1=${MARGIN.top} y2=${height - MARGIN.bottom} />`}`}</svg></div>
    <${Data} times=${times} series=${series} shown=${shown} label=${label} /></figure>`;
}

/** Positions of times and values in the picture. @param {number[]} times @param {{values: (number | null)[]}[]} series @param {number} width @param {number} height */
function useScale(times, series, width, height) {
  const all = series.flatMap((it) => it.values).filter((it) => it != null);
  const marks = ticks(Math.min(0, ...all), Math.max(...all, 0) || Math.min(0, ...all) + 1, 4);
  const left = 14 + 7 * Math.max(...marks.map((it) => number(it).length + 1));
  const [from, to] = [times[0], times.at(-1) ?? 0];
  const [low, high] = [marks[0], marks[marks.length - 1]];
  return {
    marks, left, from, to, width, height,
    x: (at) => left + ((at - from) / (to - from || 1)) * (width - left - MARGIN.right),
    y: (value) => height - MARGIN.bottom - ((value - low) / (high - low)) * (height - MARGIN.bottom - MARGIN.top),
  };
}

/** @param {{scale: any, unit: string}} props */
function Axes({ scale, unit }) {
  const { marks, left, from, to, width, height, x, y } = scale;
  const times = timeTicks(from, to, Math.max(1, Math.floor((width - left) / LABEL_DISTANCE)));
  return html`<g class="axes">${marks.map((it) => html`<line class=${it === 0 ? 'zero' : ''} x1=${left} x2=${width - MARGIN.right} y1=${y(it)} y2=${y(it)} /><text x=${left - 8} y=${y(it) + 4} text-anchor="end">${number(it)}${unit.trim() === '%' ? '%' : ''}</text>`)}
    ${times.map((it) => html`<line x1=${x(it.at)} x2=${x(it.at)} y1=${height - MARGIN.bottom} y2=${height - MARGIN.bottom + 5} /><text x=${x(it.at)} y=${height - 6} text-anchor="middle">${it.text}</text>`)}</g>`;
}

/** A line, interrupted where there is no value. @param {any} scale @param {number[]} times @param {(number | null)[]} values */
function line({ x, y }, times, values) {
  return values.map((it, index) => (it == null ? '' : `${values[index - 1] == null ? 'M' : 'L'}${x(times[index]).toFixed(1)} ${y(it).toFixed(1)}`)).join('');
}

/** The area between two lines. @param {any} scale @param {number[]} times @param {(number | null)[]} low @param {(number | null)[]} high */
function area({ x, y }, times, low, high) {
  const known = times.map((_, index) => index).filter((index) => low[index] != null && high[index] != null);
  const corner = (values) => (index) => `${x(times[index]).toFixed(1)} ${y(values[index]).toFixed(1)}`;
  return known.length ? `M${[...known.map(corner(low)), ...known.reverse().map(corner(high))].join('L')}Z` : '';
}

/** All points as a table, newest first. @param {{times: number[], series: any[], shown: (value: any) => string, label: string}} props */
function Data({ times, series, shown, label }) {
  const [open, setOpen] = useState(false);
  return html`<details onToggle=${(event) => setOpen(event.target.open)}><summary>Data</summary>${open && html`<div class="table data" role="region" tabindex="0" aria-label=${`Data of ${label}`}><table>
    <thead><tr><th scope="col">Time</th>${series.map((it) => html`<th scope="col" class="number">${it.name}</th>`)}</tr></thead>
    <tbody>${times.map((at, index) => html`<tr key=${at}><th scope="row" data-label="Time">${time(at * 1000)}</th>${series.map((it) => html`<td class="number" data-label=${it.name}>${shown(it.values[index])}</td>`)}</tr>`).reverse()}</tbody></table></div>`}</details>`;
}

/** @param {{values: number[], label: string}} props */
export function Sparkline({ values, label }) {
  const max = Math.max(1, ...values);
  const step = 96 / Math.max(1, values.length - 1);
  const points = values.map((value, index) => `${(2 + index * step).toFixed(1)},${(22 - (value / max) * 20).toFixed(1)}`);
  return html`<svg class="spark c1" viewBox="0 0 100 24" role="img" aria-label=${label}><polyline points=${points.join(' ')} /></svg>`;
}
