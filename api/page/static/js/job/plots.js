// The plots of a run over its steps, with a slider.
import { change } from '../address.js';
import { count } from '../format.js';
import { html } from '../html.js';
import { Loading, useArtifacts } from './artifacts.js';
import { FileLink, useBlob } from './download.js';

const PLOT = /^(?:visualizations|plots|figures|images)\/(.*?)(?:_step_|_|-)?(\d+)?\.(png|jpe?g|webp|gif|svg)$/i;

function Plot({ job, file, name, step }) {
  const [url, failure] = useBlob(job.id, file.path, file.modified);
  return html`<figure class="picture">
    <figcaption>${name} <span class="quiet num">${step === null ? '' : `step ${count(step)}`}</span>
      <span class="space"></span><${FileLink} id=${job.id} path=${file.path}>Download</${FileLink}></figcaption>
    ${failure ? html`<p class="remark bad">${failure}</p>` : html`<div class="frame">${url && html`<img src=${url} alt="Plot ${name}${step === null ? '' : ` at step ${step}`}" />`}</div>`}
  </figure>`;
}

/** The plots of a job at one step. */
export function Plots({ job, params }) {
  const found = useArtifacts(job);
  if (!found) return html`<${Loading} />`;
  const plots = found.artifacts.flatMap((file) => {
    const match = PLOT.exec(file.path);
    return match ? [{ file, name: match[1].replaceAll('_', ' '), step: match[2] === undefined ? null : Number(match[2]) }] : [];
  });
  if (!plots.length) return html`<p class="empty">No plot yet: pictures in <code>visualizations/</code> appear here.</p>`;
  const steps = [...new Set(plots.map((one) => one.step).filter((step) => step !== null))].sort((a, b) => a - b);
  const wanted = params.step === undefined ? steps.length - 1 : steps.findLastIndex((step) => step <= Number(params.step));
  const index = Math.max(0, wanted);
  const names = [...new Set(plots.map((one) => one.name))].sort();
  // Of each plot the newest up to the chosen step, or its first one.
  const chosen = names.map((name) => {
    const own = plots.filter((one) => one.name === name).sort((a, b) => (a.step ?? -1) - (b.step ?? -1));
    return own.findLast((one) => one.step === null || one.step <= steps[index]) ?? own[0];
  });
  const move = (event) => change({ step: Number(event.target.value) === steps.length - 1 ? undefined : steps[event.target.value] });
  return html`
    ${steps.length > 1 && html`<div class="toolbar"><label class="slider">Step
      <input type="range" min="0" max=${steps.length - 1} value=${index} onInput=${move} aria-valuetext="step ${steps[index]}" />
      <output class="num">${count(steps[index])}</output></label>
      <span class="quiet num">${steps.length} steps with plots</span></div>`}
    <div class="pictures">${chosen.map((one) => html`<${Plot} key=${one.name} job=${job} ...${one} />`)}</div>`;
}
