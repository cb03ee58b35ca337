// Links to the files of a run, with the token of the session where there is one.
import { filePath, getBlob, HERE } from '../api.js';
import { html, useEffect, useState } from '../html.js';
import { hasToken } from '../session.js';

/** A link that downloads a file of a run, or what another `call` answers, as `name`. */
export function FileLink({ id, path, call, name = path.split('/').at(-1), children, ...others }) {
  const [said, say] = useState('');
  const fetchIt = async (event) => {
    if (!hasToken()) return; // the browser itself downloads, without holding the file in memory
    event.preventDefault();
    say(' …');
    try {
      const link = document.createElement('a');
      link.href = URL.createObjectURL(await (call ? getBlob(call) : getBlob(filePath(id, path), HERE)));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      say('');
    } catch (error) {
      say(` ${error.message}`);
    }
  };
  return html`<a href="v1/${call ?? `${filePath(id, path)}?download=true`}" download=${name} onClick=${fetchIt} ...${others}>${children ?? path}</a>
    ${said && html`<span role="status" class="quiet">${said}</span>`}`;
}

/** A URL of the file for an image, once it is there: [url, failure]. */
export function useBlob(id, path, key) {
  const [found, set] = useState(['', '']);
  useEffect(() => {
    const abort = new AbortController();
    let url = '';
    (async () => {
      try {
        const blob = await getBlob(filePath(id, path), HERE, abort.signal);
        url = URL.createObjectURL(blob);
        set([url, '']);
      } catch (error) {
        if (!abort.signal.aborted) set(['', error.message]);
      }
    })();
    return () => {
      abort.abort();
      if (url) URL.revokeObjectURL(url);
    };
  }, [id, path, key]);
  return found;
}
