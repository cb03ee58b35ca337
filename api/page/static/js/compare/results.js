// The results of jobs: of each metric the last, the smallest and the largest value.
import { JobLink } from '../address.js';
import { duration, percent, value } from '../format.js';
import { html } from '../html.js';

const LARGER = /acc|f1|bleu|rouge|auc|reward|per_sec|per_second|throughput|score/i;

const SMALLER = /loss|perplexity|error|mse|mae|wer|fid|bits_per/i;

/** The best, smallest and last finite value of a line. */
function resultsOf(line) {
  if (!line) return null;
  const finite = line.last.filter(Number.isFinite);
  if (!finite.length) return null;
  return {
    last: finite.at(-1),
    min: Math.min(...line.min.filter(Number.isFinite)),
    max: Math.max(...line.max.filter(Number.isFinite)),
  };
}

/** The table of results; the best value of each column is marked. */
export function Results({ jobs, found, keys }) {
  const table = jobs.map((job) => keys.map((key) => resultsOf(found[job.id]?.series[key])));
  const best = keys.map((key, column) => {
    const values = table.map((row) => row[column]).filter(Boolean).map((one) => (LARGER.test(key) ? one.max : one.min));
    // Of a learning rate or a norm, neither end is better.
    if (values.length < 2 || !(LARGER.test(key) || SMALLER.test(key))) return null;
    return LARGER.test(key) ? Math.max(...values) : Math.min(...values);
  });
  return html`<h2>Results</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Results"><table class="plain-table results">
      <thead>
        <tr><th scope="col" rowspan="2">Job</th>${keys.map((key) => html`<th key=${key} scope="colgroup" colspan="2">${key}</th>`)}
          <th scope="col" rowspan="2">Attempts</th><th scope="col" rowspan="2">Goodput</th><th scope="col" rowspan="2">Running time</th></tr>
        <tr>${keys.map((key) => html`<th key="${key} best" scope="col" class="sub">${LARGER.test(key) ? 'highest' : 'lowest'}</th><th key="${key} last" scope="col" class="sub">last</th>`)}</tr>
      </thead>
      <tbody>${jobs.map((job, i) => html`<tr key=${job.id}>
        <th scope="row"><span class="swatch line-${i % 8 + 1}" aria-hidden="true"></span><${JobLink} id=${job.id} /></th>
        ${keys.map((key, column) => {
          const one = table[i][column];
          const top = one && (LARGER.test(key) ? one.max : one.min);
          const isBest = one && top === best[column];
          return html`<td key="${key} best" class="num">${one ? html`<span class=${isBest ? 'best' : ''}>${value(top)}${isBest ? html` <span class="word">best</span>` : ''}</span>` : '–'}</td>
            <td key="${key} last" class="num">${one ? value(one.last) : '–'}</td>`;
        })}
        <td class="num">${job.attempt}</td><td class="num">${percent(job.goodput)}</td><td class="num">${duration(job.run_seconds)}</td>
      </tr>`)}</tbody>
    </table></div>`;
}
