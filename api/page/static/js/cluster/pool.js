// A pool: how full it is, who is next, and how long a new job would wait.
import { JobLink, Link } from '../address.js';
import { age, count, duration } from '../format.js';
import { html } from '../html.js';

const NEXT = 8;

/** How long a job waits that is submitted now, as a sentence; nothing where it cannot be known. */
function estimate(seconds) {
  if (seconds === null || seconds === undefined) return '';
  return seconds < 1 ? 'A job submitted now starts at once.' : `A job submitted now starts in about ${duration(seconds)}.`;
}

/** The pool; `reserved` are its workers that are kept for a job. */
export function Pool({ pool, queued, reserved, now }) {
  const all = Object.values(pool.workers).reduce((sum, one) => sum + one, 0);
  const waiting = queued.filter((job) => job.spec.resources.pool === pool.name && job.not_before <= now)
    .sort((a, b) => b.priority - a.priority || a.sequence - b.sequence);
  const facts = [['Running', pool.running], ['Queued', pool.queued], ['In backoff', pool.delayed], ['Workers', all],
    ...Object.entries(pool.workers).filter(([, number]) => number).map(([state, number]) => [state[0].toUpperCase() + state.slice(1), number])];
  return html`<section class="pool-part" aria-label="Pool ${pool.name}">
    <h3>${pool.name}</h3>
    <dl class="facts">${facts.map(([name, number]) => html`<div key=${name}><dt>${name}</dt><dd class="num">${count(number)}</dd></div>`)}</dl>
    ${all > 0 && estimate(pool.wait_seconds) && html`<p class="quiet num">${estimate(pool.wait_seconds)}</p>`}
    ${reserved.map((worker) => html`<p key=${worker.name} class="reserved">${worker.job
      ? html`<${JobLink} id=${worker.job} /> makes room on ${worker.name}` : `${worker.name} is kept`} for <${JobLink} id=${worker.reserved_for} />.</p>`)}
    ${waiting.length > 0 && html`<ol class="waiting" aria-label="First in the queue of pool ${pool.name}">${waiting.slice(0, NEXT).map((job) => html`<li key=${job.id}>
      <${JobLink} id=${job.id} /> <span class="quiet num">priority ${job.priority}, waits ${age(now - job.queued_at)}</span></li>`)}</ol>
      <p><${Link} to=${{ state: 'queued', pool: pool.name }}>${pool.queued === 1 ? 'The queued job' : `All ${count(pool.queued)} queued jobs`}</${Link}></p>`}
    ${all === 0 && html`<p class="remark bad"><span>No worker serves this pool: <code>spectrain worker --pool ${pool.name}</code></span></p>`}
  </section>`;
}
