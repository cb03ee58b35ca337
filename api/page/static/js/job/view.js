// A job: its head, and below it the part that the address names.
import { Link } from '../address.js';
import { get } from '../api.js';
import { html, useState } from '../html.js';
import { Tabs } from '../parts.js';
import { usePoll } from '../poll.js';
import { isFinal } from '../words.js';
import { Attempts } from './attempts.js';
import { Configuration } from './configuration.js';
import { Curves } from './curves.js';
import { Files } from './files.js';
import { Head } from './head.js';
import { Log } from './log.js';
import { Plots } from './plots.js';

const PARTS = {
  curves: ['Curves', Curves], log: ['Log', Log], attempts: ['Attempts', Attempts], plots: ['Plots', Plots],
  files: ['Files', Files], configuration: ['Config', Configuration],
};

/** The job of the address. */
export function JobPage({ params }) {
  const [job, setJob] = useState(null);
  const [missing, setMissing] = useState('');
  const part = params.tab in PARTS ? params.tab : 'curves';
  const View = PARTS[part][1];

  usePoll(async (signal) => {
    let found;
    try {
      found = await get(`jobs/${encodeURIComponent(params.id)}`, {}, signal);
    } catch (error) {
      if (error.status !== 404) throw error;
      setMissing(`There is no job ${params.id}.`);
      return false;
    }
    setMissing('');
    const changed = JSON.stringify(found) !== JSON.stringify(job);
    if (changed) setJob(found);
    return changed || !isFinal(found.state);
  }, [params.id]);

  if (missing) {
    return html`<main id="main" class="page"><h1>No such job</h1><p role="alert">${missing}</p>
      <p><${Link} to=${{}}>All jobs</${Link}></p></main>`;
  }
  if (!job) return html`<main id="main" class="page"><h1>${params.id}</h1><p class="quiet" role="status">Loading…</p></main>`;
  const to = (name) => ({ ...params, tab: name === 'curves' ? undefined : name });
  return html`<main id="main" class="page job">
    <${Head} job=${job} onJob=${setJob} />
    <${Tabs} label="Parts of the job" current=${part} to=${to} tabs=${Object.entries(PARTS).map(([name, [text]]) => [name, text])} />
    <${View} key=${part} job=${job} params=${params} />
  </main>`;
}
