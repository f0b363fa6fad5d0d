// Creates and edits a local flag, with a preview of what a save changes.
import { html, useEffect, useState } from '../lib/html.js';
import { call, segment } from '../lib/api.js';
import { count, pretty } from '../lib/format.js';
import { anEnvironment, me } from '../lib/session.js';
import { Confirm } from '../parts/dialog.js';
import { Failure } from '../parts/states.js';

/** Delay between the last keystroke and the preview, in milliseconds. */
const PREVIEW_DELAY_MS = 400;
/** Evaluations that a preview repeats. */
const PREVIEWED = 10_000;
/** Members that a person edits; all others describe the flag's state. */
const MEMBERS = ['description', 'type', 'status', 'is_enabled', 'value_type', 'default_value', 'min_value', 'max_value', 'value_schema',
  'owner', 'tags', 'links', 'expires_at', 'rollout_percentage', 'target_users', 'depends_on', 'strategy', 'percentage', 'user_list',
  'attribute_rules', 'rules', 'variants', 'distribution', 'weights', 'default_variant', 'rollout_schedule'];
/** Members that cannot be combined with others, so that their empty values are left out. */
const isEmpty = (value) => value == null || (typeof value === 'object' && !Object.keys(value).length);

/** The editable document of a flag. @param {any} flag */
export function document(flag) {
  const members = MEMBERS.filter((name) => !isEmpty(flag[name])).map((name) => [name, flag[name]]);
  return { name: flag.name, environment: flag.environment, ...Object.fromEntries(members) };
}

/** @param {{flag?: any, close: (changed: boolean) => void}} props */
export function EditDialog({ flag, close }) {
  const initial = flag ? document(flag) : { name: '', environment: anEnvironment.value, is_enabled: false, rollout_percentage: '100' };
  const [text, setText] = useState(pretty(initial));
  const parsed = parse(text);
  const set = (name, value) => parsed.value && setText(pretty({ ...parsed.value, [name]: value }));
  const run = async (reason) => {
    if (!flag) return call('POST', '/api/v1/feature-flags', { body: parsed.value, reason });
    const { name, environment, ...rest } = parsed.value;
    // A member that was removed gets its default.
    const removed = MEMBERS.filter((member) => !isEmpty(flag[member]) && !(member in rest)).map((member) => [member, null]);
    const headers = flag.etag ? { 'If-Match': flag.etag } : undefined;
    return call('PUT', `/api/v1/feature-flags/${segment(flag.name)}`, { query: { environment: flag.environment }, body: { ...Object.fromEntries(removed), ...rest }, reason, headers });
  };
  const value = parsed.value ?? {};
  return html`<${Confirm} title=${flag ? `Edit ${flag.name} in ${flag.environment}` : 'New flag'} action=${flag ? 'Save' : 'Create'} disabled=${!parsed.value} run=${run} close=${close} wide>
      <div class="filters">
        ${!flag && html`<label>Name<input name="name" required value=${value.name ?? ''} onInput=${(event) => set('name', event.target.value)} /></label>
        <label>Environment<select value=${value.environment} onChange=${(event) => set('environment', event.target.value)}>${me.value?.environments.map((it) => html`<option>${it}</option>`)}</select></label>`}
        <label class="check"><input type="checkbox" checked=${value.is_enabled} onChange=${(event) => set('is_enabled', event.target.checked)} />switched on</label>
        ${!value.rules?.length && !value.strategy && html`<label>Rollout in per cent<input name="rollout" type="number" min="0" max="100" value=${value.rollout_percentage ?? ''} onInput=${(event) => set('rollout_percentage', event.target.value === '' ? null : event.target.value)} /></label>`}
        <label>Owner<input name="owner" value=${value.owner ?? ''} onInput=${(event) => set('owner', event.target.value || null)} /></label>
      </div>
      <label>Definition (all fields: <a href="/schemas/local-flag.json" target="_blank" rel="noopener">schema</a>)
        <textarea class="code" name="definition" rows="14" spellcheck=${false} value=${text} onInput=${(event) => setText(event.target.value)}></textarea></label>
      ${parsed.error && html`<${Failure} error=${{ message: `not JSON: ${parsed.error}` }} />`}
      ${flag && html`<${Preview} flag=${flag} definition=${parsed.value} />`}
  <//>`;
}

/** @param {string} text @returns {{value?: any, error?: string}} */
function parse(text) {
  try {
    const value = JSON.parse(text);
    return value && typeof value === 'object' ? { value } : { error: 'expected an object' };
  } catch (error) {
    return { error: /** @type {Error} */ (error).message };
  }
}

/** How many evaluations and users a save changes. @param {{flag: any, definition: any}} props */
function Preview({ flag, definition }) {
  const [state, setState] = useState(/** @type {{data?: any, error?: any}} */ ({}));
  const body = JSON.stringify(definition);
  useEffect(() => {
    if (!definition) return undefined;
    const controller = new AbortController();
    const timer = setTimeout(async () => {
      const path = `/api/v1/feature-flags/${segment(flag.name)}/preview`;
      const asked = { flag: { ...definition, name: flag.name, environment: flag.environment }, last: PREVIEWED };
      try {
        setState({ data: await call('POST', path, { query: { environment: flag.environment }, body: asked, signal: controller.signal }) });
      } catch (error) {
        if (!controller.signal.aborted) setState({ error });
      }
    }, PREVIEW_DELAY_MS);
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, [body]);
  if (state.error) return html`<${Failure} error=${state.error} />`;
  if (!state.data) return html`<p class="note" role="status">Computing what this would change…</p>`;
  return html`<div class="effect" role="status" data-preview><p>Of the last ${count(state.data.evaluations)} evaluations, a save changes <strong data-different>${count(state.data.different)}</strong>, of <strong data-users>${count(state.data.users)}</strong> users.</p>
    ${changes(state.data)}</div>`;
}

/** Pairs of variants and reasons that differ. @param {any} report */
export function changes(report) {
  const pairs = report.flags.flatMap((flag) => [...flag.variants.map((it) => ({ ...it, what: 'variant' })), ...flag.reasons.map((it) => ({ ...it, what: 'reason' }))]);
  const shown = pairs.filter((it) => it.recorded !== it.again);
  return html`<ul class="plain">${shown.slice(0, 12).map((it) => html`<li>${it.what} <code>${it.recorded ?? 'none'}</code> → <code>${it.again ?? 'none'}</code>: ${count(it.evaluations)}</li>`)}</ul>`;
}
