// The curves of a run: buckets of the service, extended by what has followed.
import { get } from '../api.js';

const numbers = (list) => list.map(Number); // NaN and infinity come as texts

/** Columns of numbers; `bad` counts the values of each bucket that are not finite. */
function line(given) {
  const last = numbers(given.last);
  const bad = given.not_finite.length ? given.not_finite : last.map(() => 0);
  return { x: given.x, last, min: numbers(given.min), max: numbers(given.max), bad };
}

const lines = (series) => Object.fromEntries(Object.entries(series ?? {}).map(([name, one]) => [name, line(one)]));

/**
 * The curves `keys` of a run, each in at most `points` buckets, between `from` and `to`.
 * Gives {series, superseded, names, axes, cursor, restarted}.
 */
export async function loadSeries(id, { source, keys, x = 'step', from, to, points, cursor, superseded }, signal) {
  const found = await get(`jobs/${id}/series`, { source, keys: keys.filter((key) => key.length <= 200).slice(0, 80), x, from, to, points, cursor, superseded: superseded ? 'true' : undefined }, signal);
  return { ...found, series: lines(found.series), superseded: lines(found.superseded) };
}

const joined = (a, b) => Object.fromEntries(Object.keys(a).map((column) => [column, a[column].concat(b[column])]));

/** The curves with what has followed them; null where they must be read as a whole again. */
export function extended(known, news, most) {
  if (news.restarted) return null;
  const series = {};
  for (const [name, one] of Object.entries(news.series)) {
    const before = known.series[name];
    series[name] = before && one.x.length ? joined(before, one) : before ?? one;
    if (series[name].x.length > most) return null;
  }
  return { ...news, series };
}

/** A line without the points that later ones go back behind: steps that were made again. */
export function ascending(line) {
  const kept = [];
  let least = Infinity;
  for (let i = line.x.length - 1; i >= 0; i -= 1) if (line.x[i] < least) { least = line.x[i]; kept.push(i); }
  if (kept.length === line.x.length) return line;
  kept.reverse();
  return Object.fromEntries(Object.entries(line).map(([name, column]) => [name, kept.map((i) => column[i])]));
}

/** A line that is interrupted at some places: where nothing ran, nothing is drawn. */
export function interrupted(line, places) {
  const cuts = places.filter((x) => x > line.x[0] && x < line.x.at(-1)).sort((a, b) => a - b);
  if (!cuts.length) return line;
  const made = Object.fromEntries(Object.keys(line).map((name) => [name, []]));
  const add = (values) => { for (const name of Object.keys(made)) made[name].push(values(name)); };
  let next = 0;
  line.x.forEach((x, i) => {
    for (; next < cuts.length && cuts[next] < x; next += 1) add((name) => (name === 'x' ? cuts[next] : name === 'bad' ? 0 : NaN));
    add((name) => line[name][i]);
  });
  return made;
}
