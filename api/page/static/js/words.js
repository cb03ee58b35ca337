// The words for states, reasons and requests, and the sentence that says why a job waits.
import { duration } from './format.js';
import { mayChange, maySubmit } from './session.js';

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

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`;

/** Why the job is in its state: a sentence. */
export function why(job, now) {
  if (job.state === 'running') return REQUESTS[job.request] ?? '';
  if (job.state === 'paused') return job.message || 'Paused until someone resumes it.';
  if (job.state !== 'queued') return job.message;
  const before = job.attempts.length ? `Attempt ${job.attempt} ended: ${job.message || reasonWords(job.reason)}. ` : '';
  if (job.not_before > now) {
    return `${before}Waits ${duration(job.not_before - now)} before the next attempt.`;
  }
  const { reason, seconds } = job.wait ?? { reason: 'it waits for a worker', seconds: null };
  const start = seconds === null ? '' : seconds < 1 ? ' It starts in a moment.' : ` It starts in about ${duration(seconds)}.`;
  return `${before}${sentence(reason)}${start}`;
}

/** What the state of a job allows. */
export function actionsOf(job) {
  const { state } = job;
  const fork = job.attempt > 0 && maySubmit();
  if (!mayChange(job)) return { fork };
  return {
    preempt: state === 'running',
    pause: state === 'running',
    resume: state === 'paused',
    retry: state === 'failed' || state === 'cancelled',
    cancel: !isFinal(state),
    fork,
  };
}
