// Dialogs: a form with a reason for changes, and a panel for details.
import { html, useEffect, useRef, useState } from '../lib/html.js';
import { Failure, Loading } from './states.js';
import { useLoad } from '../lib/api.js';

/** @param {{title: string, close: () => void, children: any, wide?: boolean}} props */
export function Dialog({ title, close, children, wide }) {
  const element = useRef(null);
  useEffect(() => {
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    element.current?.showModal();
    return () => before?.focus();
  }, []);
  return html`<dialog ref=${element} class=${wide ? 'wide' : ''} aria-labelledby="dialog-title" onCancel=${(event) => {
    event.preventDefault();
    close();
  }}>
    <header><h2 id="dialog-title">${title}</h2><button type="button" class="quiet" aria-label="Close" onClick=${close}>✕</button></header>
    ${children}
  </dialog>`;
}

/**
 * A form that shows what a change will do, asks for a reason, and makes the change.
 * @param {{title: string, action: string, destructive?: boolean, wide?: boolean, disabled?: boolean,
 *   effect?: (signal: AbortSignal) => Promise<any>, run: (reason: string) => Promise<any>, close: (done: boolean) => void,
 *   children?: any}} props `effect` resolves to what is shown about the effect before the change.
 */
export function Confirm({ title, action, destructive, wide, disabled, effect, run, close, children }) {
  const [reason, setReason] = useState('');
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const shown = useLoad(async (signal) => (effect ? await effect(signal) : ''), []);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await run(reason.trim());
      close(true);
    } catch (failed) {
      setError(failed);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${title} close=${() => close(false)} wide=${wide}>
    <form onSubmit=${submit}>
      ${effect && html`<div class="effect" data-effect>${shown.data == null ? (shown.error ? html`<${Failure} error=${shown.error} />` : html`<${Loading} />`) : shown.data}</div>`}
      ${children}
      <label>Reason<textarea name="reason" rows="2" required maxlength="1000" value=${reason}
        onInput=${(event) => setReason(event.target.value)}></textarea></label>
      ${error && html`<${Failure} error=${error} />`}
      <footer><button type="button" class="quiet" onClick=${() => close(false)}>Cancel</button>
        <button class=${destructive ? 'danger' : 'primary'} disabled=${busy || disabled}>${busy ? 'Working…' : action}</button></footer>
    </form>
  <//>`;
}
