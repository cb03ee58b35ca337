-- Records the verdict of the last drill of a job.
-- ARGV[2] id   ARGV[3] the verdict with its time (JSON)
-- Answers ok or missing.
local id, proof = ARGV[2], ARGV[3]
if not get(id, 'state') then return {'missing', ''} end
redis.call('HSET', job_key(id), 'proof', proof)
event(id, 'proved', proof)
return {'ok', ''}
