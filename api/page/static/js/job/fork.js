// The dialog that makes a new job from a checkpoint of another, with some keys changed.
import { go } from '../address.js';
import { post } from '../api.js';
import { flat } from '../compare/differences.js';
import { count } from '../format.js';
import { html, useEffect, useMemo, useRef, useState } from '../html.js';
import { useArtifacts } from './artifacts.js';

const CHECKPOINT = /^checkpoints\/checkpoint_step_(\d+)\.pt$/;

/** What a person typed: JSON where it is some, else a text. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function ChangedKey({ row, index, known, onChange, onRemove }) {
  const edit = (field) => (event) => onChange({ ...row, [field]: event.target.value });
  return html`<div class="row">
    <input aria-label="Key ${index + 1}" list="fork-keys" placeholder="train.optimizer.lr" value=${row.key} onInput=${edit('key')} />
    <input aria-label="Value ${index + 1}" placeholder=${known[row.key.trim()] === undefined ? 'value' : `now ${known[row.key.trim()]}`} value=${row.value} onInput=${edit('value')} />
    <button type="button" class="plain" aria-label="Leave key ${index + 1} as it is" onClick=${onRemove}>×</button>
  </div>`;
}

/** The dialog; `onClose` is called when it is left. */
export function Fork({ job, onClose }) {
  const dialog = useRef();
  const found = useArtifacts(job);
  const [step, setStep] = useState('');
  const [name, setName] = useState('');
  const [rows, setRows] = useState([{ key: '', value: '' }]);
  const [said, say] = useState('');
  const [busy, setBusy] = useState(false);
  const known = useMemo(() => flat(job.spec), [job.spec]);
  useEffect(() => { dialog.current.showModal(); }, []);
  const steps = (found?.artifacts ?? []).map((file) => CHECKPOINT.exec(file.path)?.[1]).filter(Boolean).map(Number).sort((a, b) => b - a);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    say('');
    const set = Object.fromEntries(rows.filter((row) => row.key.trim()).map((row) => [row.key.trim(), parsed(row.value.trim())]));
    try {
      const made = await post(`jobs/${job.id}/fork`, { step: step === '' ? null : Number(step), set, name: name.trim() || null });
      dialog.current.close();
      go({ view: 'job', id: made.id });
    } catch (error) {
      say(error.message);
      setBusy(false);
    }
  };
  return html`<dialog ref=${dialog} class="fork" onClose=${onClose} aria-labelledby="fork-title"><form onSubmit=${submit}>
    <h2 id="fork-title">Fork ${job.id}</h2>
    <p class="quiet">A new job goes on from a checkpoint of this one. This one stays as it is.</p>
    <div class="fields">
      <label for="fork-step">From</label>
      <select id="fork-step" value=${step} onChange=${(event) => setStep(event.target.value)}>
        <option value="">${steps.length ? `the newest checkpoint (step ${count(steps[0])})` : found ? 'its files as they are' : '…'}</option>
        ${steps.map((one) => html`<option key=${one} value=${one}>step ${count(one)}</option>`)}</select>
      <label for="fork-name">Name</label>
      <input id="fork-name" placeholder=${job.spec.name} value=${name} onInput=${(event) => setName(event.target.value)} />
    </div>
    <fieldset><legend>Changed keys</legend>
      <datalist id="fork-keys">${Object.keys(known).map((key) => html`<option key=${key} value=${key}></option>`)}</datalist>
      ${rows.map((row, i) => html`<${ChangedKey} key=${i} row=${row} index=${i} known=${known}
        onChange=${(next) => setRows(rows.map((one, j) => (i === j ? next : one)))}
        onRemove=${() => setRows(rows.filter((_, j) => i !== j))} />`)}
      <button type="button" onClick=${() => setRows([...rows, { key: '', value: '' }])}>Add a key</button>
    </fieldset>
    ${said && html`<p class="bad" role="alert">${said}</p>`}
    <div class="row end">
      <button type="button" onClick=${() => dialog.current.close()}>Go back</button>
      <button class="primary" disabled=${busy}>Fork</button>
    </div>
  </form></dialog>`;
}
