// The head of a job: state, why it waits, progress, actions, where its time went, its attempts.
import { get, patch, post } from '../api.js';
import { JobLink, Link } from '../address.js';
import { age, clock, count, duration, percent, short, value } from '../format.js';
import { html, useEffect, useState } from '../html.js';
import { Confirm, Progress, Proof, State } from '../parts.js';
import { poke, useNow } from '../poll.js';
import { mayChange } from '../session.js';
import { actionsOf, isFinal, why } from '../words.js';
import { Fork } from './fork.js';
import { Goodput } from './goodput.js';
import { Timeline } from './timeline.js';

const WORDS = { preempt: 'Preempt', pause: 'Pause', resume: 'Resume', retry: 'Retry', cancel: 'Cancel' };
const HELP = {
  preempt: 'Saves a checkpoint and returns to the queue',
  pause: 'Saves a checkpoint and stops until it is resumed',
  resume: 'Returns to the queue',
  retry: 'Goes on from the newest checkpoint',
  cancel: 'Stops the job for good',
};

function Actions({ job, onJob }) {
  const [said, say] = useState('');
  const [asked, ask] = useState(false);
  const [forking, fork] = useState(false);
  const allowed = actionsOf(job);
  const act = async (name) => {
    ask(false);
    say('');
    try {
      onJob(await post(`jobs/${job.id}/${name}`));
      poke();
    } catch (error) {
      say(error.message);
    }
  };
  const prioritise = async (event) => {
    try {
      onJob(await patch(`jobs/${job.id}`, { priority: Number(event.target.value) }));
      poke();
    } catch (error) {
      say(error.message);
    }
  };
  return html`<div class="actions">
    ${!isFinal(job.state) && mayChange(job) && html`<label class="quiet">Priority <select value=${job.priority} onChange=${prioritise}>
      ${[...Array(10).keys()].reverse().map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label>`}
    ${Object.keys(WORDS).filter((name) => allowed[name]).map((name) => html`<button key=${name} type="button"
      title=${HELP[name]} disabled=${job.request === name} class=${name === 'resume' || name === 'retry' ? 'primary' : ''}
      onClick=${() => (name === 'cancel' ? ask(true) : act(name))}>${WORDS[name]}</button>`)}
    ${allowed.fork && html`<button type="button" title="A new job from a checkpoint of this one" onClick=${() => fork(true)}>Fork</button>`}
    <span class="said" role="status">${said}</span>
    ${forking && html`<${Fork} job=${job} onClose=${() => fork(false)} />`}
    ${asked && html`<${Confirm} title="Cancel ${job.id}?" text="It saves a checkpoint and stops. A cancelled job can be retried."
      action="Cancel the job" onYes=${() => act('cancel')} onNo=${() => ask(false)} />`}
  </div>`;
}

/** The jobs that went on from this one, of the newest two thousand. */
function useForks(id) {
  const [found, set] = useState([]);
  useEffect(() => {
    const abort = new AbortController();
    get('jobs', { forked_from: id, limit: 200 }, abort.signal).then(({ jobs }) => set(jobs.map((job) => job.id)), () => {});
    return () => abort.abort();
  }, [id]);
  return found;
}

const Fact = ({ name, children }) => html`<div><dt>${name}</dt><dd class="num">${children}</dd></div>`;

/** The head of the job. */
export function Head({ job, onJob }) {
  const now = useNow();
  const forks = useForks(job.id);
  const seen = job.progress;
  const reason = why(job, now);
  const { name } = job.spec;
  const command = job.spec.run ?? (job.spec.command ?? []).join(' ');
  const model = job.spec.train ? `${job.spec.train.model.type} model, ${job.spec.train.optimizer.name}` : command.split('\n')[0];
  return html`<header class="head">
    <div class="title">
      <h1>${name}<span class="quiet">${job.id.slice(name.length)}</span></h1>
      <${State} state=${job.state} request=${job.request} />
      <${Proof} proof=${job.proof} long=${true} />
      <span class="space"></span>
      <${Actions} job=${job} onJob=${onJob} />
    </div>
    ${reason && html`<p class="why ${job.state}" role="status">${reason}</p>`}
    ${(seen?.step ?? job.attempts.at(-1)?.last_step ?? null) !== null && html`<div class="done"><${Progress} job=${job} long=${true} /></div>`}
    <dl class="facts">
      ${job.attempt > 0 && html`
      <${Fact} name="Loss">${value(seen?.loss)}</${Fact}>
      <${Fact} name="Tokens per second">${seen?.tokens_per_second ? short(Number(seen.tokens_per_second)) : '–'}</${Fact}>
      <${Fact} name="Checkpoint">${job.checkpoint_step === null && !seen?.checkpoint_step ? 'none' : `step ${Math.max(job.checkpoint_step ?? 0, seen?.checkpoint_step ?? 0)}`}</${Fact}>
      <${Fact} name="Attempts">${job.attempt}</${Fact}>
      <${Fact} name="Goodput">${percent(job.goodput)}</${Fact}>`}
      <${Fact} name="Pool"><${Link} to=${{ view: 'cluster' }}>${job.spec.resources.pool}</${Link}></${Fact}>
      ${job.worker && html`<${Fact} name="Worker">${job.worker}</${Fact}>`}
      ${job.forked_from && html`<${Fact} name="Forked from"><${JobLink} id=${job.forked_from.job} />${job.forked_from.step === null ? '' : html` <span class="quiet">at step ${count(job.forked_from.step)}</span>`}</${Fact}>`}
      ${forks.length > 0 && html`<${Fact} name="Forks">${forks.slice(0, 4).map((id) => html`<${JobLink} key=${id} id=${id} /> `)}${forks.length > 4 ? html`<span class="quiet">and ${forks.length - 4} more</span>` : ''}</${Fact}>`}
      ${job.owner && html`<${Fact} name="Owner"><${Link} to=${{ owner: job.owner }}>${job.owner}</${Link}></${Fact}>`}
      <${Fact} name="Submitted"><span title=${clock(job.submitted_at)}>${age(now - job.submitted_at)} ago</span></${Fact}>
      <${Fact} name=${job.finished_at ? 'Took' : 'Running time'}>${duration(job.finished_at ? job.finished_at - job.submitted_at
        : job.run_seconds + (job.state === 'running' ? now - job.attempts.at(-1).started_at : 0))}</${Fact}>
      ${model && html`<div class="program"><dt>Program</dt><dd title=${command}>${model}</dd></div>`}
      ${Object.keys(job.spec.labels).length > 0 && html`<div><dt>Labels</dt><dd>${Object.entries(job.spec.labels).map(([key, one]) => html`<${Link} key=${key} class="note" to=${{ q: `${key}:${one}` }}>${key}:${one}</${Link}>`)}</dd></div>`}
    </dl>
    ${job.attempts.length > 0 && html`<${Goodput} job=${job} now=${now} /><${Timeline} job=${job} now=${now} />`}
  </header>`;
}
