// Where the time of a job went: a bar from the submission until now.
import { duration } from '../format.js';
import { html } from '../html.js';

const PARTS = {
  queue: ['Queue', 'Waiting for a worker, backoff and pauses included'],
  restore: ['Restore', 'Fetching code, inputs, packages and the files of earlier attempts'],
  first: ['First step', 'From the start of the program to the end of its first step'],
  training: ['Training', 'Steps that count'],
  run: ['Run', 'A program that counts no steps'],
  twice: ['Computed twice', 'Steps that an earlier attempt had completed'],
  lost: ['Lost', 'From the last sign of life of a lost attempt to the verdict'],
  other: ['Other', 'Saving, publishing and stopping'],
};

const LAG = 15;

/** The seconds of each part, in the order of PARTS. */
function partsOf(job, now) {
  const sums = Object.fromEntries(Object.keys(PARTS).map((name) => [name, 0]));
  let last = job.submitted_at;
  job.attempts.forEach((attempt, i) => {
    const live = attempt.ended_at === null && i === job.attempts.length - 1 && job.progress;
    const seen = live ? { ...attempt, ...job.progress, last_step: job.progress.step } : attempt;
    const length = Math.max(0, (attempt.ended_at ?? now) - attempt.started_at);
    sums.queue += Math.max(0, attempt.started_at - last);
    last = attempt.ended_at ?? now;
    const restore = ['workspace_seconds', 'inputs_seconds', 'environment_seconds', 'setup_seconds', 'restore_seconds']
      .reduce((sum, name) => sum + (seen[name] ?? 0), 0);
    const first = seen.first_step_seconds === null ? 0 : Math.max(0, seen.first_step_seconds - restore);
    const steps = seen.step_seconds ?? 0;
    const done = Math.max(1, (seen.last_step ?? 0) - (seen.first_step ?? 0) + 1);
    const before = Math.max(-1, ...job.attempts.slice(0, i).map((one) => one.last_step ?? -1));
    const again = seen.steps_recomputed ?? Math.max(0, Math.min(before, seen.last_step ?? -1) - (seen.first_step ?? 0) + 1);
    const twice = steps * Math.min(1, again / done);
    const lost = seen.detect_seconds ?? 0;
    const rest = Math.max(0, length - restore - first - steps - lost);
    // The record of a running attempt is a few seconds old.
    const since = live && steps ? Math.min(rest, LAG) : 0;
    sums.restore += Math.min(restore, length);
    sums.first += first;
    sums.training += steps - twice + since;
    sums.twice += twice;
    sums.lost += lost;
    sums[seen.step_seconds === null ? 'run' : 'other'] += rest - since;
  });
  if (!job.finished_at && job.state !== 'running') sums.queue += Math.max(0, now - last);
  return sums;
}

/** The bar, and what its parts mean. */
export function Goodput({ job, now }) {
  const sums = partsOf(job, now);
  const all = Object.values(sums).reduce((sum, one) => sum + one, 0) || 1;
  const there = Object.entries(sums).filter(([, seconds]) => seconds / all >= 0.0005);
  return html`<section class="goodput" aria-label="Where the time went">
    <div class="stack" aria-hidden="true">${there.map(([name, seconds]) => html`<span key=${name} class="part ${name}"
      style=${{ width: `${(seconds / all) * 100}%` }} title="${PARTS[name][0]}: ${duration(seconds)}"></span>`)}</div>
    <ul class="legend">${there.map(([name, seconds]) => html`<li key=${name} title=${PARTS[name][1]}>
      <span class="swatch part ${name}" aria-hidden="true"></span>${PARTS[name][0]}
      <span class="num quiet">${duration(seconds)} · ${seconds / all < 0.01 ? '<1' : Math.round((seconds / all) * 100)}%</span></li>`)}</ul>
  </section>`;
}
