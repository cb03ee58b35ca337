// The loss of a job as a small line, read when its row is seen.
import { loadSeries } from '../curves/series.js';
import { value } from '../format.js';
import { html, useEffect, useState } from '../html.js';
import { isFinal } from '../words.js';

const POINTS = 60;
const WIDTH = 104, HEIGHT = 20;
const known = new Map(); // id -> {key, points, at}
const waiting = [];
let active = 0;

function next() {
  while (active < 3 && waiting.length) {
    active += 1;
    const task = waiting.pop(); // the row that was seen last comes first
    task().finally(() => { active -= 1; next(); });
  }
}

const keyOf = (job) => `${job.attempt} ${job.state} ${job.progress?.step ?? ''}`;

async function load(job) {
  const { series } = await loadSeries(job.id, { keys: ['loss', 'train_loss'], points: POINTS });
  const line = series.loss?.x.length ? series.loss : series.train_loss ?? { x: [], last: [] };
  const points = line.x.map((x, i) => [x, line.last[i]]).filter(([, y]) => Number.isFinite(y));
  known.set(job.id, { key: keyOf(job), points, at: Date.now() });
  if (known.size > 3000) known.delete(known.keys().next().value);
}

/** The points of a job's loss, once they are read. */
function usePoints(job) {
  const [, again] = useState(0);
  const key = keyOf(job);
  useEffect(() => {
    const have = known.get(job.id);
    if (!job.attempt || have?.key === key) return undefined;
    let gone = false;
    // A running job's line grows slowly beside its width: every ten seconds is enough.
    const wait = have && !isFinal(job.state) ? Math.max(0, 10000 - (Date.now() - have.at)) : 80;
    const timer = setTimeout(() => {
      waiting.push(async () => {
        if (gone) return;
        try {
          await load(job);
        } catch { known.set(job.id, { key, points: have?.points ?? [], at: Date.now() }); }
        if (!gone) again((n) => n + 1);
      });
      next();
    }, wait);
    return () => { gone = true; clearTimeout(timer); };
  }, [job.id, key]);
  return known.get(job.id)?.points ?? [];
}

/** A path through the points, scaled to the box; the highest tenth of an early spike is cut off. */
function path(points) {
  const values = points.map(([, y]) => y).sort((a, b) => a - b);
  const low = values[0];
  const high = Math.max(values[Math.floor((values.length - 1) * 0.97)], low + 1e-9);
  const [first, last] = [points[0][0], points.at(-1)[0]];
  return points.map(([x, y], i) => {
    const left = 1 + ((x - first) / Math.max(last - first, 1e-9)) * (WIDTH - 2);
    const top = 2 + (1 - (Math.min(y, high) - low) / (high - low)) * (HEIGHT - 4);
    return `${i ? 'L' : 'M'}${left.toFixed(1)} ${top.toFixed(1)}`;
  }).join('');
}

/** The loss of a job: a line and the newest value. */
export function Sparkline({ job }) {
  const points = usePoints(job);
  const loss = job.progress?.loss ?? points.at(-1)?.[1] ?? null;
  return html`<span class="spark ${job.state}">
    ${points.length > 1
      ? html`<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" width=${WIDTH} height=${HEIGHT} aria-hidden="true"><path d=${path(points)} /></svg>`
      : html`<span class="blank"></span>`}
    <span class="num">${loss === null ? '' : value(loss)}</span>
  </span>`;
}
