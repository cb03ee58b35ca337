// The log of a job: follows it, searches it, shows one attempt or all; only lines in sight are drawn.
import { change, Link } from '../address.js';
import { count } from '../format.js';
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from '../html.js';
import { Check } from '../parts.js';
import { usePoll } from '../poll.js';
import { isFinal } from '../words.js';
import { parts, plain } from './ansi.js';
import { FileLink } from './download.js';
import { LogReader } from './reader.js';
import { useEarlierMatches } from './search.js';

const HEIGHT = 18;
const PREFIX = /^\[(\d+)\] /;
// Which rank printed a line: torchrun's `--tee` writes [default0]:, PyTorch [rank0]:; the service knows the same.
const RANK = /^\[\d+\] \[?(?:rank|default|trainer)[ :=]?(\d{1,6})\]?(?=[:,\s|])/i;
const STEP = /\bstep[ =:]+(\d[\d,]*)/i;

function Styled({ text, style }) {
  const names = ['bold', 'dim', 'italic', 'underline', 'inverse'].filter((name) => style[name]);
  if (typeof style.colour === 'number') names.push(`fg-${style.colour}`);
  if (typeof style.back === 'number') names.push(`bg-${style.back}`);
  const own = {};
  // Programs choose these for a dark screen: mixed with our own they are read on a light one too.
  if (typeof style.colour === 'string') own.color = `color-mix(in srgb, ${style.colour} 55%, var(--ink))`;
  if (typeof style.back === 'string') own.background = `color-mix(in srgb, ${style.back} 30%, transparent)`;
  return html`<span class=${names.join(' ')} style=${own}>${text}</span>`;
}

function Marked({ text, word }) {
  const found = [];
  const low = text.toLowerCase();
  let from = 0;
  for (let at = low.indexOf(word); at >= 0 && found.length < 200; at = low.indexOf(word, from)) {
    found.push(text.slice(from, at), html`<mark>${text.slice(at, at + word.length)}</mark>`);
    from = at + word.length;
  }
  return html`${found}${text.slice(from)}`;
}

// No component: Preact would move all lines where one leaves.
function lineOf({ line, number, hit }, { key, word, params, single, partial }) {
  const match = PREFIX.exec(line);
  const body = match ? line.slice(match[0].length) : line;
  const step = STEP.exec(body);
  return html`<div key=${key} class="line ${hit ? 'hit' : ''}"><span class="no num" aria-hidden="true">${partial ? '' : number}</span>${
    match && !single ? html`<span class="attempt" title="Attempt ${match[1]}">${match[1]}</span>` : ''}<span class="text">${
    word ? html`<${Marked} text=${plain(body)} word=${word} />` : parts(body).map((part, i) => html`<${Styled} key=${i} ...${part} />`)}</span>${
    step ? html`<${Link} class="at" to=${{ ...params, tab: undefined, x: undefined, from: undefined, to: undefined, at: step[1].replaceAll(',', '') }} aria-label="Show step ${step[1]} in the curves" title="Show this step in the curves">curve</${Link}>` : ''}</div>`;
}

const rankOf = (line) => RANK.exec(line)?.[1];

/** The ranks that lines name, in order. */
const ranksOf = (lines) => [...new Set(lines.map(rankOf).filter(Boolean))].sort((a, b) => a - b);

/** The lines to show: [{line, number, hit}], with the lines around each that has the word. */
function chosen(lines, word, { attempt, rank, around }) {
  const own = lines.map((line, i) => ({ line, number: i + 1, hit: false }))
    .filter(({ line }) => (!attempt || (PREFIX.exec(line)?.[1] ?? attempt) === attempt) && (!rank || rankOf(line) === rank));
  if (!word) return own;
  const kept = new Set();
  own.forEach((one, i) => {
    one.hit = plain(one.line).toLowerCase().includes(word);
    if (one.hit) for (let j = Math.max(0, i - around); j <= Math.min(own.length - 1, i + around); j += 1) kept.add(j);
  });
  return own.filter((_, i) => kept.has(i));
}

