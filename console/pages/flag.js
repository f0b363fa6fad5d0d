// Flag: its definition, versions, use, dependencies, and why it is on or off for someone.
import { html, useState } from '../lib/html.js';
import { call, get, segment, useLoad } from '../lib/api.js';
import { address, route, setQuery } from '../lib/router.js';
import { ago, count, duration, time, who } from '../lib/format.js';
import { can } from '../lib/session.js';
import { Badge, Diff, Empty, Failure, Figure, Heading, Json, Loaded, Panel } from '../parts/states.js';
import { Confirm } from '../parts/dialog.js';
import { Plot } from '../parts/plot.js';
import { FlagState } from './flags.js';
import { EditDialog } from './edit.js';
import { Explanation } from './evaluation.js';
import { KillDialog } from './kill.js';

const REFRESH_MS = 3000;
const TABS = [['definition', 'Definition'], ['versions', 'Versions'], ['usage', 'Usage'], ['dependencies', 'Dependencies'], ['explain', 'Explain']];
/** Seconds of a bucket, and the number of plotted buckets, by resolution. @type {Record<string, [number, number]>} */
const PERIODS = { minute: [60, 120], hour: [3600, 72], day: [86_400, 90] };

export default function Flag() {
  const [of, name] = route.value.params;
  const load = useLoad((signal) => call('GET', `/api/v1/feature-flags/${segment(name)}`, { query: { environment: of }, signal }), [of, name], REFRESH_MS);
  const tab = route.value.query.get('tab') ?? 'definition';
  const [dialog, setDialog] = useState('');
  const close = (/** @type {boolean} */ changed) => {
    setDialog('');
    if (changed) load.reload();
  };
  const flag = load.data;
  return html`<${Heading} title=${name} note=${html`<a href="#/flags">Flags</a> in ${of}${flag ? html` · <${FlagState} flag=${flag} />` : ''}`}>
      ${flag && html`<a class="button" href=${address(['what-if'], { environment: of, flag: name })}>What-if</a>`}
      ${flag?.source === 'local' && can('write') && html`<button type="button" onClick=${() => setDialog('edit')}>Edit</button>`}
      ${flag && can('write') && html`<button type="button" class=${flag.kill_switch ? 'primary' : 'danger'} onClick=${() => setDialog('kill')}>${flag.kill_switch ? 'Restore' : 'Kill'}</button>`}<//>
    <${Loaded} load=${load}>${(data) => html`
      ${data.kill_switch && html`<p class="alarm critical" role="status"><strong>killed</strong><span>by ${who(data.kill_switch.actor)} ${ago(data.kill_switch.killed_at)}: ${data.kill_switch.reason}${data.kill_switch.expires_at ? `, until ${time(data.kill_switch.expires_at)}` : ''}</span></p>`}
      <div class="figures"><${Figure} label="Source" value=${data.source} note=${data.project && `project ${data.project}`} />
        <${Figure} label="Type" value=${data.type ?? '–'} note=${data.value_type} /><${Figure} label="Owner" value=${data.owner ?? '–'} />
        <${Figure} label="Evaluations" value=${count(data.evaluation_count)} note=${`last ${ago(data.last_evaluated_at)}`} />
        <${Figure} label="Version" value=${data.version ?? '–'} note=${data.in_force ? 'in force' : 'not in force yet'} kind=${data.in_force ? '' : 'warn'} /></div>
      ${data.description && html`<p>${data.description}</p>`}
      <div class="tabs" role="group" aria-label="Parts of the flag">${TABS.map(([key, title]) => html`<button type="button" aria-pressed=${tab === key} onClick=${() => setQuery({ tab: key })}>${title}</button>`)}</div>
      <${Tab} tab=${tab} flag=${data} reload=${load.reload} />`}<//>
    ${dialog === 'edit' && html`<${EditDialog} flag=${flag} close=${close} />`}
    ${dialog === 'kill' && html`<${KillDialog} flag=${flag} close=${close} />`}`;
}

/** @param {{tab: string, flag: any, reload: () => void}} props */
function Tab({ tab, flag, reload }) {
  if (tab === 'versions') return html`<${Versions} flag=${flag} reload=${reload} />`;
  if (tab === 'usage') return html`<${Usage} flag=${flag} />`;
  if (tab === 'dependencies') return html`<${Dependencies} flag=${flag} />`;
  if (tab === 'explain') return html`<${Explain} flag=${flag} />`;
  return html`<${Definition} flag=${flag} />`;
}

/** The definition in force. @param {any} flag */
const explained = (flag, body = {}) => call('POST', `/api/v1/feature-flags/${segment(flag.name)}/explain`, { query: { environment: flag.environment }, body });

