// The curves of one or more jobs, read again while they grow.
import { html, useEffect, useRef, useState } from '../html.js';
import { usePoll } from '../poll.js';
import { isFinal } from '../words.js';
import { extended, loadSeries } from './series.js';

const POINTS = 800;
const SAMPLED = 5000; // milliseconds between samples

/**
 * {id: {names, axes, series, superseded}} of jobs; `keysFor(names)` says which metrics to read.
 * Of the `source` system: samples of the machine, read less often.
 */
export function useCurves(jobs, settings, keysFor, source = undefined) {
  const [shown, show] = useState({});
  const known = useRef(new Map()); // id -> what was read
  const shape = `${jobs.map((job) => job.id).join()} ${settings.axis} ${settings.from} ${settings.to} ${settings.keys.join()}`;
  const points = jobs.length > 4 || source ? POINTS / 2 : POINTS;
  const zoomed = settings.from !== undefined || settings.to !== undefined;

  const whole = async (job, before, signal) => {
    const asked = { source, x: settings.axis, from: settings.from, to: settings.to, points, superseded: job.attempt > 1 && !source };
    const keys = before ? keysFor(Object.keys(before.names)) : ['loss'];
    const found = await loadSeries(job.id, { ...asked, keys }, signal);
    const wanted = keysFor(Object.keys(found.names));
    if (wanted.join() === keys.join()) return { ...found, keys };
    return { ...await loadSeries(job.id, { ...asked, keys: wanted }, signal), keys: wanted };
  };
  const read = async (job, signal) => {
    const before = known.current.get(job.id);
    if (!before || before.shape !== shape || before.attempt !== job.attempt || zoomed) return whole(job, before, signal);
    const { keys, cursor } = before;
    const news = await loadSeries(job.id, { source, keys, x: settings.axis, points, cursor }, signal);
    const wanted = keysFor(Object.keys(news.names));
    const longer = wanted.join() === keys.join() ? extended(before, news, points * 1.5) : null;
    return longer ? { ...longer, superseded: before.superseded, keys } : whole(job, before, signal);
  };
  usePoll(async (signal) => {
    let changed = false;
    for (const job of jobs) {
      const before = known.current.get(job.id);
      const same = before?.shape === shape && before.attempt === job.attempt;
      if (same && before.ended) continue; // read after its end: it does not change any more
      const found = await read(job, signal);
      if (!same || found.cursor !== before.cursor) changed = true;
      known.current.set(job.id, { ...found, shape, attempt: job.attempt, ended: isFinal(job.state) });
    }
    if (changed) show(Object.fromEntries(known.current));
    return changed;
  }, [shape, jobs.map((job) => `${job.state}${job.attempt}`).join()], source ? SAMPLED : undefined);
  return shown;
}

/** A number that changes with the theme: charts take their colours from it. */
export function useTheme() {
  const [turn, set] = useState(0);
  useEffect(() => {
    const tell = () => set((n) => n + 1);
    addEventListener('spectrain-theme', tell);
    return () => removeEventListener('spectrain-theme', tell);
  }, []);
  return turn;
}

export const NoCurves = ({ loaded }) => html`<p class="quiet empty" role="status">${loaded ? 'No metrics yet.' : 'Loading…'}</p>`;
