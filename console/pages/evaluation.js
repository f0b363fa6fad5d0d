// One evaluation: the event, which strategy decided and why, and the definition of that version.
import { html } from '../lib/html.js';
import { call, segment, useLoad } from '../lib/api.js';
import { address } from '../lib/router.js';
import { can } from '../lib/session.js';
import { time, value } from '../lib/format.js';
import { Badge, Json, Loaded } from '../parts/states.js';
import { Dialog } from '../parts/dialog.js';

/** @param {{row: any}} props */
export function Outcome({ row }) {
  const kind = row.error_code || row.reason === 'ERROR' ? 'bad' : row.reason === 'DISABLED' ? 'warn' : row.enabled ? 'good' : '';
  return html`<${Badge} kind=${kind} title=${row.error_message}>${row.error_code ?? row.reason}<//>${row.variant && html` <${Badge}>${row.variant}<//>`}`;
}

/** What tables added to the context: names, with the table unless it is that of users. @param {any} row */
export const added = (row) => Object.entries(row.attributes ?? {}).flatMap(([table, { names }]) => names.map((/** @type {string} */ name) => (table === 'user' ? name : `${table}: ${name}`))).join(', ');

/** @param {{row: any, close: () => void}} props */
export function EvaluationDialog({ row, close }) {
  return html`<${Dialog} title=${row.flag_name} close=${close} wide>
    <div class="stack">
      <dl class="facts">
        <dt>Value</dt><dd class="mono">${value(row.value)}</dd>
        <dt>Result</dt><dd><${Outcome} row=${row} /></dd>
        <dt>Evaluated at</dt><dd>${time(row.evaluated_at)}</dd>
        <dt>Flag</dt><dd><a href=${address(['flags', row.environment, row.flag_name])} onClick=${close}>${row.flag_name}</a> in ${row.environment}</dd>
        ${row.user_id && html`<dt>User</dt><dd>${row.user_id}</dd>`}
        ${row.request_id && html`<dt>Request id</dt><dd>${row.request_id}</dd>`}
        ${row.attributes && html`<dt>Attributes</dt><dd>${Object.entries(row.attributes).map(([table, it]) => html`<div>${it.names.join(', ')} from the table <code>${table}</code>, row ${it.partition}-${it.offset}</div>`)}</dd>`}
      </dl>
      ${row.flag_version == null
        ? html`<p class="note">The flag was unknown, so there is nothing to explain.</p>`
        : can('audit') ? html`<${Why} row=${row} />` : html`<p class="note">With the scope <code>audit</code>, the console explains the evaluation from its context.</p>`}
      <h3>Event</h3><${Json} value=${row} label="Event" />
    </div>
  <//>`;
}

/** @param {{row: any}} props */
function Why({ row }) {
  const body = {
    user_id: row.user_id, session_id: row.session_id, context: row.context ?? {}, flag_version: row.flag_version,
    flags_version: row.flags_version, evaluated_at: row.evaluated_at,
  };
  const path = `/api/v1/feature-flags/${segment(row.flag_name)}/explain`;
  const load = useLoad((signal) => call('POST', path, { query: { environment: row.environment }, body, signal }), [row.event_id]);
  return html`<${Loaded} load=${load}>${(data) => html`<div class="stack">
    <${Explanation} explained=${data} />
    <details><summary>Definition of version ${data.flag_version}${data.in_force ? ' (in force)' : ''}</summary><${Json} value=${data.definition} label="Definition" /></details></div>`}<//>`;
}

/** @param {{explained: any}} props */
export function Explanation({ explained }) {
  return html`<div class="effect" data-explanation=${explained.decision}><p><strong>${explained.summary}</strong></p>
    <ul class="plain">${explained.strategies.map((it) => html`<li><${Badge} kind=${it.matched ? 'good' : ''}>${it.matched ? 'matches' : 'no match'}<//> strategy ${it.index + 1} <code>${it.name}</code>${it.failure && html`: ${reason(it.failure)}`}</li>`)}</ul>
    ${explained.variant && html`<p>Variant <code>${explained.variant.name}</code> of the ${explained.variant.of_strategy ? 'strategy' : 'flag'}.</p>`}
    ${explained.random && html`<p class="note">A part of the result is drawn at random, so this may differ from the recorded evaluation.</p>`}</div>`;
}

/** Why a strategy did not match. @param {any} failure */
function reason(failure) {
  switch (failure.kind) {
    case 'constraint': {
      const values = failure.values.join(', ') + (failure.more_values ? ` and ${failure.more_values} more` : '');
      return html`constraint <code>${failure.inverted ? 'not ' : ''}${failure.context_name} ${failure.operator} ${values}</code> fails: ${failure.actual == null ? 'the context has no value' : html`the value is <code>${failure.actual}</code>`}`;
    }
    case 'rollout':
      return `outside the rollout of ${failure.percentage} % by ${failure.stickiness}${failure.bucket ? `: at ${failure.bucket} of 100` : ', drawn at random'}`;
    case 'not_listed':
      return `not among ${failure.parameter}`;
    case 'anonymous':
      return 'the rollout needs a user or a session';
    case 'missing_segment':
      return 'a segment does not exist';
    default:
      return 'the strategy is unknown, lacks a parameter, or is too large to be explained';
  }
}
