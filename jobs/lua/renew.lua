-- Keeps the lease of an attempt and its worker's entry in the register, stores its progress, and
-- tells what was asked of it.
-- ARGV[2] id   ARGV[3] attempt   ARGV[4] lease, seconds   ARGV[5] progress (JSON) or ''
-- Answers ok with the request ('' for none), or stale when the attempt is no longer the job's.
local id, attempt, lease, progress = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local found = redis.call('HMGET', job_key(id), 'state', 'attempt', 'request', 'worker')
if found[1] ~= 'running' or found[2] ~= attempt then return {'stale', found[2] or ''} end
redis.call('ZADD', key('leases'), stamp(NOW + lease), id)
redis.call('ZADD', key('workers'), 'XX', stamp(NOW + lease), found[4])
if progress ~= '' then redis.call('HSET', job_key(id), 'progress', progress) end
return {'ok', found[3] or ''}
