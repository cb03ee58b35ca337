// The address: all state of a view is in the query string, so that a link shows the same.
import { html, useEffect, useState } from './html.js';

const listeners = new Set();

/** The parameters of the address. */
const read = () => Object.fromEntries(new URLSearchParams(location.search));

/** The query string of `params`; empty ones are left out. */
function query(params) {
  const given = Object.entries(params).filter(([, value]) => value !== undefined && value !== null
    && value !== '' && value !== false);
  const text = new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString();
  // Readable: these characters need no escape in a query.
  return text ? `?${text.replaceAll('%2C', ',').replaceAll('%2F', '/').replaceAll('%3A', ':')}` : './';
}

/** Goes to other parameters; `replace` leaves no entry in the history. */
export function go(params, { replace = false } = {}) {
  const target = query(params);
  if (target === (location.search || './')) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', target);
  for (const tell of listeners) tell();
}

/** Changes some parameters of the address and keeps the others. */
export const change = (changes, options = { replace: true }) => go({ ...read(), ...changes }, options);

/** The parameters of the address, and again after each change. */
export function useAddress() {
  const [params, set] = useState(read);
  useEffect(() => {
    const tell = () => set(read());
    listeners.add(tell);
    return () => listeners.delete(tell);
  }, []);
  return params;
}

/** A link within the page; `stay` keeps the place to which it is scrolled. */
export function Link({ to, stay, children, ...others }) {
  const follow = (event) => {
    if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go(to);
    if (!stay) scrollTo(0, 0);
  };
  return html`<a href=${query(to)} onClick=${follow} ...${others}>${children}</a>`;
}

/** A link to a job. */
export const JobLink = ({ id, children, ...others }) =>
  html`<${Link} to=${{ view: 'job', id }} ...${others}>${children ?? id}</${Link}>`;

addEventListener('popstate', () => { for (const tell of listeners) tell(); });
