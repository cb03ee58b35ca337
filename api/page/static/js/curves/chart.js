// One chart: lines over a common axis, with raw values, smoothing, envelope, marks and a cursor.
import { apart, bytes, duration, short, value } from '../format.js';
import { html, useEffect, useMemo, useRef } from '../html.js';
import { colours, faint } from './colours.js';
import { Swatch } from '../parts.js';
import { drawMarks } from './marks.js';
import { gaps, rangeOf, smoothed } from './smooth.js';

const { uPlot } = globalThis;
const SYNC = uPlot.sync('curves');

/** A place on the axis as a text. */
const placeText = (axis, x) => (axis === 'time' ? duration(x) : axis === 'tokens' ? `${short(x)} tokens` : `step ${value(x)}`);

/** A value with its unit: `bytes`, or what is written behind it. */
const valueText = (unit, y, digits) => (unit === 'bytes' && Number.isFinite(y) ? bytes(y) : unit ? `${value(y, digits)} ${unit}` : value(y, digits));

/** The columns that uPlot draws: for each line its raw values, the smoothed ones, and the envelope. */
function columns(lines, { smooth, logX, logY, low, high }) {
  const drawn = (y) => (Number.isFinite(y) && (!logY || y > 0) ? y : null);
  const inRange = (y) => (drawn(y) === null ? null : Math.min(Math.max(y, low), high));
  const most = Math.max(...lines.map((line) => line.x.length));
  const tables = lines.map((line) => {
    const kept = line.x.map((x, i) => i).filter((i) => Number.isFinite(line.x[i]) && (!logX || line.x[i] > 0));
    const pick = (list, change) => kept.map((i) => change(list[i]));
    // A line of few points is smoothed over the same part of the axis as one of many.
    const mean = smooth ? smoothed(line.last, smooth ** (most / Math.max(1, line.x.length))) : line.last;
    return [pick(line.x, (x) => x), pick(line.last, drawn), pick(mean, drawn), pick(line.min, inRange), pick(line.max, inRange)];
  });
  if (!tables.length) return [[0], [null]];
  if (tables.length === 1) return tables[0];
  return uPlot.join(tables);
}

const POWERS = Array.from({ length: 50 }, (_, i) => 2 ** i);
const TIMES = [1e-3, 1e-2, 0.1, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 1209600];

/** The marks of a log scale: decades, with marks between where there are few; plain ones where there is less. */
function logMarks(_, __, low, high) {
  const decades = Math.log10(high / low);
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const part of decades > 3 ? [1] : decades > 1.2 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 6]) {
      const mark = part * 10 ** power;
      if (mark >= low && mark <= high) found.push(mark);
    }
  }
  if (found.length > 2) return found;
  const raw = (high - low) / 4, size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((one) => one * size >= raw) * size;
  const plain = [];
  for (let mark = Math.ceil(low / step) * step; mark <= high; mark += step) plain.push(mark);
  return plain.length ? plain : [low, high];
}
const logAxis = { splits: logMarks, filter: (_, marks) => marks };

