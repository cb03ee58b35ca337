// The list of jobs: filter, search, order and selection, all in the address.
import { change } from '../address.js';
import { get } from '../api.js';
import { count } from '../format.js';
import { html, useEffect, useMemo, useRef, useState } from '../html.js';
import { useNow, usePoll } from '../poll.js';
import { STATES } from '../words.js';
import { Bulk } from './bulk.js';
import { shown, statesOf } from './filter.js';
import { JobStore } from './store.js';
import { Table } from './table.js';

/** The number of jobs in each state, beside a switch that shows these alone. */
function States({ jobs, params, more }) {
  const chosen = statesOf(params);
  const counts = {};
  for (const job of jobs) counts[job.state] = (counts[job.state] ?? 0) + 1;
  const turn = (state) => {
    const next = chosen.includes(state) ? chosen.filter((one) => one !== state) : [...chosen, state];
    change({ state: next.join(',') });
  };
  return html`<span class="choice states" role="group" aria-label="States">
    ${STATES.map((state) => html`<button key=${state} type="button" class="state ${state}"
      aria-pressed=${chosen.includes(state)} onClick=${() => turn(state)}>
      <i aria-hidden="true"></i>${state} <span class="num quiet">${more && !chosen.length ? '' : count(counts[state] ?? 0)}</span></button>`)}
  </span>`;
}

/** The name of the account that looks at the list; empty where nobody has to say who they are. */
function useName() {
  const [name, set] = useState('');
  useEffect(() => {
    const abort = new AbortController();
    get('me', {}, abort.signal).then((me) => set(me.name ?? ''), () => {});
    return () => abort.abort();
  }, []);
  return name;
}

/** The choice of an owner, oneself first. */
const Owners = ({ owners, mine, chosen }) => html`<label>Owner <select value=${chosen ?? ''}
  onChange=${(event) => change({ owner: event.target.value })}>
  <option value="">all</option>
  ${mine && html`<option value=${mine}>me (${mine})</option>`}
  ${owners.filter((name) => name !== mine).map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
</select></label>`;

/** The jobs of the address. */
export function Jobs({ params }) {
  const now = useNow(5);
  const mine = useName();
  const states = statesOf(params);
  // The service filters where it can, so that old jobs of a rare state are found too.
  const filter = { state: states.length === 1 ? states[0] : undefined, pool: params.pool || undefined, owner: params.owner || undefined };
  const [all] = useState(() => new JobStore());
  const [narrow, setNarrow] = useState(null);
  const [turn, again] = useState(0);
  const [pools, setPools] = useState([]);
  const [loaded, setLoaded] = useState(false);
  const search = useRef();
  const store = narrow ?? all;
  const show = () => again((n) => n + 1);

  useEffect(() => {
    setNarrow(all.more && loaded && (filter.state || filter.pool || filter.owner) ? new JobStore(filter) : null);
  }, [filter.state, filter.pool, filter.owner, loaded && all.more]);
  usePoll(async (signal) => {
    const changed = await store.refresh(signal, show);
    setLoaded(true);
    return changed;
  }, [store]);
  usePoll(async (signal) => {
    const { pools: found } = await get('pools', {}, signal);
    setPools(found.map((one) => one.name));
    return false;
  }, []);
  useEffect(() => {
    const slash = (event) => {
      if (event.key !== '/' || /INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName)) return;
      event.preventDefault();
      search.current.focus();
    };
    addEventListener('keydown', slash);
    return () => removeEventListener('keydown', slash);
  }, []);

  const jobs = useMemo(() => store.list, [store, turn]);
  const rows = useMemo(() => shown(jobs, params), [jobs, params]);
  const chosen = useMemo(() => new Set((params.sel ?? '').split(',').filter(Boolean)), [params.sel]);
  const select = (ids) => change({ sel: [...ids].join(',') });
  const selected = jobs.filter((job) => chosen.has(job.id));
  const filtered = params.q || states.length || params.pool || params.owner;
  const owners = useMemo(() => [...new Set([...all.list.map((job) => job.owner), params.owner].filter(Boolean))].sort(), [all, turn, params.owner]);

  return html`<main id="main" class="page jobs">
    <h1 class="unseen">Jobs</h1>
    <div class="toolbar">
      <input ref=${search} type="search" value=${params.q ?? ''} aria-label="Search jobs" aria-keyshortcuts="/"
        placeholder="Search name, label, reason  ( / )" onInput=${(event) => change({ q: event.target.value })} />
      <${States} jobs=${jobs} params=${params} more=${all.more} />
      ${pools.length > 1 || params.pool ? html`<label>Pool <select value=${params.pool ?? ''}
        onChange=${(event) => change({ pool: event.target.value })}>
        <option value="">all</option>
        ${[...new Set([...pools, ...(params.pool ? [params.pool] : [])])].map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
      </select></label>` : ''}
      ${(owners.length > 0 || mine) && html`<${Owners} owners=${owners} mine=${mine} chosen=${params.owner} />`}
      <span class="space"></span>
      <span class="quiet num" role="status">${loaded || jobs.length
        ? `${count(rows.length)}${filtered ? ` of ${count(jobs.length)}` : ''} jobs${store.more ? ', more exist' : ''}` : 'Loading…'}</span>
    </div>
    ${selected.length > 0 && html`<${Bulk} jobs=${selected} onClear=${() => select([])} />`}
    <${Table} rows=${rows} params=${params} chosen=${chosen} onSelect=${select} now=${now} owned=${owners.length > 0} />
    ${loaded && !jobs.length && !filtered && html`<div class="empty"><h2>No job yet</h2>
      <p>Submit one from a terminal:</p>
      <pre>spectrain submit --workspace . --follow -- python train.py</pre></div>`}
    ${loaded && !rows.length && (jobs.length > 0 || filtered) && html`<div class="empty"><h2>No job matches</h2>
      <p><button type="button" onClick=${() => change({ q: '', state: '', pool: '', owner: '' })}>Show all jobs</button></p></div>`}
    ${store.more && loaded && html`<p class="center"><button type="button"
      onClick=${() => { store.limit += 2000; store.refresh(undefined, show); }}>Read 2,000 older jobs</button></p>`}
  </main>`;
}
