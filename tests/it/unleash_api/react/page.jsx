// A page that shows flags by Unleash's SDK for React. `window.settings` has its configuration and the flags.
import { createRoot } from 'react-dom/client';
import { FlagProvider, useFlag, useFlagsStatus, useVariant } from '@unleash/proxy-client-react';

const { config, flags } = window.settings;

function Flag({ name }) {
  const isEnabled = useFlag(name);
  const variant = useVariant(name);
  const shown = variant.enabled ? `${variant.name} (${variant.payload?.value})` : 'on';
  return <li data-flag={name}>{isEnabled ? shown : 'off'}</li>;
}

function Page() {
  const { flagsReady, flagsError } = useFlagsStatus();
  return (
    <main data-error={flagsError ? JSON.stringify(flagsError) : null}>
      {flagsReady ? <ul>{flags.map((name) => <Flag key={name} name={name} />)}</ul> : <p>Loading</p>}
    </main>
  );
}

createRoot(document.getElementById('root')).render(<FlagProvider config={config}><Page /></FlagProvider>);
