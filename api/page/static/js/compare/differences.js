// Configurations as flat keys, and the keys in which jobs differ.
import { JobLink } from '../address.js';
import { html } from '../html.js';

/** The keys of a value by their path: train.optimizer.lr. Lists and empty mappings are texts. */
export function flat(value, path = '', found = {}) {
  if (value !== null && typeof value === 'object' && !Array.isArray(value) && Object.keys(value).length) {
    for (const [key, one] of Object.entries(value)) flat(one, path ? `${path}.${key}` : key, found);
  } else {
    found[path] = value !== null && typeof value === 'object' ? JSON.stringify(value) : value;
  }
  return found;
}

/** The keys in which the specifications differ, with the value in each. */
function differences(jobs) {
  const all = jobs.map((job) => flat(job.spec));
  const keys = [...new Set(all.flatMap((one) => Object.keys(one)))];
  return keys.filter((key) => new Set(all.map((one) => String(one[key] ?? ''))).size > 1)
    .map((key) => [key, all.map((one) => one[key] ?? null)]);
}

/** A table of the keys in which jobs differ. */
export function Differences({ jobs }) {
  const rows = differences(jobs);
  if (!rows.length) return html`<p class="empty">The configurations are equal.</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Differences of the configurations"><table class="plain-table keys">
    <thead><tr><th scope="col">Key</th>${jobs.map((job, i) => html`<th key=${job.id} scope="col"><span class="swatch line-${i % 8 + 1}" aria-hidden="true"></span><${JobLink} id=${job.id} /></th>`)}</tr></thead>
    <tbody>${rows.map(([key, values]) => html`<tr key=${key}><th scope="row">${key}</th>
      ${values.map((value, i) => html`<td key=${i} class="mono">${value === null ? html`<span class="quiet">not set</span>` : String(value)}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}