/** @param {{flag: any}} props */
function Definition({ flag }) {
  const load = useLoad(() => explained(flag), [flag.name, flag.version]);
  return html`<${Loaded} load=${load}>${(data) => {
    const fields = contextFields(data.definition);
    return html`<div class="columns"><${Panel} title="Definition in force" note=${`version ${data.flag_version}`}><${Json} value=${data.definition} label="Definition" /><//>
      <${Panel} title="Context fields it reads">${fields.length ? html`<ul class="plain">${fields.map(([field, where]) => html`<li><code>${field}</code> <span class="note">${where.join(', ')}</span></li>`)}</ul>` : html`<p class="note">None: it is the same for everyone.</p>`}<//></div>`;
  }}<//>`;
}

/** Fields of the context that a definition reads, each with its uses. @param {any} definition @returns {[string, string[]][]} */
function contextFields(definition) {
  /** @type {Map<string, Set<string>>} */
  const fields = new Map();
  const add = (name, where) => fields.set(name, (fields.get(name) ?? new Set()).add(where));
  const all = [...(definition.strategies ?? []), ...(definition.local?.schedule ?? []).flatMap((it) => it.strategies)];
  for (const strategy of all) {
    for (const it of strategy.constraints ?? []) add(it.contextName, it.operator);
    for (const it of strategy.local?.conditions ?? []) it.contextNames.forEach((name) => add(name, it.operator));
    if (strategy.name.includes('ollout')) add({ default: 'userId', undefined: 'userId' }[String(strategy.parameters?.stickiness)] ?? strategy.parameters.stickiness, 'rollout');
    if (strategy.name === 'userWithId') add('userId', 'list of users');
    if (strategy.name === 'remoteAddress') add('remoteAddress', 'list of addresses');
  }
  if ((definition.variants ?? []).length > 1) add(definition.variants[0].stickiness ?? 'userId', 'variants');
  return [...fields].map(([name, where]) => [name, [...where]]);
}

/** @param {{flag: any, reload: () => void}} props */
function Versions({ flag, reload }) {
  const load = useLoad((signal) => get(`/api/v1/feature-flags/${segment(flag.name)}/changes`, { environment: flag.environment, limit: 100 }, signal), [flag.name, flag.version]);
  const [reverts, setReverts] = useState(null);
  const run = (reason) =>
    call('POST', `/api/v1/feature-flags/${segment(flag.name)}/revert`, { query: { environment: flag.environment }, body: { revision: reverts.revision }, reason });
  return html`<${Loaded} load=${load} empty=${(data) => !data.length && html`<${Empty} title="No change is recorded." />`}>${(data) => html`<ul class="plain">${data.map((it, index) => html`<li class="stack">
      <div class="actions"><${Badge} kind=${it.action === 'killed' || it.action === 'deleted' ? 'bad' : ''}>${it.action}<//><strong>${time(it.changed_at)}</strong> ${who(it.actor)}
        <span class="note">${it.reason ?? 'no reason given'}${it.version ? ` · version ${it.version}` : ''}${it.revision ? ` · revision ${it.revision}` : ''}</span>
        ${index > 0 && it.source === 'local' && it.after && can('write') && html`<button type="button" onClick=${() => setReverts(it)}>Revert to this</button>`}</div>
      <details><summary>Difference</summary><${Diff} before=${it.before} after=${it.after} /></details></li>`)}</ul>
    ${reverts && html`<${Confirm} title=${`Revert ${flag.name} to revision ${reverts.revision}`} action="Revert" run=${run} effect=${() => preview(flag, reverts.after)}
      close=${(/** @type {boolean} */ done) => { setReverts(null); if (done) { reload(); load.reload(); } }} />`}`}<//>`;
}

/** What a definition would change, for the dialog of a revert. @param {any} flag @param {any} definition */
async function preview(flag, definition) {
  const body = { flag: { ...definition, name: flag.name, environment: flag.environment }, last: 10_000 };
  const report = await call('POST', `/api/v1/feature-flags/${segment(flag.name)}/preview`, { query: { environment: flag.environment }, body });
  return html`<p>Of the last ${count(report.evaluations)} evaluations, the revert changes <strong>${count(report.different)}</strong>, of ${count(report.users)} users.</p>`;
}

