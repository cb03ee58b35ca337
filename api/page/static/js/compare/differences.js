// Configurations as flat keys, and tables of what differs between jobs.
import { JobLink } from '../address.js';
import { html } from '../html.js';
import { Swatch } from '../parts.js';

/** The keys of a value by their path: train.optimizer.lr. Lists and empty mappings are texts. */
export function flat(value, path = '', found = {}) {
  if (value !== null && typeof value === 'object' && !Array.isArray(value) && Object.keys(value).length) {
    for (const [key, one] of Object.entries(value)) flat(one, path ? `${path}.${key}` : key, found);
  } else {
    found[path] = value !== null && typeof value === 'object' ? JSON.stringify(value) : value;
  }
  return found;
}

function Value({ given }) {
  if (given === null || given === undefined) return html`<span class="quiet">none</span>`;
  const text = typeof given === 'object' ? JSON.stringify(given) : String(given);
  return /^[0-9a-f]{40,}$/.test(text) ? html`<span title=${text}>${text.slice(0, 12)}</span>` : text;
}

/** A table of the keys in which jobs differ: {key: [value of each job]}; `colours` are those of the jobs. */
export function Differences({ title, jobs, rows, colours }) {
  const there = Object.entries(rows).filter(([, values]) => values !== null);
  if (!there.length) return html`<p class="quiet">The same.</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${title}><table class="plain-table keys">
    <thead><tr><th scope="col">Key</th>${jobs.map((job, i) => html`<th key=${job.id} scope="col"><${Swatch} colour=${colours[i]} /><${JobLink} id=${job.id} /></th>`)}</tr></thead>
    <tbody>${there.map(([key, values]) => html`<tr key=${key}><th scope="row">${key}</th>
      ${values.map((given, i) => html`<td key=${i} class="mono"><${Value} given=${given} /></td>`)}</tr>`)}</tbody>
  </table></div>`;
}
