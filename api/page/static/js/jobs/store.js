// The jobs that the page knows, kept up to date with few calls: events say which have changed.
import { get } from '../api.js';

const PAGE = 200;
const MANY = 40; // more changed jobs than this: the newest page and the running ones say enough

/** What of a job the list shows: another text, another row. */
function signature(job) {
  const seen = job.progress;
  return [job.state, job.attempt, job.request, job.priority, job.not_before, job.message, job.worker,
    seen?.step, seen?.loss, seen?.seconds_left, job.finished_at, job.proof?.at, JSON.stringify(job.spec.labels)].join('|');
}

/** All jobs that match a filter of the service, by id. */
export class JobStore {
  constructor(filter = {}) {
    this.filter = filter; // state, pool and owner, as the service knows them
    this.jobs = new Map();
    this.cursor = undefined; // of the next older page; null after the last one
    this.after = undefined; // of the events
    this.limit = 2000; // jobs read without being asked for more
  }

  /** Whether older jobs exist that were not read. */
  get more() { return this.cursor !== null; }

  /** The jobs, newest first. */
  get list() { return [...this.jobs.values()].sort((a, b) => b.sequence - a.sequence); }

  /** Reads what may have changed; `show` is called after each page. Answers whether anything did. */
  async refresh(signal, show) {
    let changed = false;
    const touched = await this.events(signal);
    if (touched === null || touched.size > MANY) changed = await this.whole(signal);
    else for (const id of touched) changed = (await this.again(id, signal)) || changed;
    if (changed) show();
    while (this.cursor !== null && this.jobs.size < this.limit) {
      const older = await this.page({ limit: PAGE, cursor: this.cursor }, signal);
      this.cursor = older.cursor;
      this.take(older.jobs);
      changed = true;
      show();
    }
    // Steps and losses are no events.
    const running = this.list.filter((job) => job.state === 'running').length;
    if (touched !== null && running && (this.filter.state ?? 'running') === 'running') {
      const page = await this.page({ state: 'running', limit: PAGE }, signal);
      if (this.take(page.jobs)) { changed = true; show(); }
    }
    return changed;
  }

  /** The jobs with an event since the last call; null for the first call. */
  async events(signal) {
    const touched = new Set();
    if (this.after === undefined) {
      const { after } = await get('events', { limit: 1 }, signal);
      this.after = after ?? '0-0';
      return null;
    }
    for (;;) {
      const page = await get('events', { after: this.after, limit: 1000 }, signal);
      for (const event of page.events) touched.add(event.job);
      this.after = page.after ?? this.after;
      if (page.events.length < 1000) return touched;
    }
  }

  /** Reads the newest page again, and drops what was read of older ones. */
  async whole(signal) {
    const page = await this.page({ limit: PAGE }, signal);
    const oldest = page.jobs.at(-1)?.sequence ?? Infinity;
    const there = new Set(page.jobs.map((job) => job.id));
    for (const job of this.jobs.values()) if (job.sequence > oldest && !there.has(job.id)) this.jobs.delete(job.id);
    this.cursor = page.cursor;
    this.take(page.jobs);
    return true;
  }

  /** Reads one job again; one that is gone leaves the list. */
  async again(id, signal) {
    try {
      const job = await get(`jobs/${id}`, {}, signal);
      const { state = job.state, pool = job.spec.resources.pool, owner = job.owner } = this.filter;
      if (state !== job.state || pool !== job.spec.resources.pool || owner !== job.owner) return this.jobs.delete(id);
      return this.take([job]);
    } catch (error) {
      if (error.status !== 404) throw error;
      return this.jobs.delete(id);
    }
  }

  page(query, signal) { return get('jobs', { ...this.filter, ...query }, signal); }

  take(jobs) {
    let changed = false;
    for (const job of jobs) {
      const before = this.jobs.get(job.id);
      job.signature = signature(job);
      if (before?.signature === job.signature) continue;
      this.jobs.set(job.id, job);
      changed = true;
    }
    return changed;
  }
}
