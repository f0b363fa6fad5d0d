// Feature flags in Express: one client for the service, a middleware that gives each request its flags.
import { pathToFileURL } from 'node:url';

import express from 'express';
import { FeatureFlagsClient } from 'flagstream-client';
import { flagsMiddleware } from 'flagstream-client/express';

export function service(flags) {
  const app = express();
  // A real service takes the user from its session, not from a header that anybody can send.
  const resolve = (request) => ({ userId: request.get('x-user'), context: { subscription_tier: request.get('x-tier') } });
  app.use(flagsMiddleware(flags, { resolve }));
  app.get('/api/users/:userId/dashboard', async (request, response) => {
    const theme = await flags.evaluateFlag('theme', request.params.userId, 'light');
    response.json({ template: (await request.flags.isEnabled('premium')) ? 'new_dashboard' : 'old_dashboard', theme });
  });
  return app;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const configServiceUrl = process.env.FLAGSTREAM_URL ?? 'http://localhost:8082';
  const flags = new FeatureFlagsClient({ configServiceUrl, environment: process.env.ENVIRONMENT, followChanges: true });
  const server = service(flags).listen(process.env.PORT ?? 3000);
  process.on('SIGTERM', () => server.close(() => flags.close()));
}
