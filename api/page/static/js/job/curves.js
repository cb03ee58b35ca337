// The curves of a job, with the marks of its interruptions.
import { change } from '../address.js';
import { Chart } from '../curves/chart.js';
import { Controls, groups, keysOf, settingsOf, zoomTo } from '../curves/controls.js';
import { markSentences, marksOf } from '../curves/marks.js';
import { interrupted } from '../curves/series.js';
import { NoCurves, useCurves, useTheme } from '../curves/use.js';
import { html, useMemo } from '../html.js';
import { System } from './system.js';

const KEYS = [['fork', 'forked'], ['resume', 'resumed'], ['calm', 'preempted or paused'], ['loss', 'lost or failed'], ['twice', 'computed twice']];

const TOLD = 8; // marks as sentences, the newest

/** The curves of a job. */
export function Curves({ job, params }) {
  const settings = settingsOf(params);
  const theme = useTheme();
  const found = useCurves([job], settings, (names) => keysOf(names, settings.keys))[job.id];
  const marks = useMemo(() => marksOf(job, settings.axis), [job.attempts, job.progress?.first_step, settings.axis]);
  const ends = settings.axis === 'time' ? marks.ends.filter((one) => one.kind !== 'resume').map((one) => one.x) : [];
  const zoomed = settings.from !== undefined && settings.to !== undefined;
  const names = found ? Object.keys(found.names).sort() : [];
  const keys = keysOf(names, settings.keys);
  const charts = useMemo(() => groups(keys).map((group) => ({
    title: group[0],
    lines: group.flatMap((key, i) => {
      const line = found.series[key], first = found.superseded[key];
      if (!line) return [];
      const ghost = first?.x.length ? [{ ...first, label: `${key}, first computed`, colour: i, ghost: true }] : [];
      return [{ ...interrupted(line, ends), label: key, colour: i, coarse: found.names[key] > line.x.length && !zoomed }, ...ghost];
    }),
  })).filter((chart) => chart.lines.length), [found, keys.join(), zoomed, ends.join()]);
  const xRange = useMemo(() => (zoomed ? [settings.from, settings.to] : null), [settings.from, settings.to]);
  const machine = { job, marks, ends, xRange, theme };
  if (!names.length) {
    // Without metrics there are no steps to speak of.
    return html`<${NoCurves} loaded=${found} />${found && html`<${System} ...${machine} settings=${{ ...settings, axis: 'time' }} marks=${undefined} />`}`;
  }
  const sentences = markSentences(marks);
  return html`<section aria-label="Curves">
    <${Controls} settings=${settings} names=${names} shown=${keys} axes=${found.axes} />
    ${sentences.length > 0 && html`<p class="key-line">
      ${KEYS.filter(([name]) => name !== 'fork' || job.forked_from).map(([name, word]) => html`<span key=${name} class="keyed"><span class="key ${name}" aria-hidden="true"></span>${word}</span>`)}
      <span class="quiet marks">${sentences.length > TOLD ? `${sentences.length - TOLD} earlier; ` : ''}${sentences.slice(-TOLD).join('; ')}.</span></p>`}
    <div class="charts">${charts.map((chart, i) => html`<${Chart} key=${chart.title} ...${chart} ...${settings} xRange=${xRange}
      marks=${marks} theme=${theme} onZoom=${zoomTo} onShowAll=${() => change({ all: 1 })} height=${i === 0 ? 280 : 180} />`)}</div>
    <${System} ...${machine} settings=${settings} xRange=${xRange ?? found.x_range} />
    <p class="quiet hint">Drag to zoom, double-click for the whole range. Shaded: the smallest and largest value where a point stands for several.</p>
  </section>`;
}
