// A worker: its state, its GPUs with what they do, and what it runs.
import { JobLink } from '../address.js';
import { post } from '../api.js';
import { age, bytes, clock } from '../format.js';
import { html } from '../html.js';
import { Progress } from '../parts.js';
import { poke } from '../poll.js';
import { isAdmin } from '../session.js';

const HOT = 85; // degrees Celsius: most GPUs begin to slow down here

const shortName = (name) => name.replace(/^NVIDIA /, '');

/** A GPU: memory as a bar, utilisation, temperature, power, and what is wrong with it. */
function Gpu({ gpu }) {
  const { used_bytes: used, total_bytes: total, busy_percent: busy, celsius, watts } = gpu;
  const rest = [busy !== null && `${Math.round(busy)} %`, watts !== null && `${Math.round(watts)} W`].filter(Boolean).join(', ');
  return html`<li class="gpu">
    <span title=${gpu.name}>${shortName(gpu.name)}</span>
    ${total ? html`<span class="bar fill" role="img" aria-label="${bytes(used)} of ${bytes(total)} of memory in use"><span style=${{ width: `${(100 * used) / total}%` }}></span></span>
      <span class="num">${bytes(used)} <span class="quiet">of ${bytes(total)}</span></span>` : html`<span></span><span></span>`}
    <span class="num">${celsius !== null && html`<span class=${celsius >= HOT ? 'hot' : ''}>${Math.round(celsius)} °C</span>`}${celsius !== null && rest && ', '}${rest}</span>
    ${gpu.fault && html`<span class="remark bad">${gpu.fault}</span>`}
  </li>`;
}

/** The row of a worker; `job` is what it runs, `onSaid` is told how an action went. */
export function Worker({ worker, job, now, onSaid }) {
  const draining = worker.state === 'draining';
  const turn = async () => {
    try {
      await post(`workers/${encodeURIComponent(worker.name)}/${draining ? 'undrain' : 'drain'}`);
      onSaid(draining ? `${worker.name} takes jobs again.` : `${worker.name} ends its job and takes no other.`);
      poke();
    } catch (error) {
      onSaid(error.message);
    }
  };
  const states = worker.gpu_states ?? [];
  // A fault of a GPU stands beside the GPU.
  const reason = states.some((gpu) => gpu.fault && worker.reason.includes(gpu.fault)) ? '' : worker.reason;
  return html`<tr>
    <td><span class="state w-${worker.state}"><i aria-hidden="true"></i>${worker.state}</span></td>
    <td>${worker.name}${reason && html`<div class="remark ${worker.state === 'unhealthy' ? 'bad' : ''}">${reason}</div>`}</td>
    <td>${worker.pool}</td>
    <td>${worker.host}</td>
    <td class="gpu-cell">${states.length ? html`<ul class="gpus">${states.map((gpu, i) => html`<${Gpu} key=${i} gpu=${gpu} />`)}</ul>`
      : worker.gpus.length ? worker.gpus.map(shortName).join(', ') : html`<span class="quiet">CPU</span>`}</td>
    <td>${worker.job ? html`<${JobLink} id=${worker.job} />` : html`<span class="quiet">–</span>`}
      ${worker.reserved_for && html`<div class="reserved">next <${JobLink} id=${worker.reserved_for} /></div>`}</td>
    <td>${job ? html`<${Progress} job=${job} />` : ''}</td>
    <td class="num" title=${clock(worker.since)}>${age(now - worker.since)}</td>
    <td>${isAdmin() && html`<button type="button" onClick=${turn} aria-label="${draining ? 'Undrain' : 'Drain'} ${worker.name}"
      title=${draining ? 'Takes jobs again' : 'Ends its job and takes no other'}>${draining ? 'Undrain' : 'Drain'}</button>`}</td>
  </tr>`;
}
