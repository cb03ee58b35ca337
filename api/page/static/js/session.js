// The session: the token that each call carries, and the form that asks for it.
import { html, useEffect, useRef, useState } from './html.js';

const KEY = 'spectrain-token';
const listeners = new Set();
let wanted = ''; // why the page asks for a token; empty while it does not

const tell = () => { for (const listener of listeners) listener(); };

/** Whether calls carry a token: a plain link to a file would not. */
export const hasToken = () => sessionStorage.getItem(KEY) !== null;

/** The headers that identify the person. */
export function identity() {
  const token = sessionStorage.getItem(KEY);
  return token === null ? {} : { Authorization: `Bearer ${token}` };
}

/** Notes that a call was refused with 401. */
export function refused() {
  wanted = hasToken() ? 'The service does not accept this token.' : 'The service asks for a token.';
  tell();
}

/** Forgets the token. */
export function signOut() {
  sessionStorage.removeItem(KEY);
  wanted = 'You have signed out.';
  tell();
}

/** Why the page must ask for a token; empty if it need not. */
export function useSession() {
  const [, again] = useState(0);
  useEffect(() => {
    const listener = () => again((n) => n + 1);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, []);
  return wanted;
}

/** The form that asks for a token; `onSignIn` is called with a new one in place. */
export function SignIn({ why, onSignIn }) {
  const field = useRef();
  useEffect(() => field.current.focus(), []);
  const submit = (event) => {
    event.preventDefault();
    const token = field.current.value.trim();
    if (!token) return;
    sessionStorage.setItem(KEY, token);
    wanted = '';
    tell();
    onSignIn();
  };
  return html`<main class="sign-in" id="main">
    <h1>Sign in</h1>
    <p role="alert">${why}</p>
    <form onSubmit=${submit}>
      <label for="token">Token</label>
      <input id="token" ref=${field} type="password" autocomplete="current-password" required />
      <button class="primary">Sign in</button>
    </form>
    <p class="quiet">Operators set it as <code>SPECTRAIN_API_TOKENS</code>. This tab forgets it when it closes.</p>
  </main>`;
}