/** The log of a job. */
export function Log({ job, params }) {
  const [reader] = useState(() => new LogReader(job.id));
  const [turn, again] = useState(0);
  const [follow, setFollow] = useState(params.lq === undefined);
  const [range, setRange] = useState([0, 80]);
  const box = useRef();
  usePoll(async (signal) => {
    const changed = await reader.follow(signal);
    if (changed || turn === 0) again((n) => n + 1);
    return changed || !isFinal(job.state);
  }, [job.id, job.state]);
  const word = (params.lq ?? '').toLowerCase();
  const around = params.around === undefined ? 2 : Number(params.around);
  const before = useEarlierMatches(job.id, word, { until: reader.start, context: around, attempt: params.la, rank: params.lr });
  const rows = useMemo(() => [
    ...(before.lines ?? []).map((one) => ({ ...one, number: '' })), ...chosen(reader.all, word, { attempt: params.la, rank: params.lr, around }),
  ], [turn, word, params.la, params.lr, around, before]);
  const ranks = useMemo(() => ranksOf(reader.all), [turn]);
  const hits = word ? rows.filter((one) => one.hit).length : 0;
  const look = () => {
    const { scrollTop, clientHeight, scrollHeight } = box.current;
    setFollow(scrollTop + clientHeight >= scrollHeight - 4);
    const first = Math.max(0, Math.floor(scrollTop / HEIGHT) - 30);
    const last = Math.ceil((scrollTop + clientHeight) / HEIGHT) + 30;
    setRange((now) => (now[0] === first && now[1] === last ? now : [first, last]));
  };
  useLayoutEffect(() => {
    if (follow && box.current) box.current.scrollTop = box.current.scrollHeight;
    if (box.current) look();
  }, [rows, follow]);
  useEffect(() => {
    addEventListener('resize', look);
    return () => removeEventListener('resize', look);
  }, []);
  const earlier = async () => {
    await reader.earlier();
    setFollow(false);
    again((n) => n + 1);
  };
  const shown = rows.slice(range[0], range[1]);
  const partial = reader.start > 0; // its lines are not the first: they have no numbers
  const single = Boolean(params.la) || job.attempt < 2;
  return html`<section aria-label="Log">
    <div class="toolbar">
      <input type="search" aria-label="Search the log" placeholder="Search the log" value=${params.lq ?? ''}
        onInput=${(event) => change({ lq: event.target.value })} />
      ${word && html`<span class="quiet num" role="status">${before.more ? 'more than ' : ''}${count(hits)} ${hits === 1 ? 'line' : 'lines'}${before.lines === null ? '…' : ''}</span>
        <label class="quiet">context <select value=${around} onChange=${(event) => change({ around: event.target.value })}>
          ${[0, 2, 5, 20].map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label>`}
      ${job.attempt > 1 && html`<label>Attempt <select value=${params.la ?? ''} onChange=${(event) => change({ la: event.target.value })}>
        <option value="">all</option>${job.attempts.map(({ number }) => html`<option key=${number} value=${number}>${number}</option>`)}</select></label>`}
      ${(ranks.length > 1 || params.lr) && html`<label>Rank <select value=${params.lr ?? ''} onChange=${(event) => change({ lr: event.target.value })}>
        <option value="">all</option>${[...new Set([...ranks, ...(params.lr ? [params.lr] : [])])].map((rank) => html`<option key=${rank} value=${rank}>${rank}</option>`)}</select></label>`}
      <${Check} label="follow" on=${follow} onChange=${setFollow} />
      <span class="space"></span>
      ${reader.start > 0 && html`<button type="button" onClick=${earlier}>Read earlier lines</button>`}
      <${FileLink} class="button" id=${job.id} path="logs/output.log">Download</${FileLink}>
    </div>
    <div class="log" ref=${box} tabindex="0" role="log" aria-live="off" aria-label="Output of the job" onScroll=${look}>
      <div class="lines" style=${{ height: `${Math.max(1, rows.length) * HEIGHT}px` }}>
        <div class="window" style=${{ transform: `translateY(${range[0] * HEIGHT}px)` }}>
          ${shown.map((one, i) => lineOf(one, { key: one.number || `earlier ${range[0] + i}`, word, params, single, partial }))}
        </div></div>
      ${turn > 0 && !rows.length && html`<p class="quiet none">${word ? 'No line has this text.' : params.lr ? 'No line of this rank.' : 'No output yet.'}</p>`}
    </div>
  </section>`;
}
