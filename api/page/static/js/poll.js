// Polling: every two seconds, slower while nothing changes, not at all while the page is hidden.
import { useEffect, useRef, useState } from './html.js';

const FAST = 2000;
const SLOW = 30000;
const running = new Set();
const failures = new Map();
const listeners = new Set();

function report(key, message) {
  const before = failures.get(key);
  if (before === message) return;
  if (message) failures.set(key, message);
  else failures.delete(key);
  for (const tell of listeners) tell();
}

/** Calls `load` until the view goes away, every `fast` milliseconds or less often; it answers whether anything changed. */
export function usePoll(load, dependencies, fast = FAST) {
  const latest = useRef(load);
  latest.current = load;
  useEffect(() => {
    const key = {};
    const abort = new AbortController();
    let timer = 0, wait = fast, busy = false, again = false;
    const turn = async () => {
      clearTimeout(timer);
      if (document.hidden || abort.signal.aborted) return;
      if (busy) { again = true; return; }
      busy = true;
      try {
        const changed = await latest.current(abort.signal);
        wait = changed ? fast : Math.min(SLOW, wait * 1.4);
        report(key, '');
      } catch (error) {
        if (abort.signal.aborted) return;
        wait = Math.min(SLOW, wait * 2);
        report(key, error.status === 401 ? '' : error.message);
        if (error.status === undefined) console.error(error);
      } finally {
        busy = false;
      }
      if (abort.signal.aborted) return;
      timer = setTimeout(turn, again ? 0 : wait);
      again = false;
    };
    const poke = () => { wait = fast; turn(); };
    running.add(poke);
    document.addEventListener('visibilitychange', poke);
    turn();
    return () => {
      abort.abort();
      clearTimeout(timer);
      running.delete(poke);
      report(key, '');
      document.removeEventListener('visibilitychange', poke);
    };
  }, dependencies);
}

/** Makes every view ask again now, after an action. */
export const poke = () => { for (const turn of running) turn(); };

/** What the last polls could not read; empty when all could. */
export function useFailures() {
  const [found, set] = useState([]);
  useEffect(() => {
    const tell = () => set([...new Set(failures.values())]);
    listeners.add(tell);
    tell();
    return () => listeners.delete(tell);
  }, []);
  return found;
}

/** The current time, seconds since the epoch, again every `seconds`. */
export function useNow(seconds = 1) {
  const [now, set] = useState(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => { if (!document.hidden) set(Date.now() / 1000); }, seconds * 1000);
    return () => clearInterval(timer);
  }, [seconds]);
  return now;
}
