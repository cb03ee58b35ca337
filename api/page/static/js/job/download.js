// Links to the files of a run: the browser itself downloads them, with the session's cookie.
import { filePath, getBlob, HERE } from '../api.js';
import { html, useEffect, useState } from '../html.js';

/** A link that downloads a file of a run, or what another `call` answers, as `name`. */
export function FileLink({ id, path, call = `${filePath(id, path)}?download=true`, name = path.split('/').at(-1), children, ...others }) {
  return html`<a href="v1/${call}" download=${name} ...${others}>${children ?? path}</a>`;
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
