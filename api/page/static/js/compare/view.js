// Several jobs beside each other: their curves, their results, and where their configurations differ.
import { change, JobLink, Link } from '../address.js';
import { get } from '../api.js';
import { Chart } from '../curves/chart.js';
import { Controls, keysOf, settingsOf, zoomTo } from '../curves/controls.js';
import { NoCurves, useCurves, useTheme } from '../curves/use.js';
import { html, useMemo, useState } from '../html.js';
import { Swatch } from '../parts.js';
import { usePoll } from '../poll.js';
import { isFinal } from '../words.js';
import { useComparison } from './comparison.js';
import { Differences } from './differences.js';
import { grouped, Grouping, groupsOf } from './grouping.js';
import { Pairs } from './pairs.js';
import { Results } from './results.js';

const MOST = 20; // jobs that the service compares at once

/** The names under which jobs are told apart: without what all ids begin with. */
function labels(jobs) {
  const names = jobs.map((job) => job.spec.name);
  return jobs.map((job, i) => (names.filter((name) => name === names[i]).length > 1 ? job.id : names[i]));
}

/** The jobs of the address. */
export function Compare({ params }) {
  const asked = [...new Set((params.ids ?? '').split(',').filter(Boolean))];
  const ids = asked.slice(0, MOST);
  const [known, setKnown] = useState({});
  const [missing, setMissing] = useState([]);
  usePoll(async (signal) => {
    let changed = false;
    const gone = [];
    const next = {};
    for (const id of ids) {
      if (known[id] && isFinal(known[id].state) && missing.length === 0) { next[id] = known[id]; continue; }
      try {
        next[id] = await get(`jobs/${encodeURIComponent(id)}`, {}, signal);
        changed = changed || JSON.stringify(next[id]) !== JSON.stringify(known[id]);
      } catch (error) {
        if (error.status !== 404) throw error;
        gone.push(id);
      }
    }
    if (changed) setKnown(next);
    if (gone.join() !== missing.join()) setMissing(gone);
    return changed;
  }, [ids.join()]);
  const jobs = useMemo(() => ids.filter((id) => known[id]).map((id) => known[id]), [known, ids.join()]);
  const groups = useMemo(() => (params.group ? groupsOf(jobs, params.group) : null), [jobs, params.group]);
  const colours = jobs.map((job, i) => (groups ? groups.findIndex((group) => group.jobs.includes(job)) : i));
  if (ids.length < 2) {
    return html`<main id="main" class="page"><h1>Compare</h1>
      <p>Select two jobs or more in the <${Link} to=${{}}>list of jobs</${Link}>, then <b>Compare</b>.</p></main>`;
  }
  return html`<main id="main" class="page compare">
    <div class="title"><h1>Compare ${ids.length} jobs</h1>${asked.length > MOST && html`<span class="quiet">the first of ${asked.length}; leave some out to see the others</span>`}</div>
    <ul class="compared">${jobs.map((job, i) => html`<li key=${job.id}><${Swatch} colour=${colours[i]} />
      <${JobLink} id=${job.id} /> <span class="quiet">${job.state}</span>
      <button type="button" class="plain" aria-label="Leave out ${job.id}" onClick=${() => change({ ids: asked.filter((one) => one !== job.id).join(',') })}>×</button></li>`)}</ul>
    ${missing.length > 0 && html`<p class="remark bad" role="alert">There is no job ${missing.join(', ')}.</p>`}
    ${jobs.length > 0 && html`<${Body} jobs=${jobs} params=${params} groups=${groups} colours=${colours} />`}
  </main>`;
}

function Body({ jobs, params, groups, colours }) {
  const comparison = useComparison(jobs);
  const settings = settingsOf(params);
  const theme = useTheme();
  const found = useCurves(jobs, settings, (names) => keysOf(names, settings.keys, 4));
  const names = [...new Set(Object.values(found).flatMap((one) => Object.keys(one.names)))].sort();
  const axes = ['step', 'time', 'tokens'].filter((axis) => Object.values(found).filter((one) => one.rows).every((one) => one.axes.includes(axis)));
  const keys = keysOf(names, settings.keys, 4);
  const short = labels(jobs);
  const charts = useMemo(() => keys.map((key) => ({
    title: key,
    lines: groups ? grouped(groups, (job) => found[job.id]?.series[key]) : jobs.flatMap((job, i) => {
      const line = found[job.id]?.series[key];
      return line && line.x.length ? [{ ...line, label: short[i], colour: i }] : [];
    }),
  })).filter((chart) => chart.lines.length), [found, keys.join(), short.join(), groups]);
  const zoomed = settings.from !== undefined && settings.to !== undefined;
  return html`
    ${names.length ? html`<section aria-label="Curves">
      <${Controls} settings=${settings} names=${names} shown=${keys} axes=${axes} />
      ${jobs.length > 2 && html`<div class="toolbar"><${Grouping} jobs=${jobs} chosen=${params.group} /></div>`}
      <div class="charts">${charts.map((chart, i) => html`<${Chart} key=${chart.title} ...${chart} ...${settings} xRange=${zoomed ? [settings.from, settings.to] : null}
        theme=${theme} onZoom=${zoomTo} onShowAll=${() => change({ all: 1 })} height=${i === 0 ? 280 : 180} />`)}</div>
    </section>
    ` : html`<${NoCurves} loaded=${Object.keys(found).length} />`}
    ${comparison?.failure ? html`<p class="remark bad" role="alert">${comparison.failure}</p>`
      : comparison ? html`<${Compared} ...${{ jobs, comparison, keys, groups, colours }} />` : html`<p class="quiet" role="status">Comparing…</p>`}`;
}

function Compared({ jobs, comparison, keys, groups, colours }) {
  // An answer of a moment ago may be about other jobs.
  if (comparison.jobs.join() !== jobs.map((job) => job.id).join()) return html`<p class="quiet" role="status">Comparing…</p>`;
  const tables = [
    ['Configuration', comparison.specification], ['Code', comparison.code], ['Environment', comparison.environment],
  ];
  return html`
    ${Object.keys(comparison.results).length > 0 && html`<${Results} jobs=${jobs} results=${comparison.results} keys=${keys} colours=${colours} groups=${groups} />`}
    <${Pairs} jobs=${jobs} curves=${comparison.curves} colours=${colours} />
    ${tables.map(([title, rows]) => html`<h2 key="head of ${title}">${title}, where it differs</h2>
      <${Differences} key=${title} title="Differences of the ${title.toLowerCase()}" jobs=${jobs} rows=${rows} colours=${colours} />`)}`;
}