/** @param {{flag: any}} props */
function Usage({ flag }) {
  const [resolution, setResolution] = useState('hour');
  const [step, length] = PERIODS[resolution];
  const from = () => new Date(Date.now() - step * length * 1000).toISOString();
  const load = useLoad((signal) => get(`/api/v1/feature-flags/${segment(flag.name)}/usage`, { environment: flag.environment, resolution, from: from() }, signal), [flag.name, resolution], 30_000);
  return html`<div class="actions" role="group" aria-label="Resolution">${Object.keys(PERIODS).map((it) => html`<button type="button" aria-pressed=${it === resolution} onClick=${() => setResolution(it)}>by ${it}</button>`)}</div>
    <${Loaded} load=${load} empty=${(data) => !data.buckets.length && html`<${Empty} title="No evaluations in this period." />`}>${(data) => {
      const names = Object.keys(data.total.variants);
      const last = Date.parse(data.buckets.at(-1).starts_at) / 1000;
      const times = Array.from({ length }, (_, index) => last - (length - 1 - index) * step);
      const buckets = new Map(data.buckets.map((it) => [Date.parse(it.starts_at) / 1000, it]));
      const values = (of) => times.map((at) => of(buckets.get(at) ?? { variants: {} }) ?? 0);
      const series = names.length
        ? names.map((name) => ({ name, values: values((it) => it.variants[name]) }))
        : [{ name: 'on', values: values((it) => it.enabled) }, { name: 'off', values: values((it) => it.disabled) }];
      return html`<div class="figures"><${Figure} label="Evaluations" value=${count(data.total.evaluations)} /><${Figure} label="Found it on" value=${count(data.total.enabled)} />
        <${Figure} label="Errors" value=${count(data.total.errors)} kind=${data.total.errors ? 'bad' : ''} /><${Figure} label="Mean time" value=${data.total.mean_evaluation_us == null ? '–' : duration(data.total.mean_evaluation_us / 1000)} /></div>
        <${Panel} title=${names.length ? 'Evaluations by variant' : 'Evaluations by result'}><${Plot} label="Evaluations" times=${times} series=${series} /><//>`;
    }}<//>`;
}

/** Parents, and local flags that depend on this one. @param {any} flag */
async function relatives(flag) {
  const { definition } = await explained(flag);
  const parents = (definition.dependencies ?? []).map((it) => ({ name: it.feature, label: `${it.enabled === false ? 'off' : 'on'}${it.variants?.length ? ` with ${it.variants.join(' or ')}` : ''}` }));
  const { items } = await get('/api/v1/feature-flags', { environment: flag.environment, limit: 100 });
  const isChild = (it) => it.depends_on.some((parent) => (parent.flag ?? parent) === flag.name);
  return { parents, children: items.filter(isChild).map((it) => ({ name: it.name, label: '' })) };
}

/** @param {{flag: any}} props */
function Dependencies({ flag }) {
  const load = useLoad(() => relatives(flag), [flag.name, flag.version]);
  return html`<${Loaded} load=${load} empty=${(it) => !it.parents.length && !it.children.length && html`<${Empty} title="The flag depends on no other flag, and no local flag depends on it." />`}>${(data) => html`<${Panel} title="Dependencies" note="left: flags that this one depends on"><${Graph} flag=${flag} ...${data} /><//>`}<//>`;
}

/** @param {{flag: any, parents: any[], children: any[]}} props */
function Graph({ flag, parents, children }) {
  const height = Math.max(parents.length, children.length, 1) * 52 + 20;
  const place = (all, index) => (height / (all.length + 1)) * (index + 1);
  const box = (x, y, name, isSelf = false) => {
    const inside = html`<rect class=${isSelf ? 'self' : ''} x=${x} y=${y - 17} width="180" height="34" rx="6" /><text x=${x + 90} y=${y + 5} text-anchor="middle">${name.length > 24 ? `${name.slice(0, 23)}…` : name}</text>`;
    return isSelf ? inside : html`<a href=${address(['flags', flag.environment, name])} aria-label=${name}>${inside}</a>`;
  };
  const middle = height / 2;
  return html`<svg class="graph" viewBox=${`0 0 720 ${height}`} role="group" aria-label=${`Dependencies of ${flag.name}`}>
    ${parents.map((it, index) => html`<path d=${`M190 ${place(parents, index)} C 230 ${place(parents, index)}, 230 ${middle}, 270 ${middle}`} /><text class="label" x="200" y=${place(parents, index) - 6}>${it.label}</text>${box(10, place(parents, index), it.name)}`)}
    ${children.map((it, index) => html`<path d=${`M450 ${middle} C 490 ${middle}, 490 ${place(children, index)}, 530 ${place(children, index)}`} />${box(530, place(children, index), it.name)}`)}
    ${box(270, middle, flag.name, true)}</svg>`;
}

/** @param {{flag: any}} props */
function Explain({ flag }) {
  const [user, setUser] = useState('');
  const [context, setContext] = useState('{}');
  const [state, setState] = useState(/** @type {{data?: any, error?: any}} */ ({}));
  const submit = async (event) => {
    event.preventDefault();
    try {
      setState({ data: await explained(flag, { user_id: user || null, context: JSON.parse(context || '{}') }) });
    } catch (error) {
      setState({ error });
    }
  };
  return html`<${Panel} title="Why is it on or off for someone?"><form class="stack" onSubmit=${submit}>
    <label>User<input name="user" value=${user} onInput=${(event) => setUser(event.target.value)} /></label>
    <label>Context (JSON)<textarea class="code" name="context" rows="4" spellcheck=${false} value=${context} onInput=${(event) => setContext(event.target.value)}></textarea></label>
    <button class="primary">Explain</button>
    ${state.error && html`<${Failure} error=${state.error} />`}${state.data && html`<${Explanation} explained=${state.data} />`}</form><//>`;
}
