-- Renews the lease of an attempt and the registration of its worker, stores its progress, and
-- returns the pending request.
-- ARGV[2] id   ARGV[3] attempt   ARGV[4] lease, seconds   ARGV[5] progress (JSON) or ''
-- ARGV[6] its worker, or '' for any
-- Answers ok with the request ('' for none), stale when the attempt is no longer the job's, or
-- missing with the epoch that Redis has ('' for none) when there is no such record.
local id, attempt, lease, progress, worker = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local found = redis.call('HMGET', job_key(id), 'state', 'attempt', 'request', 'worker')
if not found[1] then return {'missing', redis.call('GET', key('epoch')) or ''} end
if found[1] ~= 'running' or found[2] ~= attempt then return {'stale', found[2] or ''} end
if worker ~= '' and found[4] ~= worker then
  if found[4] ~= '' then return {'stale', found[2]} end
  -- `reindex` rebuilt the record and could not know the worker.
  redis.call('HSET', job_key(id), 'worker', worker)
  redis.call('HSETNX', key('claims'), worker, id)
  note_worker(worker)
end
redis.call('ZADD', key('leases'), stamp(NOW + lease), id)
redis.call('ZADD', key('workers'), 'XX', stamp(NOW + lease), found[4])
if progress ~= '' then redis.call('HSET', job_key(id), 'progress', progress) end
return {'ok', found[3] or ''}
