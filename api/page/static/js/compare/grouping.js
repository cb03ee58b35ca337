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
    const found = spreadOf(lines.map((line, i) => valueAt(line, place, marks[i])));
    if (!found) continue;
    const { mean, spread } = found;
    made.x.push(place);
    made.last.push(mean);
    made.min.push(mean - (spread ?? 0));
    made.max.push(mean + (spread ?? 0));
    made.bad.push(0);
  }
  return made;
}

/** The groups of jobs that have the same value of a key: [{name, label, jobs}]. */
export function groupsOf(jobs, key) {
  const found = Map.groupBy(jobs, (job) => String(flat(job.spec)[key] ?? 'not set'));
  const last = key === 'name' ? '' : `${key.split('.').at(-1)} `;
  return [...found].map(([name, members]) => ({ name, label: `${last}${name} (${members.length})`, jobs: members }));
}

/** The lines of a chart, one for each group. */
export const grouped = (groups, lineOf) => groups.flatMap((group, i) => {
  const lines = group.jobs.map(lineOf).filter((line) => line?.x.length);
  return lines.length ? [meanOf(lines, group.label, i)] : [];
});

/** Mean and standard deviation of the numbers there are; null without any. */
export function spreadOf(values) {
  const there = values.filter(Number.isFinite);
  if (!there.length) return null;
  const mean = there.reduce((sum, one) => sum + one, 0) / there.length;
  const square = there.reduce((sum, one) => sum + (one - mean) ** 2, 0);
  return { mean, spread: there.length > 1 ? Math.sqrt(square / (there.length - 1)) : null };
}

/** The choice of a key; empty for each job by itself. */
export const Grouping = ({ jobs, chosen }) => html`<label>Group by
  <select value=${chosen ?? ''} onChange=${(event) => change({ group: event.target.value })}>
    <option value="">each job</option>
    ${groupKeys(jobs).map((key) => html`<option key=${key} value=${key}>${key}</option>`)}
  </select></label>
  ${chosen && html`<span class="quiet">mean, shaded: one standard deviation</span>`}`;
