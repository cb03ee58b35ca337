// The cluster: pools with their queues, workers with what each runs, and what has happened.
import { change } from '../address.js';
import { get } from '../api.js';
import { EventTable } from '../events.js';
import { bytes, count } from '../format.js';
import { html, useState } from '../html.js';
import { useNow, usePoll } from '../poll.js';
import { Pool } from './pool.js';
import { Worker } from './worker.js';

const FEW = 100, MANY = 1000; // events: the newest, and those in which a filter looks
const COLUMNS = ['State', 'Worker', 'Pool', 'Host', 'GPUs', 'Job', 'Progress', 'Since'];

/** Number and memory of all GPUs, as a text. */
function gpusText(workers) {
  const gpus = workers.reduce((sum, one) => sum + one.gpus.length, 0);
  const states = workers.flatMap((one) => one.gpu_states ?? []).filter((one) => one.total_bytes);
  const sum = (name) => bytes(states.reduce((all, one) => all + one[name], 0));
  const memory = states.length ? ` with ${sum('used_bytes')} of ${sum('total_bytes')} in use` : '';
  return `${count(gpus)} ${gpus === 1 ? 'GPU' : 'GPUs'}${memory}`;
}

/** The events, newest first: all, or those that the address asks for. */
function Events({ events, params }) {
  const types = [...new Set([...events.map((event) => event.type), ...(params.type ? [params.type] : [])])].sort();
  const word = (params.eq ?? '').toLowerCase();
  const shown = events.filter((event) => (!params.type || event.type === params.type)
    && (!word || `${event.job} ${event.by ?? ''} ${JSON.stringify(event.data)}`.toLowerCase().includes(word)));
  return html`<div class="toolbar part-head"><h2>Events</h2>
      <label>Kind <select value=${params.type ?? ''} onChange=${(event) => change({ type: event.target.value })}>
        <option value="">all</option>${types.map((type) => html`<option key=${type} value=${type}>${type.replaceAll('_', ' ')}</option>`)}</select></label>
      <input type="search" aria-label="Search events" placeholder="Job, worker, reason" value=${params.eq ?? ''}
        onInput=${(event) => change({ eq: event.target.value })} />
      <span class="quiet num" role="status">${!events.length ? '' : shown.length === events.length ? `the newest ${count(events.length)}` : `${count(shown.length)} of the newest ${count(events.length)}`}</span></div>
    ${shown.length ? html`<${EventTable} events=${shown.slice(-FEW * 2)} jobs=${true} />` : html`<p class="empty">${events.length ? 'No event matches.' : 'No event yet.'}</p>`}`;
}

/** Pools, workers and events. */
export function Cluster({ params }) {
  const now = useNow(2);
  const [found, set] = useState(null);
  const [said, say] = useState('');
  const limit = params.type || params.eq ? MANY : FEW;
  usePoll(async (signal) => {
    const [{ workers }, { pools }, { jobs: running }, { jobs: queued }, { events }] = await Promise.all([
      get('workers', {}, signal), get('pools', {}, signal),
      get('jobs', { state: 'running', limit: 200 }, signal), get('jobs', { state: 'queued', limit: 200 }, signal),
      get('events', { limit }, signal),
    ]);
    const next = { workers, pools, running, queued, events };
    const changed = JSON.stringify(next) !== JSON.stringify(found);
    if (changed) set(next);
    return changed;
  }, [limit]);
  if (!found) return html`<main id="main" class="page"><h1>Cluster</h1><p class="quiet" role="status">Loading…</p></main>`;
  const jobs = Object.fromEntries(found.running.map((job) => [job.id, job]));
  const running = found.pools.reduce((sum, pool) => sum + pool.running, 0);
  const reserved = found.workers.filter((worker) => worker.reserved_for);
  return html`<main id="main" class="page cluster">
    <div class="title"><h1>Cluster</h1><span class="quiet num">${count(found.workers.length)} ${found.workers.length === 1 ? 'worker' : 'workers'}, ${gpusText(found.workers)}, ${count(running)} running ${running === 1 ? 'job' : 'jobs'}</span></div>
    ${found.pools.length > 0 && html`<h2>Pools</h2>`}
    <div class="pools">${found.pools.map((pool) => html`<${Pool} key=${pool.name} pool=${pool} queued=${found.queued} now=${now}
      reserved=${reserved.filter((worker) => worker.pool === pool.name)} />`)}</div>
    <div class="title"><h2>Workers</h2><span role="status" class="said">${said}</span></div>
    ${found.workers.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Workers"><table class="plain-table workers">
      <thead><tr>${COLUMNS.map((name) => html`<th key=${name} scope="col">${name}</th>`)}<td></td></tr></thead>
      <tbody>${found.workers.map((worker) => html`<${Worker} key=${worker.name} worker=${worker} job=${jobs[worker.job]} now=${now} onSaid=${say} />`)}</tbody>
    </table></div>` : html`<p class="remark bad"><span>No worker is registered: start one with <code>spectrain worker</code>.</span></p>`}
    <${Events} events=${found.events} params=${params} />
  </main>`;
}
