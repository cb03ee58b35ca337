// The configuration of a job, and its difference to another one.
import { change, Link } from '../address.js';
import { get } from '../api.js';
import { html, useEffect, useState } from '../html.js';
import { flat, Differences } from '../compare/differences.js';
import { Check } from '../parts.js';

/** The difference to another job, once it is read: [{other, rows}, failure]. */
function useOther(job, id) {
  const [found, set] = useState([null, '']);
  useEffect(() => {
    set([null, '']);
    if (!id) return undefined;
    const abort = new AbortController();
    (async () => {
      const [other, { specification }] = await Promise.all([
        get(`jobs/${encodeURIComponent(id)}`, {}, abort.signal), get('compare', { job: [job.id, id] }, abort.signal),
      ]);
      set([{ other, rows: specification }, '']);
    })().catch((error) => {
      if (!abort.signal.aborted) set([null, error.message]);
    });
    return () => abort.abort();
  }, [job.id, id]);
  return found;
}

/** Every key of the specification that is set. */
export function Configuration({ job, params }) {
  const [found, failure] = useOther(job, params.with);
  const [siblings, setSiblings] = useState([]);
  useEffect(() => {
    get('jobs', { limit: 100 }).then(({ jobs }) => setSiblings(jobs.filter((one) => one.id !== job.id).map((one) => one.id)), () => {});
  }, [job.id]);
  const rows = Object.entries(flat(job.spec)).filter(([, value]) => params.unset || (value !== null && value !== '[]' && value !== '{}'));
  return html`
    <div class="toolbar">
      <label>Difference to <input type="search" list="siblings" size="28" value=${params.with ?? ''} placeholder="id of another job"
        onChange=${(event) => change({ with: event.target.value.trim() })} /></label>
      <datalist id="siblings">${siblings.map((id) => html`<option key=${id} value=${id}></option>`)}</datalist>
      ${found && html`<${Link} to=${{ view: 'compare', ids: `${job.id},${found.other.id}` }}>Compare the curves</${Link}>`}
      <span class="space"></span>
      ${!params.with && html`<${Check} label="Show unset keys" on=${Boolean(params.unset)} onChange=${(on) => change({ unset: on ? 1 : undefined })} />`}
    </div>
    ${failure && html`<p class="remark bad" role="alert">${failure}</p>`}
    ${found ? html`<${Differences} title="Differences of the configuration" jobs=${[job, found.other]} rows=${found.rows} colours=${[0, 1]} />` : !params.with && html`
    <div class="scroll" tabindex="0" role="region" aria-label="Configuration"><table class="plain-table keys">
      <thead class="unseen"><tr><th scope="col">Key</th><th scope="col">Value</th></tr></thead>
      <tbody>${rows.map(([key, value]) => html`<tr key=${key}><th scope="row">${key}</th><td class="mono">${String(value)}</td></tr>`)}</tbody>
    </table></div>`}`;
}
