// Calls on the API below /v1, with its errors as sentences.
import { meet, proof, refused } from './session.js';

/** A call that failed; `message` is a sentence for people. */
class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

function address(path, query = {}) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined || value === null || value === '') continue;
    for (const one of Array.isArray(value) ? value : [value]) found.append(name, one);
  }
  const text = found.toString();
  return `v1/${path}${text ? `?${text}` : ''}`;
}

async function send(method, path, { query, body, signal, again = true } = {}) {
  const headers = { ...(method !== 'GET' && proof()), ...(body && { 'Content-Type': 'application/json' }) };
  let answer;
  try {
    answer = await fetch(address(path, query), {
      method, headers, signal, cache: 'no-cache', body: body && JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('The service does not answer.', 0);
  }
  if (answer.ok) return answer;
  if (answer.status === 401) refused();
  // Somebody may have signed in anew in another tab.
  if (answer.status === 403 && method !== 'GET' && again && await meet()) {
    return send(method, path, { query, body, signal, again: false });
  }
  let detail = `The service answered ${answer.status}.`;
  try {
    const problem = await answer.json();
    const fields = (problem.errors ?? []).map((one) => `${one.field}: ${one.allowed}`);
    detail = [problem.detail, ...fields].join(' ');
  } catch { /* no problem document: the status says it */ }
  throw new ApiError(detail, answer.status);
}

/** The JSON that a GET answers. */
export const get = async (path, query, signal) => (await send('GET', path, { query, signal })).json();

/** The text that a GET answers, and its headers. */
export async function getText(path, query, signal) {
  const answer = await send('GET', path, { query, signal });
  return { bytes: new Uint8Array(await answer.arrayBuffer()), headers: answer.headers };
}

/** The body that a GET answers, as a blob. */
export const getBlob = async (path, query, signal) => (await send('GET', path, { query, signal })).blob();

/** The JSON that a change answers. */
export const post = async (path, body) => (await send('POST', path, { body })).json();
export const patch = async (path, body) => (await send('PATCH', path, { body })).json();

/** For a file that a script reads: an object store would not let it follow a redirect. */
export const HERE = { redirect: false };

/** The path of a file of a run. */
export const filePath = (id, path) => `jobs/${id}/artifacts/${path.split('/').map(encodeURIComponent).join('/')}`;
