// Pictures of all pages for docs/console.md, written only if a folder is named.
import { close, open, settings, settled, show } from './browser.mjs';

/** @param {string[]} pages @param {string[] | null} only */
export async function screenshots(browser, pages, only) {
  for (const scheme of ['light', 'dark']) {
    for (const [width, height] of [[1440, 900], [390, 844]]) {
      const page = await open(browser, { token: settings.token, scheme, width, height });
      for (const path of pages) {
        const name = path.startsWith('flags/') ? 'flag' : path.startsWith('experiments/') ? 'experiment' : path;
        if (only ? !only.includes(name) : name === 'propagation') continue;
        await show(page, path);
        await settled(page);
        if (name === 'audit') {
          await page.getByRole('button', { name: 'Search' }).click();
          await page.locator('[data-found]').waitFor();
        }
        await page.waitForTimeout(name === 'live' || name === 'overview' ? 4_000 : 500);
        await page.screenshot({ path: `${settings.screenshots}/console-${name}-${scheme}-${width}.png` });
      }
      await close(page);
    }
  }
}
