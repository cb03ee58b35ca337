// The receipts of all attempts, and the events of the job.
import { change } from '../address.js';
import { get } from '../api.js';
import { bytes, clock, count, duration } from '../format.js';
import { html, useRef, useState } from '../html.js';
import { usePoll } from '../poll.js';
import { CALM, isFinal, reasonWords } from '../words.js';
import { EventTable } from '../events.js';
import { FileLink } from './download.js';

const seconds = (value) => (value === null || value === undefined ? '–' : duration(value));

function fieldText(name, value) {
  if (/_at$/.test(name)) return clock(value);
  if (/_seconds$/.test(name)) return duration(value);
  if (/_bytes$/.test(name)) return bytes(value);
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

function Details({ attempt, job }) {
  const rows = Object.entries(attempt).filter(([name, value]) => value !== null && value !== '' && name !== 'log_tail'
    && !(typeof value === 'object' && !Object.keys(value).length));
  return html`<tr class="details"><td colspan="11">
    ${attempt.log_tail.length > 0 && html`<pre class="tail" tabindex="0" aria-label="Last lines of output">${attempt.log_tail.join('\n')}</pre>`}
    <dl class="receipt">${rows.map(([name, value]) => html`<div key=${name}><dt>${name.replaceAll('_', ' ')}</dt>
      <dd class="num" title=${String(value)}>${fieldText(name, value)}</dd></div>`)}</dl>
    ${attempt.ended_at !== null && html`<p><${FileLink} id=${job.id} path="attempts/${attempt.number}.json">Receipt of attempt ${attempt.number}</${FileLink}></p>`}
  </td></tr>`;
}

function Receipt({ attempt, job, open }) {
  const seen = attempt.ended_at === null && job.progress
    ? { ...attempt, ...job.progress, last_step: job.progress.step } : attempt;
  const steps = seen.last_step === null || seen.last_step === undefined ? '–' : `${count(seen.first_step ?? 0)} – ${count(seen.last_step)}`;
  const end = attempt.reason === null ? 'running' : reasonWords(attempt.reason);
  return html`<tr class=${open ? 'on' : ''}>
      <td><button type="button" class="plain" aria-expanded=${open} aria-label="Details of attempt ${attempt.number}"
        onClick=${() => change({ attempt: open ? undefined : attempt.number })}><span aria-hidden="true">${open ? '▾' : '▸'} </span>${attempt.number}</button></td>
      <td><span class="ended ${attempt.reason === null ? 'running' : CALM.has(attempt.reason) ? attempt.reason : 'bad'}">${end}</span></td>
      <td class="num">${steps}</td>
      <td class="num">${seen.resumed_from === null ? 'start' : `step ${count(seen.resumed_from)}`}</td>
      <td class="num">${seen.steps_recomputed === null || seen.steps_recomputed === undefined ? '–' : count(seen.steps_recomputed)}</td>
      <td class="num">${clock(attempt.started_at)}</td>
      <td class="num">${duration((attempt.ended_at ?? Date.now() / 1000) - attempt.started_at)}</td>
      <td class="num">${seconds(attempt.queue_seconds)}</td>
      <td class="num">${seconds(seen.restore_seconds)}</td>
      <td class="num">${seconds(seen.first_step_seconds)}</td>
      <td>${attempt.worker}</td>
    </tr>
    ${attempt.message && html`<tr class="message"><td></td><td colspan="10">${attempt.message}</td></tr>`}
    ${open && html`<${Details} attempt=${attempt} job=${job} />`}`;
}

const HEADS = ['Attempt', 'Ended', 'Steps', 'Resumed from', 'Twice', 'Started', 'Took', 'Queue', 'Restore', 'First step', 'Worker'];

/** The attempts of a job. */
export function Attempts({ job, params }) {
  if (!job.attempts.length) return html`<p class="empty">No attempt yet.</p><${Events} job=${job} />`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Attempts"><table class="plain-table">
    <thead><tr>${HEADS.map((name) => html`<th key=${name} scope="col">${name}</th>`)}</tr></thead>
    <tbody>${[...job.attempts].reverse().map((attempt) => html`<${Receipt} key=${attempt.number} attempt=${attempt} job=${job}
      open=${params.attempt === String(attempt.number)} />`)}</tbody>
  </table></div><${Events} job=${job} />`;
}

function Events({ job }) {
  const [events, setEvents] = useState([]);
  const after = useRef(undefined);
  usePoll(async (signal) => {
    let changed = false;
    for (;;) {
      const page = await get(`jobs/${job.id}/events`, { after: after.current, limit: 1000 }, signal);
      if (page.events.length) {
        after.current = page.after;
        setEvents((known) => [...known, ...page.events]);
        changed = true;
      }
      if (page.events.length < 1000) return changed || !isFinal(job.state);
    }
  }, [job.id]);
  return html`<h2>Events</h2><${EventTable} events=${events} />`;
}
