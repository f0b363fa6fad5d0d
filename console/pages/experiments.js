// Experiments: all of them; starting one; and how many users one needs.
import { html, useState } from '../lib/html.js';
import { call, get, useLoad } from '../lib/api.js';
import { address } from '../lib/router.js';
import { count, pretty, time } from '../lib/format.js';
import { anEnvironment, can, environment } from '../lib/session.js';
import { Badge, Empty, Heading, Loaded, Panel } from '../parts/states.js';
import { Confirm } from '../parts/dialog.js';
import { Table } from '../parts/table.js';

const REFRESH_MS = 5000;

export default function Experiments() {
  const load = useLoad((signal) => get('/api/v1/experiments', { environment: environment.value }, signal), [environment.value], REFRESH_MS);
  const [starts, setStarts] = useState(false);
  const columns = [
    { title: 'Experiment', kind: 'main', cell: (it) => html`<a href=${address(['experiments', it.environment, it.name])}>${it.name}</a>` },
    { title: 'State', cell: (it) => html`<${Badge} kind=${it.status === 'running' ? 'good' : ''}>${it.status}<//>${it.winner ? html` <${Badge}>winner ${it.winner}<//>` : ''}` },
    { title: 'Flag', cell: (it) => it.flag_name },
    { title: 'Environment', cell: (it) => it.environment },
    { title: 'Metrics', cell: (it) => it.metrics.map((metric) => metric.name).join(', ') },
    { title: 'Owner', cell: (it) => it.owner ?? '–' },
    { title: 'Started', kind: 'when', cell: (it) => time(it.started_at) },
  ];
  return html`<${Heading} title="Experiments" note="On flags of type experiment with variants">${can('write') && html`<button type="button" class="primary" onClick=${() => setStarts(true)}>Begin an experiment</button>`}<//>
    <${Loaded} load=${load} empty=${(it) => !it.experiments.length && html`<${Empty} title="There are no experiments here." />`}>${(data) =>
      html`<${Table} label="Experiments" columns=${columns} rows=${data.experiments} rowKey=${(it) => `${it.environment}/${it.name}`} />`}<//>
    <${Planner} />
    ${starts && html`<${Start} close=${(/** @type {boolean} */ done) => { setStarts(false); if (done) load.reload(); }} />`}`;
}

/** @param {{close: (done: boolean) => void}} props */
function Start({ close }) {
  const [text, setText] = useState(pretty({ name: '', environment: anEnvironment.value, flag_name: '', hypothesis: '', metrics: [{ name: 'purchase', kind: 'conversion', goal: 'increase', role: 'primary', minimum_effect: 0.05 }], window_hours: 168 }));
  const run = (reason) => call('POST', '/api/v1/experiments', { body: JSON.parse(text), reason });
  return html`<${Confirm} title="Begin an experiment" action="Begin" run=${run} close=${close} wide>
    <p class="effect">From its start, the first evaluation of each user in each phase is an exposure. The flag itself does not change.</p>
    <label>Design<textarea class="code" name="design" rows="16" spellcheck=${false} value=${text} onInput=${(event) => setText(event.target.value)}></textarea></label><//>`;
}

/** Quantile of the normal distribution (Acklam's approximation is not needed: the errors of this one are below 0.0005). @param {number} p */
function quantile(p) {
  const t = Math.sqrt(-2 * Math.log(Math.min(p, 1 - p)));
  const z = t - (2.515517 + 0.802853 * t + 0.010328 * t * t) / (1 + 1.432788 * t + 0.189269 * t * t + 0.001308 * t * t * t);
  return p < 0.5 ? -z : z;
}

/** Users of each variant that a comparison of two rates needs. @param {number} base @param {number} effect @param {number} confidence @param {number} power */
export function usersNeeded(base, effect, confidence, power) {
  const other = base * (1 + effect);
  const z = quantile(1 - (1 - confidence) / 2) + quantile(power);
  return Math.ceil((z * z * (base * (1 - base) + other * (1 - other))) / (other - base) ** 2);
}

function Planner() {
  const [plan, setPlan] = useState({ base: 5, effect: 10, perDay: 1000, variants: 2 });
  const field = (/** @type {keyof typeof plan} */ name, title, min = 0.01) =>
    html`<label>${title}<input type="number" min=${min} step="any" value=${plan[name]} onInput=${(event) => setPlan({ ...plan, [name]: Number(event.target.value) })} /></label>`;
  const users = usersNeeded(plan.base / 100, plan.effect / 100, 0.95, 0.8);
  const all = users * plan.variants;
  return html`<${Panel} title="Plan" note="for a rate, with 95 % confidence and 80 % power at a single look"><div class="stack"><div class="filters">
    ${field('base', 'Rate of the control in %')}${field('effect', 'Smallest relative effect in %')}${field('variants', 'Variants', 2)}${field('perDay', 'Users per day', 1)}</div>
    <p role="status">${Number.isFinite(all) && all > 0 ? html`<strong>${count(users)}</strong> users per variant, ${count(all)} together: about <strong>${count(Math.ceil(all / plan.perDay))} days</strong>. Intervals that are valid at any look need more.` : 'The rate with the effect must be below 100 %.'}</p></div><//>`;
}
