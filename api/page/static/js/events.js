// Events as a table, newest first: those of a job, or those of all jobs.
import { JobLink } from './address.js';
import { bytes, clock } from './format.js';
import { html } from './html.js';

function Value({ name, given }) {
  if ((name === 'for' || name === 'forked_from') && typeof given === 'string') return html`<${JobLink} id=${given} />`;
  if (name.endsWith('_bytes')) return bytes(given);
  return typeof given === 'string' ? given : JSON.stringify(given);
}

/** The events; with `jobs`, each says of which job it is. */
export const EventTable = ({ events, jobs }) => html`
  <div class="scroll" tabindex="0" role="region" aria-label="Events"><table class="plain-table events">
    <thead class="unseen"><tr><th scope="col">Time</th>${jobs && html`<th scope="col">Job</th>`}<th scope="col">Event</th><th scope="col">Details</th></tr></thead>
    <tbody>${[...events].reverse().map((event) => html`<tr key=${event.id}>
      <td class="num quiet">${clock(event.at)}</td>
      ${jobs && html`<td>${event.type === 'deleted' ? event.job : html`<${JobLink} id=${event.job} />`}</td>`}
      <td>${event.type.replaceAll('_', ' ')}</td>
      <td>${Object.entries(event.data).filter(([, given]) => given !== null && given !== '').map(([name, given]) => html`<span key=${name} class="pair"><span class="quiet">${name.replaceAll('_', ' ')}</span> <${Value} name=${name} given=${given} /></span>`)}
        ${event.by && html`<span class="pair"><span class="quiet">by</span> ${event.by}${event.address ? html` <span class="quiet">from</span> ${event.address}` : ''}</span>`}</td>
    </tr>`)}</tbody>
  </table></div>`;
