// The session: a cookie that scripts cannot read, who the person is, and the form that asks for a token.
import { html, useEffect, useRef, useState } from './html.js';

const listeners = new Set();
let me = null; // what the service says of the person; null while it has not
let wanted = ''; // why the page asks for a token; empty while it does not

const tell = () => { for (const listener of listeners) listener(); };

/** The headers with which a call changes something: without them the cookie alone is refused. */
export const proof = () => (me?.csrf ? { 'Spectrain-CSRF-Token': me.csrf } : {});

/** Whether the person may change a job. */
export const mayChange = (job) => me?.role === 'admin' || (me?.role === 'user' && job.owner === me.name);

/** Whether the person may submit jobs. */
export const maySubmit = () => me?.role === 'admin' || me?.role === 'user';

/** Whether the person may change what belongs to all. */
export const isAdmin = () => me?.role === 'admin';

/** Asks the service who the person is; answers whether that has changed. */
export async function meet() {
  const before = JSON.stringify(me);
  const answer = await fetch('v1/me', { cache: 'no-store' });
  if (answer.status === 401) refused();
  if (!answer.ok) return false;
  me = await answer.json();
  tell();
  return JSON.stringify(me) !== before;
}

/** Notes that a call was refused with 401. */
export function refused() {
  if (wanted) return;
  wanted = me ? 'Your session has ended.' : 'The service asks for a token.';
  me = null;
  tell();
}

/** Ends the session, in all tabs. */
export async function signOut() {
  try {
    await fetch('v1/session', { method: 'DELETE', headers: proof() });
  } finally {
    me = null;
    wanted = 'You have signed out.';
    tell();
  }
}

async function signIn(token) {
  const answer = await fetch('v1/session', {
    method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ token }),
  });
  const said = await answer.json();
  if (answer.ok) me = said;
  wanted = answer.ok ? '' : said.detail;
  tell();
  return answer.ok;
}

/** Who the person is, and why the page must ask for a token; empty if it need not. */
export function useSession() {
  const [, again] = useState(0);
  useEffect(() => {
    const listener = () => again((n) => n + 1);
    listeners.add(listener);
    meet().catch(() => { /* the first poll says that the service does not answer */ });
    return () => listeners.delete(listener);
  }, []);
  return { me, wanted };
}

/** The form that asks for a token; `onSignIn` is called with a session in place. */
export function SignIn({ why, onSignIn }) {
  const field = useRef();
  useEffect(() => field.current.focus(), []);
  const submit = async (event) => {
    event.preventDefault();
    const token = field.current.value.trim();
    if (!token) return;
    try {
      if (await signIn(token)) onSignIn();
    } catch {
      wanted = 'The service does not answer.';
      tell();
    }
  };
  return html`<main class="sign-in" id="main">
    <h1>Sign in</h1>
    <p role="alert">${why}</p>
    <form onSubmit=${submit}>
      <label for="token">Token</label>
      <input id="token" ref=${field} type="password" autocomplete="current-password" required />
      <button class="primary">Sign in</button>
    </form>
    <p class="quiet">An administrator makes one with <code>spectrain token create</code>.</p>
  </main>`;
}
