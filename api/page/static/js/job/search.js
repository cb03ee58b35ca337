// The search in a part of the log that the page has not read: the service searches it.
import { get } from '../api.js';
import { useEffect, useState } from '../html.js';

const MOST = 500; // matches
const QUIET = 400; // milliseconds without a key before it asks

/** A match with the lines around it. */
function linesOf(match) {
  const around = (line) => ({ line, hit: false });
  return [...match.before.map(around), { line: match.text, hit: true }, ...match.after.map(around)];
}

/** The matches before the offset `until`: {lines, more}, as lines of the log; `lines` is null while the service searches. */
export function useEarlierMatches(id, word, { until, context, attempt, rank }) {
  const [found, set] = useState({ lines: [] });
  useEffect(() => {
    set({ lines: [] });
    if (word.length < 2 || !until) return undefined;
    const abort = new AbortController();
    set({ lines: null });
    const timer = setTimeout(async () => {
      const matches = [];
      let offset = 0;
      try {
        while (offset !== null && offset < until && matches.length < MOST) {
          const page = await get(`jobs/${id}/logs`, { search: word.slice(0, 200), context, attempt, rank, offset }, abort.signal);
          matches.push(...page.matches.filter((one) => one.offset < until));
          offset = page.next_offset;
        }
      } catch { /* what was found is shown; the line of failures comes with the next poll */ }
      if (!abort.signal.aborted) set({ lines: matches.flatMap(linesOf), more: offset !== null && offset < until });
    }, QUIET);
    return () => { abort.abort(); clearTimeout(timer); };
  }, [id, word, until, context, attempt, rank]);
  return found;
}