function options({ lines, axis, logX, logY, smooth, unit, tone, width, height, onCursor }, live) {
  const series = [{}], bands = [];
  lines.forEach((line, i) => {
    const colour = tone.lines[line.colour % tone.lines.length];
    const stroke = line.ghost ? tone.axis : colour;
    const dash = line.ghost ? [3, 3] : line.colour < tone.lines.length ? undefined : [7, 4];
    const base = series.length;
    const plain = { points: { show: line.x.length <= 40 && !line.ghost, size: 4 } };
    series.push({ ...plain, stroke: smooth ? faint(colour, 0.28) : stroke, width: smooth ? 1 : 1.5, dash });
    series.push({ ...plain, stroke, width: 1.75, dash, show: Boolean(smooth) && !line.ghost, points: { show: false } });
    series.push({ ...plain, stroke: 'transparent', width: 0, points: { show: false } });
    series.push({ ...plain, stroke: 'transparent', width: 0, points: { show: false } });
    if (!line.ghost) bands.push({ series: [base + 3, base + 2], fill: faint(colour, 0.2) });
  });
  const text = { stroke: tone.axis, font: `11px ${tone.font}`, grid: { stroke: tone.grid, width: 1 }, ticks: { show: false } };
  return {
    width, height, legend: { show: false }, series, bands, padding: [16, axis === 'time' ? 26 : 12, 0, 0],
    scales: {
      x: { time: false, distr: logX ? 3 : 1, range: (plot, from, to) => live.xRange ?? (plot.data[0].length > 1 ? [from, to] : [plot.data[0][0] - 1, plot.data[0][0] + 1]) },
      y: { distr: logY ? 3 : 1, range: () => [live.range.low, live.range.high] },
    },
    axes: [
      { ...text, ...(logX && logAxis), ...(axis === 'time' && { incrs: TIMES }), size: 26, gap: 4, space: axis === 'time' ? 80 : 64, values: (_, marks) => (axis === 'time' ? marks.map(duration) : apart(marks, short, 3)) },
      { ...text, ...(logY && logAxis), ...(unit === 'bytes' && { incrs: POWERS }), size: (_, texts) => Math.max(52, 14 + 6.5 * Math.max(...(texts ?? []).map((one) => one.length))), gap: 4, space: 32, values: (_, marks) => apart(marks, (mark, digits) => valueText(unit, mark, digits), 4) },
    ],
    cursor: {
      sync: { key: SYNC.key, setSeries: false }, drag: { x: true, y: false, setScale: false, dist: 6 }, y: false,
      points: { size: 7, show: (plot, index) => ((index - 1) % 4 === (smooth ? 1 : 0) ? document.createElement('div') : null) },
    },
    hooks: {
      draw: [(plot) => drawMarks(plot, live.marks, tone)],
      setCursor: [(plot) => onCursor(plot.cursor.idx, plot)],
      setSelect: [(plot) => {
        const { left, width: wide } = plot.select;
        if (wide < 6) return;
        live.onZoom?.(plot.posToVal(left, 'x'), plot.posToVal(left + wide, 'x'));
        plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      }],
    },
  };
}

/** What a chart says to those who do not see it. */
function summary(title, lines, axis, unit) {
  const text = (y) => valueText(unit, y);
  const parts = lines.filter((line) => !line.ghost).map((line) => {
    const finite = line.last.filter(Number.isFinite);
    if (!finite.length) return `${line.label}: no value`;
    const last = line.x.length - 1;
    return `${line.label}: ${text(line.last[last])} at ${placeText(axis, line.x[last])}, lowest ${text(Math.min(...line.min.filter(Number.isFinite)))}, highest ${text(Math.max(...line.max.filter(Number.isFinite)))}`;
  });
  return `Curve of ${title}. ${parts.join('. ')}.`;
}

/** Where values are not finite, as a sentence: of each kind how many, and the first place. */
function oddText(odd, axis, coarse) {
  // A point that stands for several does not say which of them.
  const preposition = coarse ? 'near' : 'at';
  const kinds = Map.groupBy(odd, (one) => value(one.value));
  return `${[...kinds].map(([kind, found]) => (found.length === 1 ? `${kind} ${preposition} ${placeText(axis, found[0].x)}`
    : `${kind} ${found.length} times, first ${preposition} ${placeText(axis, found[0].x)}`)).join('; ')}.`;
}

