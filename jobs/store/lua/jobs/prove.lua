-- Records the verdict of the last drill of a job.
-- ARGV[2] id   ARGV[3] the verdict with its time (JSON)   ARGV[4] data of the event (JSON)
-- Answers ok or missing.
local id = ARGV[2]
if not get(id, 'state') then return {'missing', ''} end
redis.call('HSET', job_key(id), 'proof', ARGV[3])
event(id, 'proved', ARGV[4])
return {'ok', ''}
