-- Drains a worker, which then completes its job and claims no further one; or undoes that.
-- ARGV[2] worker   ARGV[3] 'yes' to drain, '' to undo it
-- Answers ok with its state, or missing.
local name = ARGV[2]
local expiry = redis.call('ZSCORE', key('workers'), name)
if not expiry or tonumber(expiry) <= NOW then return {'missing', ''} end
redis.call('HSET', key('worker:' .. name), 'drained', ARGV[3])
wake_worker(name, name)
return {'ok', note_worker(name)}
