// Lines of a terminal: carriage returns overwrite, colours become styles, other codes disappear.

// eslint-disable-next-line no-control-regex
const CODE = /\x1b(?:\[([0-9;:?]*)([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;
// eslint-disable-next-line no-control-regex
const CONTROL = /[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]/g;

/** What a terminal shows of a line after its carriage returns: the last text that was written. */
function overwritten(line) {
  const text = line.endsWith('\r') ? line.replace(/\r+$/, '') : line;
  if (!text.includes('\r')) return text;
  return text.split('\r').filter(Boolean).at(-1) ?? '';
}

/** The text of a line without codes. */
export const plain = (line) => overwritten(line).replace(CODE, '').replace(CONTROL, '');

const channel = (n) => Math.min(255, Math.max(0, Number(n) || 0));

/** A colour of the 256: one of the sixteen by number, others as rgb(). */
function indexed(number) {
  if (number < 16) return number;
  if (number >= 232) { const grey = 8 + (number - 232) * 10; return `rgb(${grey}, ${grey}, ${grey})`; }
  const level = (part) => (part ? 55 + part * 40 : 0);
  const cube = number - 16;
  return `rgb(${level(Math.floor(cube / 36))}, ${level(Math.floor(cube / 6) % 6)}, ${level(cube % 6)})`;
}

/** The style after the codes of one sequence. */
function styled(style, text) {
  const codes = (text || '0').split(/[;:]/).map(Number);
  const next = { ...style };
  for (let i = 0; i < codes.length; i += 1) {
    const code = codes[i];
    if (code === 0) for (const name of Object.keys(next)) delete next[name];
    else if (code === 1) next.bold = true;
    else if (code === 2) next.dim = true;
    else if (code === 3) next.italic = true;
    else if (code === 4) next.underline = true;
    else if (code === 7) next.inverse = true;
    else if (code === 22) { delete next.bold; delete next.dim; }
    else if (code === 23) delete next.italic;
    else if (code === 24) delete next.underline;
    else if (code === 27) delete next.inverse;
    else if (code >= 30 && code <= 37) next.colour = code - 30;
    else if (code >= 90 && code <= 97) next.colour = code - 82;
    else if (code === 39) delete next.colour;
    else if (code >= 40 && code <= 47) next.back = code - 40;
    else if (code >= 100 && code <= 107) next.back = code - 92;
    else if (code === 49) delete next.back;
    else if (code === 38 || code === 48) {
      let colour = null;
      if (codes[i + 1] === 5) { colour = indexed(channel(codes[i + 2])); i += 2; }
      else if (codes[i + 1] === 2) { colour = `rgb(${channel(codes[i + 2])}, ${channel(codes[i + 3])}, ${channel(codes[i + 4])})`; i += 4; }
      if (colour !== null) next[code === 38 ? 'colour' : 'back'] = colour;
    }
  }
  return next;
}

/** The parts of a line, each with its style: [{text, style}]. */
export function parts(line) {
  const text = overwritten(line);
  const found = [];
  let style = {}, from = 0;
  const add = (piece) => {
    const clean = piece.replace(CONTROL, '');
    if (clean) found.push({ text: clean, style });
  };
  for (const match of text.matchAll(CODE)) {
    add(text.slice(from, match.index));
    from = match.index + match[0].length;
    if (match[2] === 'm') style = styled(style, match[1]);
  }
  add(text.slice(from));
  return found;
}