/** The chart with its head: the values under the cursor, or the last ones. */
export function Chart({ title, lines, axis = 'step', logX, logY, smooth = 0, clip = true, zero, unit, marks, at, xRange, onZoom, onShowAll, height = 210, theme }) {
  const box = useRef(), plot = useRef(), head = useRef(), place = useRef();
  const range = useMemo(() => rangeOf(lines, { clip, logY, zero }), [lines, clip, logY, zero]);
  const found = useMemo(() => lines.filter((line) => !line.ghost).map((line) => gaps(line, logY)), [lines, logY]);
  const odd = found.flatMap((one) => one.odd);
  const negative = found.reduce((sum, one) => sum + one.negative, 0);
  const real = lines.filter((line) => !line.ghost);
  const shape = `${lines.map((line) => `${line.label}${line.colour}${line.ghost ?? ''}`).join()} ${axis} ${logX} ${logY} ${smooth > 0} ${theme} ${height}`;
  const data = useMemo(() => columns(lines, { smooth, logX, logY, ...range }), [lines, smooth, logX, logY, range]);
  const now = useRef({});
  Object.assign(now.current, { range, xRange, onZoom, marks: { ...(marks ?? { ends: [], twice: [] }), at, odd }, data, lines });

  const write = (index, drawn) => {
    if (!head.current) return;
    const table = drawn.data;
    const last = index === null || index === undefined;
    head.current.querySelectorAll('output').forEach((field, i) => {
      const column = table[1 + 4 * Number(field.dataset.line)] ?? [];
      const mean = table[2 + 4 * Number(field.dataset.line)] ?? [];
      let from = last ? column.length - 1 : index;
      while (from > 0 && (column[from] ?? null) === null) from -= 1; // lines of a comparison have steps of their own
      const text = (y) => valueText(unit, y);
      field.textContent = (column[from] ?? null) === null ? '–'
        : smooth ? `${text(mean[from])} (${text(column[from])})` : text(column[from]);
    });
    place.current.textContent = last || table[0][index] === undefined ? '' : placeText(axis, table[0][index]);
  };
  useEffect(() => {
    const live = now.current;
    const made = options({ lines, axis, logX, logY, smooth, unit, tone: colours(), width: box.current.clientWidth, height, onCursor: write }, live);
    plot.current = new uPlot(made, live.data, box.current);
    const fit = new ResizeObserver(() => {
      const width = box.current?.clientWidth;
      if (width && width !== plot.current.width) plot.current.setSize({ width, height });
    });
    fit.observe(box.current);
    write(null, plot.current);
    return () => { fit.disconnect(); plot.current.destroy(); plot.current = null; };
  }, [shape]);
  useEffect(() => {
    if (!plot.current) return;
    plot.current.setData(data);
    write(plot.current.cursor.idx, plot.current);
  }, [data, xRange?.[0], xRange?.[1], at, JSON.stringify(marks ?? null)]);

  const key = (event) => {
    const drawn = plot.current, table = drawn.data[0];
    const index = drawn.cursor.idx ?? table.length - 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
    if (step) {
      const next = Math.min(Math.max(index + step, 0), table.length - 1);
      drawn.setCursor({ left: drawn.valToPos(table[next], 'x'), top: 10 });
    } else if (event.key === '+' && onZoom) {
      const from = table[0], to = table.at(-1), middle = table[index];
      onZoom(Math.max(from, middle - (to - from) / 4), Math.min(to, middle + (to - from) / 4));
    } else if ((event.key === '0' || event.key === 'Escape') && onZoom) onZoom(null, null);
    else return;
    event.preventDefault();
  };
  return html`<figure class="chart">
    <figcaption ref=${head}><strong>${title}</strong>
      ${lines.map((line, i) => !line.ghost && html`<span key=${line.label} class="value">
        ${(real.length > 1 || line.label !== title) && html`<${Swatch} colour=${line.colour} /><span class="of">${line.label}</span>`}
        <output class="num" data-line=${i}></output></span>`)}
      <span class="place num quiet" ref=${place}></span></figcaption>
    <div ref=${box} class="plot" tabindex="0" role="img" aria-label=${summary(title, lines, axis, unit)} onKeyDown=${key}
      onDblClick=${() => onZoom?.(null, null)}></div>
    ${(range.outside > 0 || odd.length > 0 || negative > 0) && html`<p class="remark">
      ${range.outside > 0 && html`<span>${range.outside} ${range.outside === 1 ? 'point lies' : 'points lie'} outside the range shown. <button type="button" class="plain" onClick=${onShowAll}>Show all</button></span>`}
      ${odd.length > 0 && html`<span class="bad">${oddText(odd, axis, lines.some((line) => line.coarse))}</span>`}
      ${negative > 0 && html`<span>${negative} values are not positive: no place on a log scale.</span>`}
    </p>`}
  </figure>`;
}
