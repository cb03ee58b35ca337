// The cluster: pools with their queues, and workers with what each runs.
import { JobLink, Link } from './address.js';
import { get, post } from './api.js';
import { EventTable } from './events.js';
import { age, clock, count } from './format.js';
import { html, useState } from './html.js';
import { Progress } from './parts.js';
import { poke, useNow, usePoll } from './poll.js';
import { isAdmin } from './session.js';

const NEXT = 8, EVENTS = 50;

function Pool({ pool, queued, now }) {
  const all = Object.values(pool.workers).reduce((sum, one) => sum + one, 0);
  const waiting = queued.filter((job) => job.spec.resources.pool === pool.name && job.not_before <= now)
    .sort((a, b) => b.priority - a.priority || a.queued_at - b.queued_at);
  return html`<section class="pool-part" aria-label="Pool ${pool.name}">
    <h3>${pool.name}</h3>
    <dl class="facts">
      ${[['Running', pool.running], ['Queued', pool.queued], ['In backoff', pool.delayed], ['Workers', all], ...Object.entries(pool.workers).filter(([, number]) => number)]
        .map(([name, number]) => html`<div key=${name}><dt>${name}</dt><dd class="num">${count(number)}</dd></div>`)}
    </dl>
    ${waiting.length > 0 && html`<ol class="waiting" aria-label="First in the queue">${waiting.slice(0, NEXT).map((job) => html`<li key=${job.id}>
      <${JobLink} id=${job.id} /> <span class="quiet num">priority ${job.priority}, waits ${age(now - job.queued_at)}</span></li>`)}</ol>
      <p><${Link} to=${{ state: 'queued', pool: pool.name }}>All ${count(pool.queued)} queued jobs</${Link}></p>`}
    ${all === 0 && html`<p class="remark bad">No worker serves this pool: <code>spectrain worker --pool ${pool.name}</code></p>`}
  </section>`;
}

function Worker({ worker, job, now, onSaid }) {
  const draining = worker.state === 'draining';
  const turn = async () => {
    try {
      await post(`workers/${encodeURIComponent(worker.name)}/${draining ? 'undrain' : 'drain'}`);
      onSaid(draining ? `${worker.name} takes jobs again.` : `${worker.name} ends its job and takes no other.`);
      poke();
    } catch (error) {
      onSaid(error.message);
    }
  };
  return html`<tr>
    <td><span class="state w-${worker.state}"><i aria-hidden="true"></i>${worker.state}</span></td>
    <td>${worker.name}${worker.reason && html`<div class="remark ${worker.state === 'unhealthy' ? 'bad' : ''}">${worker.reason}</div>`}</td>
    <td>${worker.pool}</td>
    <td>${worker.host}</td>
    <td>${worker.gpus.length ? worker.gpus.join(', ') : html`<span class="quiet">CPU</span>`}</td>
    <td>${worker.job ? html`<${JobLink} id=${worker.job} />` : html`<span class="quiet">–</span>`}</td>
    <td>${job ? html`<${Progress} job=${job} />` : ''}</td>
    <td class="num" title=${clock(worker.since)}>${age(now - worker.since)}</td>
    <td>${isAdmin() && html`<button type="button" onClick=${turn} aria-label="${draining ? 'Undrain' : 'Drain'} ${worker.name}"
      title=${draining ? 'Takes jobs again' : 'Ends its job and takes no other'}>${draining ? 'Undrain' : 'Drain'}</button>`}</td>
  </tr>`;
}

/** Pools and workers. */
export function Cluster() {
  const now = useNow(2);
  const [found, set] = useState(null);
  const [said, say] = useState('');
  usePoll(async (signal) => {
    const [{ workers }, { pools }, { jobs: running }, { jobs: queued }, { events }] = await Promise.all([
      get('workers', {}, signal), get('pools', {}, signal),
      get('jobs', { state: 'running', limit: 200 }, signal), get('jobs', { state: 'queued', limit: 200 }, signal),
      get('events', { limit: EVENTS }, signal),
    ]);
    const next = { workers, pools, running, queued, events };
    const changed = JSON.stringify(next) !== JSON.stringify(found);
    if (changed) set(next);
    return changed;
  }, []);
  if (!found) return html`<main id="main" class="page"><h1>Cluster</h1><p class="quiet" role="status">Loading…</p></main>`;
  const jobs = Object.fromEntries(found.running.map((job) => [job.id, job]));
  const gpus = found.workers.reduce((sum, one) => sum + one.gpus.length, 0);
  return html`<main id="main" class="page cluster">
    <div class="title"><h1>Cluster</h1><span class="quiet num">${count(found.workers.length)} workers, ${count(gpus)} GPUs, ${count(found.running.length)} running jobs</span></div>
    <h2>Pools</h2>
    <div class="pools">${found.pools.map((pool) => html`<${Pool} key=${pool.name} pool=${pool} queued=${found.queued} now=${now} />`)}</div>
    <div class="title"><h2>Workers</h2><span role="status" class="said">${said}</span></div>
    ${found.workers.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Workers"><table class="plain-table workers">
      <thead><tr>${['State', 'Worker', 'Pool', 'Host', 'GPUs', 'Job', 'Progress', 'Since'].map((name) => html`<th key=${name} scope="col">${name}</th>`)}<td></td></tr></thead>
      <tbody>${found.workers.map((worker) => html`<${Worker} key=${worker.name} worker=${worker} job=${jobs[worker.job]} now=${now} onSaid=${say} />`)}</tbody>
    </table></div>` : html`<p class="remark bad">No worker is registered: start one with <code>spectrain worker</code>.</p>`}
    <h2>Events</h2>
    <${EventTable} events=${found.events} jobs=${true} />
  </main>`;
}
