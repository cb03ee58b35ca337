// The words for states, reasons and requests, and the sentence that says why a job waits.
import { count, duration } from './format.js';
import { mayChange } from './session.js';

export const STATES = ['running', 'queued', 'paused', 'succeeded', 'failed', 'cancelled'];
export const isFinal = (state) => state === 'succeeded' || state === 'failed' || state === 'cancelled';

/** A reason in words: out of memory. */
export const reasonWords = (reason) => (reason ?? '').replaceAll('_', ' ');

const REQUESTS = {
  evict: 'It makes room for a job of higher priority: it saves a checkpoint and leaves.',
  preempt: 'Asked to preempt: it saves a checkpoint and returns to the queue.',
  pause: 'Asked to pause: it saves a checkpoint and stops.',
  cancel: 'Asked to cancel: it stops.',
};

/** How an attempt ended: a mark is drawn for it. `calm` ends are part of the plan. */
export const CALM = new Set(['completed', 'preempted', 'evicted', 'paused', 'cancelled']);

const jobsWord = (number) => (number === 1 ? '1 job' : `${count(number)} jobs`);

/** Why the job is in its state: a sentence. `pool` and `running` may be missing. */
export function why(job, { pool, running, now }) {
  if (job.state === 'running') return REQUESTS[job.request] ?? '';
  if (job.state === 'paused') return job.message || 'Paused until someone resumes it.';
  if (job.state !== 'queued') return job.message;
  const name = job.spec.resources.pool;
  const before = job.attempts.length ? `Attempt ${job.attempt} ended: ${job.message || reasonWords(job.reason)}. ` : '';
  if (job.not_before > now) {
    return `${before}Waits ${duration(job.not_before - now)} before the next attempt.`;
  }
  if (job.held) return `${before}${job.held}`;
  const taking = pool ? pool.workers.idle + pool.workers.busy : null;
  if (taking === 0) return `${before}Pool ${name} has no worker that takes jobs.`;
  const place = job.queue_position ?? 0;
  const ahead = place ? `${jobsWord(place)} of pool ${name} ${place === 1 ? 'is' : 'are'} ahead of it` : `It is next in pool ${name}`;
  const left = (running ?? []).map((one) => one.progress?.seconds_left)
    .filter((one) => Number.isFinite(Number(one ?? NaN))).map(Number).sort((a, b) => a - b);
  const start = place < left.length ? `; by the pace of the running jobs it starts in about ${duration(left[place])}` : '';
  return `${before}${ahead}${start}.`;
}

/** What the state of a job allows. */
export function actionsOf(job) {
  const { state } = job;
  if (!mayChange(job)) return {};
  return {
    preempt: state === 'running',
    pause: state === 'running',
    resume: state === 'paused',
    retry: state === 'failed' || state === 'cancelled',
    cancel: !isFinal(state),
  };
}
