// What is done with the selected jobs: compare, cancel, retry, change the priority.
import { Link } from '../address.js';
import { patch, post } from '../api.js';
import { html, useState } from '../html.js';
import { Confirm } from '../parts.js';
import { poke } from '../poll.js';
import { mayChange } from '../session.js';
import { actionsOf, isFinal } from '../words.js';

const plural = (number) => (number === 1 ? '1 job' : `${number} jobs`);

/** Does the same to several jobs; answers a sentence on how it went. */
async function forAll(jobs, verb, act) {
  const refusals = [];
  for (const job of jobs) {
    try {
      await act(job);
    } catch (error) {
      refusals.push(`${job.id}: ${error.message}`);
    }
  }
  poke();
  const done = `${verb} ${plural(jobs.length - refusals.length)}.`;
  return refusals.length ? `${done} ${refusals.slice(0, 3).join(' ')}` : done;
}

/** The bar over the list while jobs are selected. */
export function Bulk({ jobs, onClear }) {
  const [asked, ask] = useState(false);
  const [said, say] = useState('');
  const open = jobs.filter((job) => actionsOf(job).cancel);
  const ended = jobs.filter((job) => actionsOf(job).retry);
  const changeable = jobs.filter((job) => !isFinal(job.state) && mayChange(job));
  const run = async (verb, chosen, act) => {
    say('…');
    say(await forAll(chosen, verb, act));
  };
  const cancel = () => {
    ask(false);
    run('Cancelled', open, (job) => post(`jobs/${job.id}/cancel`));
  };
  const prioritise = (event) => {
    const priority = Number(event.target.value);
    event.target.value = '';
    run(`Set priority ${priority} of`, changeable, (job) => patch(`jobs/${job.id}`, { priority }));
  };
  return html`<section class="bulk" aria-label="Selected jobs">
    <strong class="num">${jobs.length} selected</strong>
    ${jobs.length > 1
      ? html`<${Link} class="button primary" to=${{ view: 'compare', ids: jobs.map((job) => job.id).join(',') }}>Compare</${Link}>`
      : html`<button type="button" disabled title="Select two jobs or more">Compare</button>`}
    <button type="button" disabled=${!open.length} onClick=${() => ask(true)}>Cancel</button>
    <button type="button" disabled=${!ended.length}
      onClick=${() => run('Retried', ended, (job) => post(`jobs/${job.id}/retry`))}>Retry</button>
    <label>Priority
      <select disabled=${!changeable.length} onChange=${prioritise} value="">
        <option value="" disabled>set…</option>
        ${[...Array(10).keys()].reverse().map((one) => html`<option key=${one} value=${one}>${one}</option>`)}
      </select></label>
    <button type="button" class="plain" onClick=${onClear}>Clear</button>
    <span role="status" class="said">${said}</span>
    ${asked && html`<${Confirm} title="Cancel ${plural(open.length)}?"
      text="Running jobs save a checkpoint and stop. A cancelled job can be retried." action="Cancel ${plural(open.length)}"
      onYes=${cancel} onNo=${() => ask(false)} />`}
  </section>`;
}
