// The list of a run's files, read again while the job runs.
import { get } from '../api.js';
import { html, useState } from '../html.js';
import { usePoll } from '../poll.js';
import { isFinal } from '../words.js';

/** {artifacts, links} of a job; null until they are read. */
export function useArtifacts(job) {
  const [found, set] = useState(null);
  usePoll(async (signal) => {
    if (found && isFinal(job.state) && found.state === job.state) return false;
    const next = await get(`jobs/${job.id}/artifacts`, {}, signal);
    const changed = JSON.stringify(next.artifacts) !== JSON.stringify(found?.artifacts);
    if (changed || found?.state !== job.state) set({ ...next, state: job.state });
    return changed;
  }, [job.id, job.state]);
  return found;
}

export const Loading = () => html`<p class="quiet empty" role="status">Loading…</p>`;
