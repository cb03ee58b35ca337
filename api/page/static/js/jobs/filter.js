// Which jobs the list shows, and in which order: as the address says.
import { STATES } from '../words.js';

const COLUMNS = {
  state: (job) => STATES.indexOf(job.state),
  name: (job) => job.id,
  owner: (job) => job.owner ?? '',
  pool: (job) => job.spec.resources.pool,
  progress: (job) => {
    const total = job.progress?.total_steps ?? job.spec.train?.steps;
    const step = job.progress?.step ?? job.attempts.at(-1)?.last_step;
    return total && step !== undefined && step !== null ? step / total : -1;
  },
  loss: (job) => {
    const loss = Number(job.progress?.loss ?? NaN);
    return Number.isFinite(loss) ? loss : Infinity;
  },
  priority: (job) => job.priority,
  attempts: (job) => job.attempt,
  age: (job) => -job.submitted_at,
};

/** The states that the address asks for; none means all. */
export const statesOf = (params) => (params.state ?? '').split(',').filter((one) => STATES.includes(one));

/** The text in which a search looks. */
function haystack(job) {
  const labels = Object.entries(job.spec.labels).map(([key, value]) => `${key}:${value}`);
  return [job.id, job.forked_from?.job ?? '', job.owner ?? '', job.worker ?? '', job.reason ?? '', job.message, job.spec.train?.model?.type ?? '', ...labels]
    .join(' ').toLowerCase();
}

/** The jobs that the address asks for, in its order. */
export function shown(jobs, params) {
  const states = statesOf(params);
  const words = (params.q ?? '').toLowerCase().split(/\s+/).filter(Boolean);
  const found = jobs.filter((job) => {
    if (states.length && !states.includes(job.state)) return false;
    if (params.owner && job.owner !== params.owner) return false;
    if (params.pool && job.spec.resources.pool !== params.pool) return false;
    if (!words.length) return true;
    job.haystack ??= haystack(job);
    return words.every((word) => job.haystack.includes(word));
  });
  const [column, down] = order(params);
  const key = COLUMNS[column];
  if (!params.sort) return found; // newest first, as the store has them
  return found.sort((a, b) => {
    const x = key(a), y = key(b);
    const difference = x < y ? -1 : x > y ? 1 : b.sequence - a.sequence;
    return down ? -difference : difference;
  });
}

/** The column by which the list is ordered, and whether downwards. */
export function order(params) {
  const given = params.sort ?? 'age';
  const column = given.replace(/^-/, '');
  return column in COLUMNS ? [column, given.startsWith('-')] : ['age', false];
}

/** The order after a click on the head of a column. */
export function nextOrder(params, column) {
  const [now, down] = order(params);
  const next = now === column && !down ? `-${column}` : column;
  return next === 'age' ? undefined : next;
}
