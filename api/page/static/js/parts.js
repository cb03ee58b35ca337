// Small parts that several views share: a state, a bar of progress, a dialog, a tab strip.
import { Link } from './address.js';
import { age, clock, count, duration } from './format.js';
import { html, useEffect, useRef } from './html.js';

/** A state by colour and word. */
export const State = ({ state, request }) => html`
  <span class="state ${state}"><i aria-hidden="true"></i>${state}${request && state === 'running'
    ? html` <span class="quiet">(${request})</span>` : ''}</span>`;

/** The colour of a line; the ninth line and later ones have the first colours again, dashed. */
export const Swatch = ({ colour }) => html`<span class="swatch line-${colour % 8 + 1} ${colour > 7 ? 'again' : ''}" aria-hidden="true"></span>`;

const VERDICTS = { identical: 'bit-equal', differs: 'differs', inconclusive: 'inconclusive' };
const timesWord = (number) => (number === 1 ? 'once' : `${count(number)} times`);

/** The verdict of the last drill of a job, as a badge; `long` says how often it was interrupted. */
export function Proof({ proof, long }) {
  if (!proof) return '';
  const at = proof.verdict === 'differs' && proof.step !== null ? ` from step ${count(proof.step)}` : '';
  const times = long && proof.verdict !== 'inconclusive' ? `, interrupted ${timesWord(proof.interruptions)}` : '';
  return html`<span class="proof ${proof.verdict}" title="Drill of ${clock(proof.at)}: ${proof.message}"><span class="unseen">Drill: </span>${VERDICTS[proof.verdict]}${at}${times}</span>`;
}

/** Steps done, as a bar and as text. */
export function Progress({ job, long }) {
  const seen = job.progress;
  const last = job.attempts.at(-1);
  const step = seen?.step ?? last?.last_step ?? null;
  const total = seen?.total_steps ?? job.spec.train?.steps ?? null;
  if (step === null) return html`<span class="quiet">–</span>`;
  const done = total ? Math.min(1, (step + 1) / total) : null;
  const left = job.state === 'running' && Number.isFinite(Number(seen?.seconds_left ?? NaN))
    ? `${long ? duration(seen.seconds_left) : age(Number(seen.seconds_left))} left` : '';
  return html`<span class="progress ${job.state}">
    ${done !== null && html`<span class="bar" role="img" aria-label="${Math.floor(done * 100)}% done">
      <span style=${{ width: `${done * 100}%` }}></span></span>`}
    <span class="num">${count(step + 1)}${total ? html`<span class="quiet total">/${count(total)}</span>` : ''}</span>
    ${left && html`<span class="quiet num">${left}</span>`}
  </span>`;
}

/** A dialog that asks before something is done. */
export function Confirm({ title, text, action, onYes, onNo }) {
  const dialog = useRef();
  useEffect(() => { dialog.current.showModal(); }, []);
  return html`<dialog ref=${dialog} onClose=${onNo} aria-labelledby="confirm-title">
    <h2 id="confirm-title">${title}</h2>
    <p>${text}</p>
    <div class="row end">
      <button type="button" onClick=${() => dialog.current.close()}>Go back</button>
      <button type="button" class="danger" onClick=${onYes}>${action}</button>
    </div>
  </dialog>`;
}

/** Links to the parts of a view. */
export const Tabs = ({ label, tabs, current, to }) => html`
  <nav class="tabs" aria-label=${label}>
    ${tabs.map(([name, text]) => html`<${Link} key=${name} to=${to(name)} stay=${true}
      aria-current=${name === current ? 'page' : undefined}>${text}</${Link}>`)}
  </nav>`;

/** A labelled switch. */
export const Check = ({ label, on, onChange, title }) => html`
  <label class="check" title=${title}><input type="checkbox" checked=${on}
    onChange=${(event) => onChange(event.target.checked)} />${label}</label>`;

/** A group of choices of which one holds. */
export const Choice = ({ label, options, chosen, onChange }) => html`
  <span class="choice" role="group" aria-label=${label}>
    <span class="quiet" aria-hidden="true">${label}</span>
    ${options.map(([name, text]) => html`<button key=${name} type="button" aria-pressed=${name === chosen}
      onClick=${() => onChange(name)}>${text}</button>`)}
  </span>`;
