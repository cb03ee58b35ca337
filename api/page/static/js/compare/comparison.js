// What the service finds when it compares jobs; read again while they run.
import { get } from '../api.js';
import { useState } from '../html.js';
import { usePoll } from '../poll.js';
import { isFinal } from '../words.js';

const SELDOM = 10000; // milliseconds: the service reads all the curves

/** {specification, code, environment, results, curves} of jobs, once it is read; `failure` if it cannot be. */
export function useComparison(jobs) {
  const [found, set] = useState(null);
  usePoll(async (signal) => {
    if (jobs.length < 2) return false;
    let next;
    try {
      next = await get('compare', { job: jobs.map((job) => job.id) }, signal);
    } catch (error) {
      if (error.status !== 404) throw error;
      next = { failure: error.message };
    }
    const changed = JSON.stringify(next) !== JSON.stringify(found);
    if (changed) set(next);
    return changed || jobs.some((job) => !isFinal(job.state));
  }, [jobs.map((job) => `${job.id} ${job.state} ${job.attempt}`).join()], SELDOM);
  return found;
}
