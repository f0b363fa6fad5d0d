// Plots over time, and small lines in tables.
import { html, useEffect, useRef } from '../lib/html.js';

/** Colours that differ in lightness too, for light and dark backgrounds. */
const COLOURS = ['--c1', '--c2', '--c3', '--c4', '--c5', '--c6'];

/** @param {string} name */
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Series over time.
 * @param {{label: string, times: number[], series: {name: string, values: (number | null)[], dash?: boolean}[], bands?: [number, number][],
 *   unit?: string, height?: number}} props `times` in seconds; `bands`: pairs of series between which the area is filled.
 */
export function Plot({ label, times, series, bands = [], unit = '', height = 220 }) {
  const element = useRef(null);
  useEffect(() => {
    const box = element.current;
    if (!box) return undefined;
    const axis = { stroke: css('--muted'), grid: { stroke: css('--line'), width: 1 }, ticks: { stroke: css('--line') } };
    const options = {
      width: box.clientWidth || 300,
      height,
      legend: { live: true },
      cursor: { drag: { x: false, y: false } },
      scales: { y: { range: (_, min, max) => [Math.min(0, min), max || 1] } },
      axes: [axis, { ...axis, size: 64 }],
      bands: bands.map(([from, to]) => ({ series: [to + 1, from + 1], fill: css('--band') })),
      series: [
        {},
        ...series.map((it, index) => ({
          label: it.name,
          stroke: css(COLOURS[index % COLOURS.length]),
          width: 2,
          dash: it.dash ? [4, 4] : undefined,
          points: { show: times.length < 3 },
          value: (_, /** @type {number | null} */ value) => (value == null ? '–' : `${+value.toPrecision(4)}${unit}`),
        })),
      ],
    };
    let plot = null;
    let gone = false;
    const watch = new ResizeObserver(() => plot?.setSize({ width: box.clientWidth || 300, height }));
    // The library is half of the console, and many pages do without it.
    import('../vendor/uplot.js').then(({ default: uPlot }) => {
      if (gone) return;
      plot = new uPlot(options, [times, ...series.map((it) => it.values)], box);
      watch.observe(box);
    });
    return () => {
      gone = true;
      watch.disconnect();
      plot?.destroy();
    };
  }, [JSON.stringify([times, series]), document.documentElement.dataset.theme]);
  const last = series.map((it) => `${it.name}: ${it.values.at(-1) ?? 'none'}${unit}`).join(', ');
  return html`<figure class="plot"><div ref=${element} role="img" aria-label=${`${label}. Latest values: ${last}`}></div></figure>`;
}

/** @param {{values: number[], label: string}} props */
export function Sparkline({ values, label }) {
  const max = Math.max(1, ...values);
  const step = 96 / Math.max(1, values.length - 1);
  const points = values.map((value, index) => `${(2 + index * step).toFixed(1)},${(22 - (value / max) * 20).toFixed(1)}`);
  return html`<svg class="spark" viewBox="0 0 100 24" role="img" aria-label=${label}><polyline points=${points.join(' ')} /></svg>`;
}
