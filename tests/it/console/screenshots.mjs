// Pictures of all pages for docs/console.md, written only if a folder is named.
import { api, close, open, settings, show } from './browser.mjs';

const NAMES = ['checkout', 'search-v2', 'one-click', 'theme'];
/** Pause after each request while pictures are taken, in milliseconds. */
const REQUEST_PAUSE_MS = 100;

/** Evaluates flags for many users until the returned function is called. */
function traffic(environment) {
  let number = 0;
  let isEnded = false;
  const next = async () => {
    const context = { plan: number % 3 ? 'silver' : 'gold', country: 'ES' };
    const body = { flag_names: NAMES, user_id: `user-${(number += 7) % 300}`, environment, context };
    await api('POST', '/api/v1/feature-flags/evaluate/bulk', body).catch(() => {});
    if (!isEnded) setTimeout(next, REQUEST_PAUSE_MS);
  };
  next();
  return () => {
    isEnded = true;
  };
}

/** What a page has to show in its picture. @type {Record<string, (page: any) => Promise<any>>} */
const PREPARED = {
  overview: (page) => page.waitForFunction(() => Number(document.querySelector('[role=slider]')?.getAttribute('aria-valuemax')) >= 9),
  live: (page) => page.waitForFunction(() => document.querySelectorAll('tbody tr').length >= 12 && document.querySelectorAll('.figure strong')[2].textContent !== '0'),
  flags: (page) => page.waitForFunction(() => document.querySelectorAll('svg.spark').length >= 5),
  flag: (page) => page.locator('pre.json').waitFor(),
  experiment: async (page) => {
    await page.locator('figure.plot').first().waitFor();
    await page.locator('figure.plot').first().evaluate((figure) => figure.scrollIntoView({ block: 'end' }));
  },
  'what-if': (page) => page.locator('[data-report]').evaluate((report) => report.scrollIntoView({ block: 'end' })),
  audit: async (page) => {
    await page.getByRole('button', { name: 'Search' }).click();
    await page.locator('[data-found]').waitFor();
  },
};

/** @param {string[]} pages @param {string[] | null} only */
export async function screenshots(browser, pages, only) {
  const end = traffic('production');
  const { replays } = await api('GET', '/api/v1/replays');
  for (const scheme of ['light', 'dark']) {
    for (const [width, height] of [[1440, 900], [390, 844]]) {
      const page = await open(browser, { token: settings.token, scheme, width, height });
      for (const path of pages) {
        const name = path.startsWith('flags/') ? 'flag' : path.startsWith('experiments/') ? 'experiment' : path;
        if (only ? !only.includes(name) : name === 'propagation') continue;
        await show(page, name === 'what-if' && replays.length ? `what-if?replay=${replays[0].id}` : path);
        await page.evaluate(() => scrollTo(0, 0));
        await PREPARED[name]?.(page);
        await page.screenshot({ path: `${settings.screenshots}/${name}-${scheme}-${width}.png` });
      }
      await close(page);
    }
  }
  end();
}
