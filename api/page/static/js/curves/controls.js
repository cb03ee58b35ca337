// The controls of curves: axis, scales, smoothing, which metrics; all in the address.
import { change } from '../address.js';
import { count } from '../format.js';
import { html, useEffect, useRef, useState } from '../html.js';
import { Check, Choice } from '../parts.js';

const AXES = [['step', 'Step'], ['time', 'Time'], ['tokens', 'Tokens']];
const FIRST = ['loss', 'train_loss', 'val_loss', 'eval_loss', 'accuracy', 'learning_rate', 'lr', 'grad_norm',
  'tokens_per_sec', 'tokens_per_second', 'perplexity'];
const ORDER = ['loss', 'train_loss', 'grad_norm', 'learning_rate', 'lr', 'tokens_per_sec', 'tokens_per_second'];
const EVALUATED = /^(val|valid|validation|eval|test)[_/]/;
const FEW = 12, LISTED = 100; // metrics in the menu: without a search, and at most
const rank = (list, name) => (list.includes(name) ? list.indexOf(name) : list.length);

// The name of a metric may have a comma.
const spelled = (name) => name.replaceAll('%', '%25').replaceAll(',', '%2C');
const named = (text) => text.replaceAll('%2C', ',').replaceAll('%25', '%');

/** What the address says of curves. */
export function settingsOf(params) {
  const smooth = Math.min(0.99, Math.max(0, Number(params.smooth) || 0));
  return {
    axis: ['time', 'tokens'].includes(params.x) ? params.x : 'step',
    logX: params.logx === '1', logY: params.logy === '1', smooth, clip: params.all !== '1',
    keys: (params.keys ?? '').split(',').filter(Boolean).map(named),
    from: params.from === undefined ? undefined : Number(params.from),
    to: params.to === undefined ? undefined : Number(params.to),
    at: params.at === undefined ? null : Number(params.at),
  };
}

/** The metrics to draw: those of the address, or the first few by importance. */
export function keysOf(names, chosen, most = 6) {
  if (chosen.length) return chosen.filter((name) => names.includes(name));
  const sorted = [...names].sort((a, b) => rank(FIRST, a) - rank(FIRST, b) || (a < b ? -1 : 1));
  return sorted.slice(0, most + (sorted.some((name) => EVALUATED.test(name)) ? 1 : 0));
}

/** The metrics by chart: an evaluated one beside the one of the training. */
export function groups(keys) {
  const found = [];
  const plain = keys.filter((key) => !EVALUATED.test(key)).sort((a, b) => rank(ORDER, a) - rank(ORDER, b));
  for (const key of plain) found.push([key]);
  for (const key of keys.filter((one) => EVALUATED.test(one))) {
    const bare = key.replace(EVALUATED, '');
    const home = found.find(([name]) => name === bare || name === `train_${bare}` || name === `train/${bare}`);
    if (home) home.push(key);
    else found.push([key]);
  }
  return found;
}

/** Zooms to a part of the axis; null for the whole. */
export function zoomTo(from, to) {
  const rounded = (value) => (value === null ? undefined : Number(value.toPrecision(6)));
  change({ from: rounded(from), to: rounded(to) });
}

/** The choice of metrics; of hundreds those that are drawn, and those that a search finds. */
function Metrics({ names, shown }) {
  const [word, search] = useState('');
  const menu = useRef();
  useEffect(() => {
    const leave = (event) => {
      if (event.key === 'Escape' && menu.current.contains(event.target)) menu.current.firstElementChild.focus();
      else if (event.key || menu.current.contains(event.target)) return;
      menu.current.open = false;
    };
    for (const name of ['pointerdown', 'keydown']) addEventListener(name, leave);
    return () => { for (const name of ['pointerdown', 'keydown']) removeEventListener(name, leave); };
  }, []);
  const ordered = names.length > LISTED ? [...shown, ...names.filter((name) => !shown.includes(name))] : names;
  const found = ordered.filter((name) => name.toLowerCase().includes(word.toLowerCase()));
  const turn = (key, on) => {
    const next = on ? [...shown, key] : shown.filter((one) => one !== key);
    change({ keys: next.map(spelled).join(',') });
  };
  return html`<details class="menu" ref=${menu}><summary>Metrics <span class="num quiet">${count(shown.length)} of ${count(names.length)}</span></summary>
    <fieldset><legend class="unseen">Metrics to draw</legend>
      ${names.length > FEW && html`<input type="search" aria-label="Search metrics" placeholder="Search metrics" value=${word} onInput=${(event) => search(event.target.value)} />`}
      ${found.slice(0, LISTED).map((name) => html`<${Check} key=${name} label=${name} on=${shown.includes(name)} onChange=${(on) => turn(name, on)} />`)}
      ${found.length > LISTED && html`<p class="quiet">The first ${LISTED} of ${count(found.length)}. Search for more.</p>`}
    </fieldset></details>`;
}

/** The bar of controls; `names` are the metrics there are. */
export function Controls({ settings, names, shown, axes }) {
  return html`<div class="toolbar controls">
    <${Choice} label="x" chosen=${settings.axis} options=${AXES.filter(([name]) => axes.includes(name))}
      onChange=${(x) => change({ x: x === 'step' ? undefined : x, from: undefined, to: undefined, at: undefined })} />
    <${Check} label="log x" on=${settings.logX} onChange=${(on) => change({ logx: on ? 1 : undefined })} />
    <${Check} label="log y" on=${settings.logY} onChange=${(on) => change({ logy: on ? 1 : undefined })} />
    <label class="slider">Smooth <input type="range" min="0" max="0.99" step="0.01" value=${settings.smooth}
      onInput=${(event) => change({ smooth: Number(event.target.value) || undefined })} />
      <output class="num">${settings.smooth.toFixed(2)}</output></label>
    <${Check} label="clip outliers" on=${settings.clip} onChange=${(on) => change({ all: on ? undefined : 1 })}
      title="Leave out the few points that would make the rest flat" />
    ${(settings.from !== undefined || settings.to !== undefined) && html`<button type="button"
      onClick=${() => change({ from: undefined, to: undefined })}>Whole range</button>`}
    <span class="space"></span>
    <${Metrics} names=${names} shown=${shown} />
  </div>`;
}
