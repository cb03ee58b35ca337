// Numbers, times and sizes as texts.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** A count with separators: 12,345. */
export const count = (value) => (value === null || value === undefined ? '–' : whole.format(value));

/** A measured value with four significant digits, or as many as `digits`: 2.451, 1.2e-5, NaN. */
export function value(given, digits = 4) {
  if (given === null || given === undefined) return '–';
  const number = Number(given);
  if (Number.isNaN(number)) return 'NaN';
  if (!Number.isFinite(number)) return number > 0 ? '∞' : '−∞';
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) {
    return number.toExponential(digits - 2).replace(/\.?0+e/, 'e').replace('e+', 'e').replace('-', '−');
  }
  if (size >= 1000 && digits <= 4) return whole.format(number);
  return String(Number(number.toPrecision(digits))).replace('-', '−');
}

/** A value of an axis or a rate, with three significant digits or as many as `digits`: 25.9k, 1.2M. */
export function short(number, digits = 3) {
  const size = Math.abs(number);
  for (const [unit, factor] of [['G', 1e9], ['M', 1e6], ['k', 1e3]]) {
    if (size >= factor) return `${Number((number / factor).toPrecision(digits))}${unit}`;
  }
  return String(Number(Number(number).toPrecision(digits)));
}

/** The texts of marks on an axis, each with as many digits as tell them apart. */
export function apart(marks, text, digits) {
  const texts = marks.map((mark) => text(mark, digits));
  return digits > 14 || new Set(texts).size === marks.length ? texts : apart(marks, text, digits + 1);
}

/** A duration: 840 ms, 12 s, 2 min 5 s, 3 h 10 min, 4 d 2 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  const given = Number(seconds);
  if (!Number.isFinite(given)) return '–';
  if (given > 0 && given < 1) return `${Math.round(given * 1000)} ms`;
  if (given < 10) return `${Number(given.toFixed(1))} s`;
  const all = Math.round(given);
  const parts = [[Math.floor(all / 86400), 'd'], [Math.floor(all / 3600) % 24, 'h'],
    [Math.floor(all / 60) % 60, 'min'], [all % 60, 's']];
  const first = parts.findIndex(([amount]) => amount > 0);
  if (first < 0) return '0 s';
  return parts.slice(first, first + 2).filter(([amount]) => amount > 0)
    .map(([amount, unit]) => `${amount} ${unit}`).join(' ');
}

/** The largest unit of a duration alone: 12 s, 5 min, 3 h, 4 d. */
export function age(seconds) {
  const given = Math.max(0, seconds);
  if (given < 60) return `${Math.floor(given)} s`;
  if (given < 3600) return `${Math.floor(given / 60)} min`;
  if (given < 172800) return `${Math.floor(given / 3600)} h`;
  return `${Math.floor(given / 86400)} d`;
}

/** A size: 512 B, 8.4 MiB. */
export function bytes(size) {
  let amount = size, unit = 0;
  while (amount >= 1024 && unit < 4) { amount /= 1024; unit += 1; }
  const digits = unit && amount < 100 ? 1 : 0;
  return `${amount.toFixed(digits)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}

/** A time: 14:03:21, with the date if it is not today. */
export function clock(at, now = Date.now() / 1000) {
  if (!at) return '–';
  const moment = new Date(at * 1000);
  const time = moment.toTimeString().slice(0, 8);
  if (new Date(now * 1000).toDateString() === moment.toDateString()) return time;
  const date = [moment.getFullYear(), moment.getMonth() + 1, moment.getDate()]
    .map((part) => String(part).padStart(2, '0')).join('-');
  return `${date} ${time}`;
}

/** A share: 92%. */
export const percent = (share) => (share === null || share === undefined ? '–' : `${Math.round(share * 100)}%`);
