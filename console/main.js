// The frame of the console: navigation, the token, and the page that the address names.
import { html, render, useEffect, useErrorBoundary, useState } from './lib/html.js';
import { call } from './lib/api.js';
import { route } from './lib/router.js';
import { asksForToken, can, environment, me, theme, token } from './lib/session.js';
import { Dialog } from './parts/dialog.js';
import { Failure, Loading } from './parts/states.js';
import { tableKeys } from './parts/table.js';

/** Address, title and needed scope of each page. @type {[string, string, string][]} */
const PAGES = [
  ['overview', 'Overview', 'read'],
  ['live', 'Live', 'read'],
  ['flags', 'Flags', 'read'],
  ['what-if', 'What-if', 'read'],
  ['experiments', 'Experiments', 'read'],
  ['audit', 'Audit', 'read'],
  ['dead-letters', 'Dead letters', 'read'],
  ['propagation', 'Propagation', 'read'],
  ['activity', 'Activity', 'read'],
  ['tokens', 'Tokens', 'admin'],
];

/** The module of an address; it is loaded when it is first shown. @param {{page: string, params: string[]}} at */
function moduleOf({ page, params }) {
  if (page === 'flags' && params.length > 1) return 'flag';
  if (page === 'experiments' && params.length > 1) return 'experiment';
  return PAGES.some(([path]) => path === page) ? page : null;
}

function TokenDialog() {
  const [text, setText] = useState(token.value);
  const close = () => (asksForToken.value = false);
  const submit = (event) => {
    event.preventDefault();
    token.value = text.trim();
    close();
  };
  return html`<${Dialog} title="Token" close=${close}>
    <form onSubmit=${submit}>
      <p>The token is kept in this tab until it closes, and is sent with every call. <code>flagstream token create</code> makes one.</p>
      <label>API token<input name="token" type="password" autocomplete="off" spellcheck=${false} value=${text}
        onInput=${(event) => setText(event.target.value)} /></label>
      <footer><button type="button" class="quiet" onClick=${() => { token.value = ''; close(); }}>Use none</button>
        <button class="primary">Use this token</button></footer>
    </form>
  <//>`;
}

/** @param {{open: boolean, close: () => void}} props */
function Navigation({ open, close }) {
  const current = route.value.page;
  return html`<nav id="navigation" class=${open ? 'open' : ''} aria-label="Pages"><ul>${PAGES.map(
    ([path, title, scope]) => html`<li><a href=${`#/${path}`} onClick=${close} aria-current=${current === path ? 'page' : undefined}
      class=${me.value && !can(scope) ? 'locked' : ''}>${title}${me.value && !can(scope) && html`<span class="note">needs ${scope}</span>`}</a></li>`,
  )}</ul></nav>`;
}

/** @param {{toggle: () => void, open: boolean}} props */
function Bar({ toggle, open }) {
  const next = { auto: 'light', light: 'dark', dark: 'auto' }[theme.value] ?? 'auto';
  return html`<header class="bar">
    <button type="button" class="quiet menu" aria-expanded=${open} aria-controls="navigation" onClick=${toggle}>Menu</button>
    <a class="brand" href="#/overview">flagstream</a>
    <label class="inline">Environment<select value=${environment.value} onChange=${(event) => (environment.value = event.target.value)}>
      <option value="">all</option>${me.value?.environments.map((name) => html`<option value=${name}>${name}</option>`)}
    </select></label>
    <span class="space"></span>
    <button type="button" class="quiet" onClick=${() => (theme.value = next)} aria-label=${`Colours: ${theme.value}. Change to ${next}`}>◐ ${theme.value}</button>
    <button type="button" class="quiet" onClick=${() => (asksForToken.value = true)}>${me.value?.person ?? (token.value ? me.value?.actor.split(':').at(-1) ?? 'Token' : 'Token')}</button>
  </header>`;
}

function Page() {
  const [error, reset] = useErrorBoundary();
  const at = route.value;
  const place = [at.page, ...at.params].join('/');
  useEffect(() => {
    reset();
    const title = PAGES.find(([path]) => path === at.page)?.[1] ?? 'Not found';
    document.title = `${at.params[1] ?? title} · flagstream`;
  }, [place]);
  const name = moduleOf(at);
  const [loaded, setLoaded] = useState(null);
  useEffect(() => {
    if (name) import(`./pages/${name}.js`).then((module) => setLoaded({ name, show: module.default }), (failed) => setLoaded({ name, failed }));
  }, [name]);
  if (error) return html`<${Failure} error=${error} reload=${reset} />`;
  if (!name) return html`<div class="state" data-state="not-found"><h1>There is no such page</h1><a href="#/overview">Overview</a></div>`;
  if (loaded?.name !== name) return html`<${Loading} />`;
  if (loaded.failed) return html`<${Failure} error=${loaded.failed} reload=${() => location.reload()} />`;
  return html`<${loaded.show} key=${place} />`;
}

function App() {
  const [open, setOpen] = useState(false);
  const [error, setError] = useState(null);
  const load = () => {
    setError(null);
    call('GET', '/api/v1/me').then((answer) => (me.value = answer), (failed) => { me.value = null; setError(failed); });
  };
  useEffect(load, [token.value]);
  useEffect(() => {
    addEventListener('keydown', tableKeys);
    return () => removeEventListener('keydown', tableKeys);
  }, []);
  // The focus follows the page, so that a screen reader reads its title.
  useEffect(() => {
    scrollTo(0, 0);
    const heading = /** @type {HTMLElement | null} */ (document.querySelector('main h1'));
    if (document.activeElement === document.body) heading?.focus({ preventScroll: true });
  }, [route.value.page, route.value.params.join('/')]);
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); /** @type {any} */ (document.getElementById('main')).focus(); }}>Skip to the content</a>
    <${Bar} open=${open} toggle=${() => setOpen(!open)} />
    <div class="frame"><${Navigation} open=${open} close=${() => setOpen(false)} />
    <main id="main" tabindex="-1" data-place=${[route.value.page, ...route.value.params].join('/')}>${error ? html`<${Failure} error=${error} reload=${load} /><button type="button" onClick=${() => (asksForToken.value = true)}>Enter a token</button>` : me.value ? html`<${Page} />` : html`<${Loading} />`}</main></div>
    ${asksForToken.value && html`<${TokenDialog} />`}`;
}

render(html`<${App} />`, document.body);
