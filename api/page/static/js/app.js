// The page: its head with links and switches, the line that reports failures, and the current view.
import { Link, useAddress } from './address.js';
import { Cluster } from './cluster/view.js';
import { Compare } from './compare/view.js';
import { Component, html, render, useEffect, useState } from './html.js';
import { JobPage } from './job/view.js';
import { Jobs } from './jobs/view.js';
import { poke, useFailures } from './poll.js';
import { SignIn, signOut, useSession } from './session.js';

const VIEWS = { jobs: Jobs, job: JobPage, compare: Compare, cluster: Cluster };
const dark = matchMedia('(prefers-color-scheme: dark)');
const themeNow = () => document.documentElement.dataset.theme ?? (dark.matches ? 'dark' : 'light');

function ThemeSwitch() {
  const [theme, set] = useState(themeNow);
  useEffect(() => {
    const follow = () => { set(themeNow()); dispatchEvent(new Event('spectrain-theme')); };
    dark.addEventListener('change', follow);
    return () => dark.removeEventListener('change', follow);
  }, []);
  const other = theme === 'dark' ? 'light' : 'dark';
  const turn = () => {
    document.documentElement.dataset.theme = other;
    try { localStorage.setItem('spectrain-theme', other); } catch { /* lasts as long as the page */ }
    set(other);
    dispatchEvent(new Event('spectrain-theme'));
  };
  return html`<button type="button" class="plain" onClick=${turn} aria-label="Switch to ${other} colours">${
    other === 'dark' ? 'Dark' : 'Light'}</button>`;
}

function Failures() {
  const found = useFailures();
  return html`<div role="status" class="failures">${found.map((text) => html`<p key=${text}>
    ${text} The page shows what it last read, and tries again.
    <button type="button" class="plain" onClick=${poke}>Try now</button></p>`)}</div>`;
}

class Guard extends Component {
  componentDidCatch(error) {
    console.error(error);
    this.setState({ error });
  }

  render({ children }, { error }) {
    if (!error) return children;
    return html`<main id="main" class="page"><h1>This view failed</h1><p role="alert">${String(error)}</p>
      <p><a href="./">Back to the jobs</a></p></main>`;
  }
}

function App() {
  const params = useAddress();
  const { me, wanted } = useSession();
  const [turn, setTurn] = useState(0);
  const name = params.view in VIEWS ? params.view : 'jobs';
  const View = VIEWS[name];
  const at = (view) => (view === name || (view === 'jobs' && name === 'job') ? 'page' : undefined);
  useEffect(() => {
    const title = { job: params.id, compare: 'Compare', cluster: 'Cluster' }[name] ?? 'Jobs';
    document.title = `${title} · Spectrain`;
  }, [name, params.id]);
  return html`
    <a class="skip" href="#main">Skip to the content</a>
    <header class="top">
      <${Link} to=${{}} class="brand"><svg viewBox="0 0 24 14" aria-hidden="true"><path d="M1 7c2-8 4-8 6 0s4 8 6 0 3-6 4-6 2 3 3 6 2 2 3 2"/></svg>Spectrain</${Link}>
      <nav aria-label="Views">
        <${Link} to=${{}} aria-current=${at('jobs')}>Jobs</${Link}>
        <${Link} to=${{ view: 'cluster' }} aria-current=${at('cluster')}>Cluster</${Link}>
        ${name === 'compare' && html`<${Link} to=${params} aria-current="page">Compare</${Link}>`}
      </nav>
      <span class="space"></span>
      <${ThemeSwitch} />
      ${me?.name && html`<span class="quiet me" title="Role: ${me.role}">${me.name}</span>`}
      ${me?.token && html`<button type="button" class="plain" onClick=${signOut} title="You are ${me.name}">Sign out</button>`}
    </header>
    <div class="view">${wanted ? html`<${SignIn} why=${wanted} onSignIn=${() => setTurn(turn + 1)} />` : html`
      <${Failures} />
      <${Guard} key="${name} ${params.id ?? ''} ${turn}"><${View} params=${params} /></${Guard}>`}</div>
    <footer class="bottom"><a href="v1/reference">HTTP API</a></footer>
  `;
}

render(html`<${App} />`, document.getElementById('app'));
