// What differs from the first job beyond the configuration: curves, code and environment.
import { JobLink } from '../address.js';
import { get } from '../api.js';
import { count } from '../format.js';
import { html, useEffect, useState } from '../html.js';

/** The differences of each job to the first, by its id, once they are read. */
function useDiffs(jobs) {
  const [found, set] = useState({});
  const [first, ...others] = jobs;
  const shape = jobs.map((job) => `${job.id} ${job.state} ${job.attempt}`).join();
  useEffect(() => {
    const abort = new AbortController();
    (async () => {
      for (const other of others) {
        try {
          const diff = await get(`jobs/${first.id}/diff/${other.id}`, {}, abort.signal);
          set((known) => ({ ...known, [other.id]: diff }));
        } catch (error) {
          if (abort.signal.aborted) return;
          set((known) => ({ ...known, [other.id]: { failure: error.message } }));
        }
      }
    })();
    return () => abort.abort();
  }, [shape]);
  return found;
}

const text = (value) => (value === null || value === undefined ? 'none' : typeof value === 'object' ? JSON.stringify(value) : String(value));
const short = (value) => (typeof value === 'string' && /^[0-9a-f]{40,}$/.test(value) ? value.slice(0, 12) : text(value));

/** Where the curves part: a sentence on each metric. */
function Curves({ curves }) {
  const parted = Object.entries(curves).filter(([, step]) => step !== null).sort(([, a], [, b]) => a - b);
  const equal = Object.entries(curves).filter(([, step]) => step === null).map(([name]) => name);
  if (!parted.length && !equal.length) return html`<span class="quiet">no metric in common</span>`;
  return html`${parted.map(([name, step]) => html`<span key=${name} class="pair">${name} <span class="num">from step ${count(step)}</span></span>`)}
    ${equal.length > 0 && html`<span class="pair equal">${parted.length ? `equal: ${equal.join(', ')}` : 'equal at every step that both have'}</span>`}`;
}

const Changes = ({ changes }) => {
  const there = Object.entries(changes).filter(([, one]) => one !== null);
  if (!there.length) return html`<span class="quiet">the same</span>`;
  return there.map(([name, one]) => html`<div key=${name}><span class="quiet">${name}</span> <span class="mono" title="${text(one.job)} → ${text(one.other)}">${short(one.job)} → ${short(one.other)}</span></div>`);
};

/** The table of differences to the first job. */
export function Pairs({ jobs }) {
  const diffs = useDiffs(jobs);
  const [first, ...others] = jobs;
  return html`<h2>Beside ${first.id}</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Differences to ${first.id}"><table class="plain-table pairs">
      <thead><tr><th scope="col">Job</th><th scope="col">Curves differ</th><th scope="col">Code</th><th scope="col">Environment</th></tr></thead>
      <tbody>${others.map((job, i) => html`<tr key=${job.id}>
        <th scope="row"><span class="swatch line-${(i + 1) % 8 + 1}" aria-hidden="true"></span><${JobLink} id=${job.id} /></th>
        ${!diffs[job.id] ? html`<td colspan="3" class="quiet">…</td>` : diffs[job.id].failure ? html`<td colspan="3" class="bad">${diffs[job.id].failure}</td>` : html`
        <td><${Curves} curves=${diffs[job.id].curves} /></td>
        <td><${Changes} changes=${diffs[job.id].code} /></td>
        <td><${Changes} changes=${diffs[job.id].environment} /></td>`}
      </tr>`)}</tbody>
    </table></div>`;
}
