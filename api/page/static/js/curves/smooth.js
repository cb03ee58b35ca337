// Smoothing, and the range of values that a chart shows.

/** The exponential mean of finite values, without a bias to the first; `weight` is 0 to below 1. */
export function smoothed(values, weight) {
  let mean = 0, sum = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return NaN;
    mean = weight * mean + (1 - weight) * value;
    sum = weight * sum + (1 - weight);
    return mean / sum;
  });
}

/** The value below which a share of the sorted values lies. */
const quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(share * (sorted.length - 1))))];

/**
 * The range of values to draw: without the few that lie so far out that the rest would be flat.
 * Gives {low, high, outside}: `outside` is how many points are not drawn. With `zero` it begins there.
 */
export function rangeOf(lines, { clip, logY, zero }) {
  const all = lines.flatMap((line) => [...line.min, ...line.max])
    .filter((value) => Number.isFinite(value) && (!logY || value > 0)).sort((a, b) => a - b);
  if (!all.length) return { low: logY ? 0.1 : 0, high: 1, outside: 0 };
  let low = all[0], high = all.at(-1), outside = 0;
  if (clip && all.length >= 20) {
    const scale = logY ? Math.log : (value) => value;
    const bottom = quantile(all, 0.02), top = quantile(all, 0.98);
    const width = Math.max(scale(top) - scale(bottom), 1e-12);
    if (scale(high) - scale(top) > 1.5 * width) high = logY ? top * Math.exp(width * 0.2) : top + 0.2 * width;
    if (scale(bottom) - scale(low) > 1.5 * width) low = logY ? bottom / Math.exp(width * 0.2) : bottom - 0.2 * width;
    const isOut = (value) => Number.isFinite(value) && (value > high || (value < low && !(logY && value <= 0)));
    for (const line of lines) line.x.forEach((_, i) => { if (isOut(line.min[i]) || isOut(line.max[i])) outside += 1; });
  }
  if (logY) {
    // Nice ends: a decade more than the values would waste half of the height.
    const margin = Math.max(Math.pow(high / low, 0.05), 1.02);
    return { low: low / margin, high: high * margin, outside };
  }
  // Of a constant, an axis around it.
  if (zero && low >= 0) return { low: 0, high: high > 0 ? high * 1.08 : 1, outside };
  const margin = high - low > Math.abs(high) * 1e-9 ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 1;
  return { low: low - margin, high: high + margin, outside };
}

/** What cannot be drawn: where values are not finite, and how many are not positive. */
export function gaps(line, logY) {
  const odd = [];
  let negative = 0;
  line.x.forEach((x, i) => {
    if (line.bad[i] > 0) odd.push({ x, value: Number.isFinite(line.last[i]) ? NaN : line.last[i] });
    else if (logY && line.min[i] <= 0) negative += 1;
  });
  return { odd, negative };
}
