// Marks on the axis of a curve: where attempts ended and resumed, and what was computed twice.
import { CALM, reasonWords } from '../words.js';

/** Tokens of each step of the built-in workload; null for other programs. */
function tokensPerStep(job) {
  const train = job.spec.train;
  if (!train) return null;
  return train.batch_size * train.model.block_size * (train.gradient_accumulation ?? 1);
}

/** Where a step lies on the axis `x` of the job. */
const place = (job, x, step, at, start) => {
  if (x === 'time') return at - start;
  if (x === 'tokens') return (step + 1) * (tokensPerStep(job) ?? NaN);
  return step;
};

/** The time that the axis of times counts from: the first row of metrics. */
const startOf = (job) => {
  const first = job.attempts[0];
  return first ? first.started_at + (first.first_step_seconds ?? 0) : 0;
};

/** The marks of a job: {x, kind, text} for ends and resumes, {from, to} for steps computed twice. */
export function marksOf(job, x) {
  const start = startOf(job);
  const ends = [], twice = [];
  const origin = job.forked_from;
  if (x !== 'time' && origin && origin.step !== null) {
    ends.push({ x: place(job, x, origin.step, 0, 0), kind: 'fork', text: 'forked', attempt: 1, step: origin.step });
  }
  job.attempts.forEach((attempt, i) => {
    const next = job.attempts[i + 1];
    const lastStep = attempt.last_step;
    if (attempt.reason && attempt.reason !== 'completed' && lastStep !== null) {
      ends.push({
        x: place(job, x, lastStep, attempt.ended_at, start),
        kind: CALM.has(attempt.reason) ? 'calm' : 'loss',
        text: reasonWords(attempt.reason),
        attempt: attempt.number,
        step: lastStep,
      });
    }
    if (!next) return;
    const seen = next.ended_at === null ? { ...next, ...job.progress } : next;
    const first = seen.first_step ?? (seen.resumed_from === null ? null : seen.resumed_from + 1);
    if (first === null || first === undefined) return;
    const begins = next.started_at + (seen.first_step_seconds ?? 0);
    ends.push({
      x: place(job, x, first, begins, start), kind: 'resume', text: 'resumed', attempt: next.number, step: first,
    });
    const known = Math.max(...job.attempts.slice(0, i + 1).map((one) => one.last_step ?? -1));
    if (x !== 'time' && known >= first) {
      twice.push({ from: place(job, x, first, 0, 0), to: place(job, x, known, 0, 0), steps: known - first + 1, attempt: next.number });
    } else if (x === 'time' && known >= first && seen.step_seconds) {
      const done = (seen.last_step ?? seen.step ?? first) - first + 1;
      const width = (seen.step_seconds / Math.max(done, 1)) * Math.min(known - first + 1, done);
      twice.push({ from: begins - start, to: begins - start + width, steps: known - first + 1, attempt: next.number });
    }
  });
  return { ends, twice };
}

/** The same marks as sentences, for those who do not see the chart. */
export function markSentences({ ends, twice }) {
  return [
    ...ends.map((one) => (one.kind === 'fork' ? `forked from the checkpoint of step ${one.step}`
      : one.kind === 'resume' ? `attempt ${one.attempt} resumed at step ${one.step}`
      : `attempt ${one.attempt} ${one.text} after step ${one.step}`)),
    ...twice.map((one) => `${one.steps} steps computed twice in attempt ${one.attempt}`),
  ];
}

/** Draws the marks into the chart `plot`; `colours` are those of the theme. */
export function drawMarks(plot, { ends, twice, at, odd }, colours) {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  const bottom = bbox.top + bbox.height, right = bbox.left + bbox.width;
  const left = (x) => Math.round(plot.valToPos(x, 'x', true)) + 0.5;
  const inside = (x) => x >= bbox.left - 1 && x <= right + 1;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top - 14 * ratio, bbox.width, bbox.height + 14 * ratio);
  ctx.clip();
  for (const one of twice) {
    const from = left(one.from), to = Math.max(left(one.to), left(one.from) + 2 * ratio);
    ctx.fillStyle = colours.twice;
    ctx.fillRect(from, bbox.top, to - from, bbox.height);
  }
  ctx.font = `${10.5 * ratio}px ${colours.font}`;
  ctx.lineWidth = ratio;
  ctx.textAlign = 'left';
  ctx.textBaseline = 'alphabetic';
  let free = -Infinity; // texts do not overlap: a mark without room has its line alone
  for (const one of [...ends].sort((a, b) => a.x - b.x)) {
    const x = left(one.x);
    if (!Number.isFinite(x) || !inside(x)) continue;
    ctx.strokeStyle = ctx.fillStyle = one.kind === 'resume' ? colours.resume : one.kind === 'fork' ? colours.accent : one.kind === 'loss' ? colours.bad : colours.mark;
    ctx.setLineDash(one.kind === 'resume' ? [] : [3 * ratio, 3 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bottom);
    ctx.stroke();
    const width = ctx.measureText(one.text).width;
    const from = Math.min(x - 2 * ratio, right - width);
    if (one.kind !== 'resume' && from > free) {
      ctx.fillText(one.text, from, bbox.top - 4 * ratio);
      free = from + width + 8 * ratio;
    }
  }
  ctx.setLineDash([]);
  for (const one of odd) {
    const x = left(one.x);
    if (!inside(x)) continue;
    const size = 4 * ratio, top = one.value === -Infinity ? bottom - 2 * size : bbox.top + size / 2;
    ctx.fillStyle = ctx.strokeStyle = colours.bad;
    ctx.beginPath();
    if (Number.isNaN(one.value)) { // a cross
      ctx.lineWidth = 1.5 * ratio;
      for (const side of [-1, 1]) { ctx.moveTo(x - side * size * 0.8, top); ctx.lineTo(x + side * size * 0.8, top + 1.6 * size); }
      ctx.stroke();
      continue;
    }
    if (one.value === -Infinity) { ctx.moveTo(x - size, top); ctx.lineTo(x + size, top); ctx.lineTo(x, top + 1.6 * size); }
    else { ctx.moveTo(x - size, top + 1.6 * size); ctx.lineTo(x + size, top + 1.6 * size); ctx.lineTo(x, top); }
    ctx.fill();
  }
  if (at !== null && at !== undefined && inside(left(at))) {
    ctx.strokeStyle = colours.accent;
    ctx.lineWidth = 1.5 * ratio;
    ctx.beginPath();
    ctx.moveTo(left(at), bbox.top);
    ctx.lineTo(left(at), bottom);
    ctx.stroke();
  }
  ctx.restore();
}
