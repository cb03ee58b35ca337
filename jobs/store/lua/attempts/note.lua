-- Adds an event to a running job, on behalf of its current attempt.
-- ARGV[2] id   ARGV[3] attempt   ARGV[4] type of the event   ARGV[5] its data (JSON)
-- Answers ok, missing, or stale when the attempt is no longer the job's.
local id, attempt = ARGV[2], ARGV[3]
local found = redis.call('HMGET', job_key(id), 'state', 'attempt')
if not found[1] then return {'missing', ''} end
if found[1] ~= 'running' or found[2] ~= attempt then return {'stale', found[2] or ''} end
event(id, ARGV[4], ARGV[5])
return {'ok', ''}
