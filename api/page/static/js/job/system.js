// What a run uses of its machine, below its curves and on the same axis.
import { Chart } from '../curves/chart.js';
import { zoomTo } from '../curves/controls.js';
import { ascending, interrupted } from '../curves/series.js';
import { useCurves } from '../curves/use.js';
import { html, useMemo } from '../html.js';

const CHARTS = [
  ['Processors', /^cpu_percent$/, '%'],
  ['Memory', /^memory_bytes$/, 'bytes'],
  ['GPU utilisation', /^gpu\d+_percent$/, '%'],
  ['GPU memory', /^gpu\d+_memory_bytes$/, 'bytes'],
  ['GPU temperature', /^gpu\d+_celsius$/, '°C'],
  ['GPU power', /^gpu\d+_watts$/, 'W'],
  ['Files of the run', /^disk_bytes$/, 'bytes'],
  ['Free on its disk', /^disk_free_bytes$/, 'bytes'],
];
const isKnown = (name) => CHARTS.some(([, pattern]) => pattern.test(name));
const byNumber = (a, b) => a.localeCompare(b, 'en', { numeric: true });

/** The charts of the machine; `settings`, `marks`, `ends` of attempts and `xRange` are those of the curves. */
export function System({ job, settings, marks, ends, xRange, theme }) {
  // Before the first row of metrics nothing is drawn, there as here.
  const shown = { ...settings, keys: [], from: settings.from ?? (settings.axis === 'time' ? 0 : undefined) };
  const found = useCurves([job], shown, (names) => names.filter(isKnown).sort(byNumber), 'system')[job.id];
  const charts = useMemo(() => (!found ? [] : CHARTS.map(([title, pattern, unit]) => ({
    title, unit,
    lines: Object.keys(found.series).filter((name) => pattern.test(name) && found.series[name].x.length).sort(byNumber).map((name, colour) => ({
      ...(settings.axis === 'time' ? interrupted(found.series[name], ends) : ascending(found.series[name])),
      label: /^gpu\d/.test(name) ? `GPU ${name.match(/\d+/)[0]}` : title, colour,
    })),
  })).filter((chart) => chart.lines.length)), [found, settings.axis, ends.join()]);
  if (!found?.rows) return '';
  const isPlaced = found.axes.includes(settings.axis);
  return html`<section class="system" aria-label="Machine"><h2>Machine</h2>
    ${isPlaced ? html`<div class="charts even">${charts.map((chart) => html`<${Chart} key=${chart.title} ...${chart} axis=${settings.axis}
      logX=${settings.logX} at=${settings.at} clip=${false} zero=${true} xRange=${xRange} marks=${marks} theme=${theme} onZoom=${zoomTo} height=${130} />`)}</div>
    <p class="quiet hint">100 % is one processor, or all of a GPU. All processes of the job count.</p>`
    : html`<p class="quiet">Samples of the machine have no place on this axis: choose steps or time.</p>`}
  </section>`;
}
