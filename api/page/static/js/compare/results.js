// The results of jobs: of each metric the best and the last value, and mean and spread of groups.
import { JobLink } from '../address.js';
import { duration, percent, value } from '../format.js';
import { html } from '../html.js';
import { Swatch } from '../parts.js';
import { spreadOf } from './grouping.js';

/** What a column shows of a metric: the best value where one is better, else the smallest and the largest. */
function columnsOf(results) {
  const some = results.find((one) => one && one.best !== null);
  if (!some) return [['min', 'min'], ['max', 'max'], ['last', 'last']];
  return [[some.best === some.min ? 'lowest' : 'highest', 'best'], ['last', 'last']];
}

/** The best of all jobs; null where neither end is better. */
function bestOf(results, [word, name]) {
  const values = results.filter((one) => one && one[name] !== null).map((one) => one[name]);
  if (name !== 'best' || values.length < 2) return null;
  return word === 'lowest' ? Math.min(...values) : Math.max(...values);
}

const number = (one, name) => (one && one[name] !== null ? Number(one[name]) : NaN);

/** The table of results; `groups` are named below their jobs, with mean and standard deviation. */
export function Results({ jobs, results, keys, colours, groups }) {
  const shown = keys.filter((key) => results[key]);
  const heads = shown.map((key) => columnsOf(results[key]));
  const cells = (draw) => shown.map((key, i) => heads[i].map((head) => html`<td key="${key} ${head[0]}" class="num">${draw(results[key], head)}</td>`));
  const place = new Map(jobs.map((job, i) => [job.id, i]));
  const cellOf = (row) => (found, head) => {
    const one = found[row];
    if (!one || one[head[1]] === null) return '–';
    const isBest = one[head[1]] === bestOf(found, head);
    return isBest ? html`<span class="best">${value(one[head[1]])} <span class="word">best</span></span>` : value(one[head[1]]);
  };
  const meanOf = (members) => (found, head) => {
    const one = spreadOf(members.map((job) => number(found[place.get(job.id)], head[1])));
    return one ? html`${value(one.mean)}${one.spread === null ? '' : html` <span class="quiet">± ${value(one.spread)}</span>`}` : '–';
  };
  return html`<h2>Results</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Results"><table class="plain-table results">
      <thead>
        <tr><th scope="col" rowspan="2">Job</th>${shown.map((key, i) => html`<th key=${key} scope="colgroup" colspan=${heads[i].length}>${key}</th>`)}
          <th scope="col" rowspan="2">Attempts</th><th scope="col" rowspan="2">Goodput</th><th scope="col" rowspan="2">Running time</th></tr>
        <tr>${shown.map((key, i) => heads[i].map(([word]) => html`<th key="${key} ${word}" scope="col" class="sub">${word}</th>`))}</tr>
      </thead>
      ${groups && html`<tbody>${groups.map((group, i) => html`<tr key=${group.name} class="group">
        <th scope="row"><${Swatch} colour=${i} />${group.label}</th>${cells(meanOf(group.jobs))}<td colspan="3" class="quiet">mean ± standard deviation</td></tr>`)}</tbody>`}
      <tbody>${jobs.map((job, i) => html`<tr key=${job.id}>
        <th scope="row"><${Swatch} colour=${colours[i]} /><${JobLink} id=${job.id} /></th>
        ${cells(cellOf(i))}
        <td class="num">${job.attempt}</td><td class="num">${percent(job.goodput)}</td><td class="num">${duration(job.run_seconds)}</td>
      </tr>`)}</tbody>
    </table></div>`;
}
