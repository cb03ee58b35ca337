// The files of a run: checkpoints with their checksums, and all others by directory.
import { change } from '../address.js';
import { filePath, get, HERE } from '../api.js';
import { bytes, clock, count } from '../format.js';
import { html, useEffect, useState } from '../html.js';
import { Loading, useArtifacts } from './artifacts.js';
import { FileLink } from './download.js';

const CHECKPOINT = /^checkpoints\/checkpoint_step_(\d+)\.pt$/;

/** The commit record of a checkpoint, once it is read. */
function useRecord(id, path) {
  const [record, set] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    get(filePath(id, `${path}.json`), HERE, abort.signal).then(set, () => {});
    return () => abort.abort();
  }, [id, path]);
  return record;
}

function Checkpoint({ id, file, step, names }) {
  const record = useRecord(id, file.path);
  return html`<tr>
    <td class="num">${count(step)}</td>
    <td><${FileLink} id=${id} path=${file.path} />${names.map((name) => html` <span key=${name} class="note">${name}</span>`)}</td>
    <td class="num">${bytes(file.size)}</td>
    <td class="mono">${record?.checksum ?? '–'}</td>
    <td class="num">${record?.attempt ?? '–'}</td>
    <td class="num quiet">${clock(file.modified)}</td>
  </tr>`;
}

/** The files of a job. */
export function Files({ job, params }) {
  const found = useArtifacts(job);
  if (!found) return html`<${Loading} />`;
  if (!found.artifacts.length) return html`<p class="empty">No file yet.</p>`;
  const checkpoints = found.artifacts.filter((file) => CHECKPOINT.test(file.path))
    .map((file) => ({ file, step: Number(CHECKPOINT.exec(file.path)[1]) })).sort((a, b) => b.step - a.step);
  const named = (file) => found.links.filter((link) => `checkpoints/${link.target}` === file.path)
    .map((link) => link.path.replace(/^.*checkpoint_|\.pt$/g, ''));
  const wanted = (params.fq ?? '').toLowerCase();
  const files = found.artifacts.filter((file) => file.path.toLowerCase().includes(wanted));
  const size = found.artifacts.reduce((sum, file) => sum + file.size, 0);
  return html`
    ${checkpoints.length > 0 && html`<h2>Checkpoints</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Checkpoints"><table class="plain-table">
      <thead><tr><th scope="col">Step</th><th scope="col">File</th><th scope="col">Size</th><th scope="col">Checksum</th><th scope="col">Attempt</th><th scope="col">Saved</th></tr></thead>
      <tbody>${checkpoints.map(({ file, step }) => html`<${Checkpoint} key="${file.path} ${file.modified}" id=${job.id} file=${file} step=${step} names=${named(file)} />`)}</tbody>
    </table></div>`}
    <div class="toolbar"><h2>All files</h2><span class="quiet num">${count(found.artifacts.length)} files, ${bytes(size)}</span><span class="space"></span>
      <${FileLink} class="button" call="jobs/${job.id}/artifacts.zip" path="${job.id}.zip" id=${job.id}>Download all</${FileLink}>
      <input type="search" aria-label="Search files" placeholder="Search files" value=${params.fq ?? ''} onInput=${(event) => change({ fq: event.target.value })} /></div>
    <div class="scroll" tabindex="0" role="region" aria-label="Files"><table class="plain-table">
      <thead><tr><th scope="col">Path</th><th scope="col">Size</th><th scope="col">Changed</th></tr></thead>
      <tbody>${files.slice(0, 2000).map((file) => html`<tr key=${file.path}><td><${FileLink} id=${job.id} path=${file.path} /></td>
        <td class="num">${bytes(file.size)}</td><td class="num quiet">${clock(file.modified)}</td></tr>`)}
        ${found.links.filter((link) => link.path.toLowerCase().includes(wanted)).map((link) => html`<tr key=${link.path}><td>${link.path} <span class="quiet">→ ${link.target}</span></td><td></td><td></td></tr>`)}</tbody>
    </table></div>
    ${files.length > 2000 && html`<p class="quiet">The first 2,000 of ${count(files.length)} files. Search for more.</p>`}
    <p class="quiet">In storage: <code>${job.files}</code></p>`;
}
