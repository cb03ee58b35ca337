// The table of jobs: only the rows in sight are in the document, each in a place of its own, so thousands cost nothing.
import { change, JobLink } from '../address.js';
import { age, clock } from '../format.js';
import { Component, html, useEffect, useRef, useState } from '../html.js';
import { Progress, Proof, State } from '../parts.js';
import { reasonWords } from '../words.js';
import { nextOrder, order } from './filter.js';
import { Sparkline } from './sparkline.js';

const SPARE = 12; // rows beyond the window
const STRIDE = 8; // rows: a smaller move draws nothing
const HEADS = [
  ['state', 'State'], ['name', 'Job'], ['owner', 'Owner'], ['pool', 'Pool'], ['progress', 'Progress'], ['loss', 'Loss'],
  ['priority', 'Priority'], ['attempts', 'Attempts'], ['age', 'Age'],
];

// The row itself is no component: Preact would move all rows where one leaves.
class Cells extends Component {
  shouldComponentUpdate(next) {
    return next.job !== this.props.job || next.owned !== this.props.owned || next.on !== this.props.on || next.index !== this.props.index
      || age(next.now - next.job.submitted_at) !== age(this.props.now - this.props.job.submitted_at);
  }

  render({ job, on, index, now, owned, onTurn }) {
    const { name, labels, resources } = job.spec;
    const note = job.state === 'failed' ? reasonWords(job.reason) : '';
    return html`
      <td class="pick"><input type="checkbox" checked=${on} aria-label="Select ${job.id}"
        onClick=${(event) => onTurn(index, event.target.checked, event.shiftKey)} /></td>
      <td class="c-state"><${State} state=${job.state} request=${job.request} /></td>
      <td class="name"><${JobLink} id=${job.id} data-row=${index} title=${job.id}>${name}<span class="quiet">${job.id.slice(name.length)}</span></${JobLink}>
        <span class="notes quiet"><${Proof} proof=${job.proof} />${note && html`<span class="note">${note}</span>`}${Object.entries(labels).map(([key, value]) => html`<span key=${key} class="note">${key}:${value}</span>`)}</span></td>
      ${owned && html`<td class="c-owner wide">${job.owner ?? ''}</td>`}
      <td class="c-pool wide">${resources.pool}</td>
      <td class="c-progress"><${Progress} job=${job} /></td>
      <td class="c-loss"><${Sparkline} job=${job} /></td>
      <td class="num wide">${job.priority}</td>
      <td class="num wide">${job.attempt}</td>
      <td class="num wide" title=${clock(job.submitted_at)}>${age(now - job.submitted_at)}</td>`;
  }
}

/** The first and the last row that the window shows, again while it is scrolled. */
function useWindow(body, total) {
  const [range, setRange] = useState([0, 60]);
  useEffect(() => {
    let frame = 0, height = 0;
    const look = () => {
      frame = 0;
      const above = -body.current.getBoundingClientRect().top;
      const first = Math.max(0, Math.floor((above / height - SPARE) / STRIDE) * STRIDE);
      const last = Math.min(total, Math.ceil(((above + innerHeight) / height + SPARE) / STRIDE) * STRIDE);
      setRange((now) => (now[0] === first && now[1] === last ? now : [first, last]));
    };
    const soon = () => { frame ||= requestAnimationFrame(look); };
    const measure = () => {
      height = parseFloat(getComputedStyle(body.current).getPropertyValue('--row'));
      soon();
    };
    addEventListener('scroll', soon, { passive: true });
    addEventListener('resize', measure);
    measure();
    return () => {
      removeEventListener('scroll', soon);
      removeEventListener('resize', measure);
      cancelAnimationFrame(frame);
    };
  }, [total]);
  return [Math.min(range[0], Math.max(0, total - 1)), Math.min(range[1], total)];
}

/** The rows of the list; `owned`: whether any job has an owner. */
export function Table({ rows, params, chosen, onSelect, now, owned }) {
  const body = useRef();
  const anchor = useRef(null);
  const [first, last] = useWindow(body, rows.length);
  const [column, down] = order(params);
  const all = rows.length > 0 && rows.every((job) => chosen.has(job.id));
  const turn = (index, on, range) => {
    const next = new Set(chosen);
    const from = range && anchor.current !== null ? anchor.current : index;
    for (let i = Math.min(from, index); i <= Math.max(from, index); i += 1) {
      if (on) next.add(rows[i].id);
      else next.delete(rows[i].id);
    }
    anchor.current = index;
    onSelect(next);
  };
  // Rows are drawn again only when their job changes: they call what is current then.
  const latest = useRef();
  latest.current = turn;
  const [onTurn] = useState(() => (...given) => latest.current(...given));
  const turnAll = (event) => onSelect(event.target.checked ? rows.slice(0, 200).map((job) => job.id) : []);
  // Up and down move through the rows; x selects.
  const key = (event) => {
    const index = Number(event.target.closest('tr')?.getAttribute('aria-rowindex')) - 2;
    if (!(index >= 0) || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
    if (step) {
      const to = body.current.querySelector(`[data-row="${index + step}"]`);
      if (to) { event.preventDefault(); to.focus(); to.scrollIntoView({ block: 'nearest' }); }
    } else if (event.key === 'x') turn(index, !chosen.has(rows[index].id), false);
  };
  const sort = (name) => html`<button type="button" class="sort" onClick=${() => change({ sort: nextOrder(params, name) })}>
    ${HEADS.find(([one]) => one === name)[1]}<span aria-hidden="true">${column === name ? (down ? ' ↓' : ' ↑') : ''}</span></button>`;
  const head = (name) => html`<th key=${name} scope="col" class="c-${name} ${['owner', 'pool', 'priority', 'attempts', 'age'].includes(name) ? 'wide' : ''}"
    aria-sort=${column === name ? (down ? 'descending' : 'ascending') : undefined}>${sort(name)}</th>`;
  return html`<table class="list ${owned ? 'owned' : ''}" aria-rowcount=${rows.length + 1} aria-label="Jobs">
    <thead><tr aria-rowindex="1">
      <th class="pick" scope="col"><input type="checkbox" checked=${all} onChange=${turnAll} aria-label="Select all jobs in the list, at most 200" /></th>
      ${HEADS.filter(([name]) => owned || name !== 'owner').map(([name]) => head(name))}
    </tr></thead>
    <tbody ref=${body} style=${{ '--rows': rows.length }} onKeyDown=${key}>
      ${rows.slice(first, last).map((job, i) => html`<tr key=${job.id} aria-rowindex=${first + i + 2} aria-selected=${chosen.has(job.id)}
        class=${chosen.has(job.id) ? 'on' : ''} style=${{ '--place': first + i }}>
        <${Cells} job=${job} index=${first + i} on=${chosen.has(job.id)} now=${now} owned=${owned} onTurn=${onTurn} /></tr>`)}
    </tbody>
  </table>`;
}
