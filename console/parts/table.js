// A table that becomes a list of cards on narrow screens.
import { html } from '../lib/html.js';

/**
 * @typedef {{title: string, cell: (row: any) => any, kind?: 'number' | 'main' | 'wide' | 'when'}} Column
 * @param {{label: string, columns: Column[], rows: any[], rowKey: (row: any) => any, rowClass?: (row: any) => string}} props
 */
export function Table({ label, columns, rows, rowKey, rowClass }) {
  return html`<div class="table" role="region" aria-label=${label} tabindex="0"><table>
    <thead><tr>${columns.map((it) => html`<th scope="col" class=${it.kind}>${it.title}</th>`)}</tr></thead>
    <tbody>${rows.map(
      (row) => html`<tr key=${rowKey(row)} class=${rowClass?.(row)}>
        ${columns.map((it) => html`<td class=${it.kind} data-label=${it.title}>${it.cell(row)}</td>`)}
      </tr>`,
    )}</tbody>
  </table></div>`;
}

/** Moves the focus among the links of table rows with the keys j and k, and to the search with `/`. @param {KeyboardEvent} event */
export function tableKeys(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|TEXTAREA|SELECT/.test(target.tagName)) return;
  if (document.querySelector('dialog[open]')) return;
  if (event.key === '/') {
    const search = /** @type {HTMLElement | null} */ (document.querySelector('input[type=search]'));
    search?.focus();
    if (search) event.preventDefault();
  }
  if (event.key !== 'j' && event.key !== 'k') return;
  const links = /** @type {HTMLElement[]} */ ([...document.querySelectorAll('tbody td.main a, tbody td.main button')]);
  const at = links.indexOf(/** @type {any} */ (document.activeElement));
  const next = event.key === 'j' ? at + 1 : Math.max(0, at - 1);
  links[Math.min(next, links.length - 1)]?.focus();
}
