// Groups of jobs that differ in their seed alone: their mean, with its spread as a band.
import { change } from '../address.js';
import { html } from '../html.js';
import { flat } from './differences.js';

const IGNORED = /(^|\.)seed$|^name$/;

/** The keys by which jobs can be grouped: those in which they differ, each with fewer values than jobs. */
function groupKeys(jobs) {
  const all = jobs.map((job) => flat(job.spec));
  const keys = [...new Set(all.flatMap((one) => Object.keys(one)))];
  return ['name', ...keys.filter((key) => {
    if (IGNORED.test(key)) return false;
    const values = new Set(all.map((one) => String(one[key] ?? '')));
    return values.size > 1 && values.size < jobs.length;
  })];
}

/** The value of a line at a place, between its neighbours; NaN outside of it. */
function valueAt(line, x, from) {
  let i = from.i;
  while (i < line.x.length && line.x[i] < x) i += 1;
  from.i = i;
  if (i === line.x.length || (i === 0 && line.x[0] > x)) return NaN;
  if (line.x[i] === x || i === 0) return line.last[i];
  const share = (x - line.x[i - 1]) / (line.x[i] - line.x[i - 1]);
  return line.last[i - 1] + share * (line.last[i] - line.last[i - 1]);
}

/** The mean of lines at the places of all, and one standard deviation around it. */
function meanOf(lines, label, colour) {
  const x = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const marks = lines.map(() => ({ i: 0 }));
  const made = { label, colour, x: [], last: [], min: [], max: [], bad: [] };
  for (const place of x) {
    const values = lines.map((line, i) => valueAt(line, place, marks[i])).filter(Number.isFinite);
    if (!values.length) continue;
    const mean = values.reduce((sum, one) => sum + one, 0) / values.length;
    const spread = values.length > 1
      ? Math.sqrt(values.reduce((sum, one) => sum + (one - mean) ** 2, 0) / (values.length - 1)) : 0;
    made.x.push(place);
    made.last.push(mean);
    made.min.push(mean - spread);
    made.max.push(mean + spread);
    made.bad.push(0);
  }
  return made;
}

/** The lines of a chart by group; `key` is one of `groupKeys`. */
export function grouped(jobs, lineOf, key) {
  const groups = new Map();
  for (const job of jobs) {
    const line = lineOf(job);
    if (!line?.x.length) continue;
    const name = String(flat(job.spec)[key] ?? 'not set');
    groups.set(name, [...(groups.get(name) ?? []), line]);
  }
  return [...groups].map(([name, lines], i) => meanOf(lines, `${key === 'name' ? '' : `${key.split('.').at(-1)} `}${name} (${lines.length})`, i));
}

/** The choice of a key; empty for each job by itself. */
export const Grouping = ({ jobs, chosen }) => html`<label>Group by
  <select value=${chosen ?? ''} onChange=${(event) => change({ group: event.target.value })}>
    <option value="">each job</option>
    ${groupKeys(jobs).map((key) => html`<option key=${key} value=${key}>${key}</option>`)}
  </select></label>
  ${chosen && html`<span class="quiet">mean, shaded: one standard deviation</span>`}`;
