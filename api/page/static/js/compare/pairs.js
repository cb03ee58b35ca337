// The first step at which each job differs from the first one.
import { JobLink } from '../address.js';
import { count } from '../format.js';
import { html } from '../html.js';
import { Swatch } from '../parts.js';

/** Where the curves of a job part from those of the first: the first step, and which metrics do from which. */
function Parting({ curves }) {
  const told = Object.entries(curves);
  if (!told.length) return html`<td colspan="2" class="quiet">no metric in common</td>`;
  const parted = told.filter(([, step]) => step !== null).sort(([, a], [, b]) => a - b);
  const equal = told.filter(([, step]) => step === null).map(([name]) => name);
  if (!parted.length) return html`<td><span class="pair equal">equal</span></td><td class="quiet">at every step that both have: ${equal.join(', ')}</td>`;
  const steps = Map.groupBy(parted, ([, step]) => step);
  return html`<td class="num"><strong>step ${count(parted[0][1])}</strong></td>
    <td>${[...steps].map(([step, found]) => html`<span key=${step} class="pair"><span class="quiet num">from ${count(step)}:</span> ${found.map(([name]) => name).join(', ')}</span>`)}
      ${equal.length > 0 && html`<span class="pair equal">equal: ${equal.join(', ')}</span>`}</td>`;
}

/** The table of first differences; `curves` has those of each job but the first. */
export function Pairs({ jobs, curves, colours }) {
  const [first, ...others] = jobs;
  return html`<h2>First step that differs from ${first.id}</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Differences to ${first.id}"><table class="plain-table pairs">
      <thead><tr><th scope="col">Job</th><th scope="col">First</th><th scope="col">Metrics</th></tr></thead>
      <tbody>${others.map((job, i) => html`<tr key=${job.id}>
        <th scope="row"><${Swatch} colour=${colours[i + 1]} /><${JobLink} id=${job.id} /></th>
        <${Parting} curves=${curves[job.id] ?? {}} /></tr>`)}</tbody>
    </table></div>`;
}
