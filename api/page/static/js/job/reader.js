// Reads the log of a job from its end, follows it, and reads earlier parts when asked.
import { getText } from '../api.js';

const PART = 256 << 10;
const END = 2 ** 53 - 1;
const MOST = 200000; // lines kept

/** The lines of a log, as far as they were read. */
export class LogReader {
  constructor(id) {
    this.id = id;
    this.begin();
  }

  begin() {
    this.lines = [];
    this.start = null; // offset of the first byte that was read
    this.end = 0; // offset behind the last one
    this.open = ''; // the line that has not ended
    this.decoder = new TextDecoder();
  }

  /** All lines, the open one included. */
  get all() { return this.open ? [...this.lines, this.open] : this.lines; }

  async read(offset, limit, signal) {
    const { bytes, headers } = await getText(`jobs/${this.id}/logs`, { offset, limit }, signal);
    return { bytes, next: Number(headers.get('Spectrain-Next-Offset')) };
  }

  /** Reads what is new; answers whether anything is. */
  async follow(signal) {
    if (this.start === null) {
      const { next: size } = await this.read(END, 1, signal);
      this.start = this.end = Math.max(0, size - PART);
      if (this.start > 0) {
        // Begins with a whole line.
        const { bytes, next } = await this.read(this.start, PART, signal);
        const from = bytes.indexOf(10) + 1;
        this.start += from;
        this.end = next;
        this.add(bytes.subarray(from));
        return true;
      }
    }
    let changed = false;
    for (let turn = 0; turn < 64; turn += 1) {
      const { bytes, next } = await this.read(this.end, 1 << 20, signal);
      if (next < this.end) { // a resume has cut the log
        this.begin();
        return this.follow(signal);
      }
      this.end = next;
      if (!bytes.length) return changed;
      this.add(bytes);
      changed = true;
    }
    return changed;
  }

  add(bytes) {
    const text = this.open + this.decoder.decode(bytes, { stream: true });
    const lines = text.split('\n');
    this.open = lines.pop();
    this.lines = this.lines.concat(lines);
    if (this.lines.length > MOST) this.lines = this.lines.slice(-MOST);
  }

  /** Reads the part before the first line that is known. */
  async earlier(signal) {
    if (!this.start) return;
    const from = Math.max(0, this.start - 4 * PART);
    const { bytes } = await this.read(from, this.start - from, signal);
    const skip = from === 0 ? 0 : bytes.indexOf(10) + 1;
    const lines = new TextDecoder().decode(bytes.subarray(skip)).split('\n');
    lines.pop(); // the part ends with a line's end
    this.lines = lines.concat(this.lines);
    this.start = from + skip;
  }
}
