// The attempts of a job over time, as blocks on a line.
import { change } from '../address.js';
import { clock, count, duration } from '../format.js';
import { html } from '../html.js';
import { CALM, reasonWords } from '../words.js';

/** What an attempt did. */
function stepsText(attempt, job) {
  const live = attempt.ended_at === null;
  const step = live ? job.progress?.step : attempt.last_step;
  const first = live ? job.progress?.first_step : attempt.first_step;
  return step === null || step === undefined ? 'no step' : `steps ${count(first ?? 0)} to ${count(step)}`;
}

/** The line of attempts. */
export function Timeline({ job, now }) {
  const from = job.submitted_at;
  const to = job.finished_at ?? now;
  const whole = Math.max(to - from, 1e-3);
  const share = (seconds) => `${Math.max(0, Math.min(1, seconds / whole)) * 100}%`;
  return html`<section class="timeline" aria-label="Attempts over time">
    <ol>${job.attempts.map((attempt) => {
      const end = attempt.ended_at ?? now;
      const kind = attempt.reason === null ? 'running' : CALM.has(attempt.reason) ? attempt.reason : 'bad';
      const word = attempt.reason ? reasonWords(attempt.reason) : 'running';
      const steps = stepsText(attempt, job);
      return html`<li key=${attempt.number} class=${kind} style=${{ left: share(attempt.started_at - from), width: share(end - attempt.started_at) }}>
        <button type="button" title="Attempt ${attempt.number} ${word}, ${steps}, ${duration(end - attempt.started_at)}"
          onClick=${() => change({ tab: 'attempts', attempt: attempt.number }, {})}><span class="unseen">Attempt </span><span class="nth">${attempt.number}</span>
          <span class="word" aria-hidden="true"> ${attempt.reason ? word : ''}</span><span class="unseen"> ${attempt.reason ? word : ''}, ${steps}</span></button></li>`;
    })}</ol>
    <div class="ends num quiet" aria-hidden="true"><span>${clock(from, now)}</span><span>${job.finished_at ? clock(to, now) : 'now'}</span></div>
  </section>`;
}
