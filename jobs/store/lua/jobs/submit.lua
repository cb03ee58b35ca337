-- Accepts a job: record, indexes, event and outbox in one step.
-- ARGV[2] id   ARGV[3] pool   ARGV[4] priority   ARGV[5] specification (JSON)
-- ARGV[6] Idempotency-Key or ''   ARGV[7] digest of the specification   ARGV[8] its lifetime, seconds
-- ARGV[9] further fields of the record (JSON)   ARGV[10] data of the event (JSON)
-- Answers ok with the id; the first job's id when its owner used the key before; changed with that
-- job's id when the key came with another specification; taken when another job has the id.
local id, pool, priority, spec = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local idempotency, digest, life = ARGV[6], ARGV[7], ARGV[8]
local fields = cjson.decode(ARGV[9])
local AGAIN = 60  -- seconds within which the client library sends a call whose answer was lost again
local once = idempotency ~= '' and once_key(fields.owner, idempotency)
local seen = once and redis.call('HMGET', once, 'id', 'digest') or {}
if seen[1] then return {seen[2] == digest and 'ok' or 'changed', seen[1]} end
local there_since = get(id, 'submitted_at')
if there_since then return {NOW - tonumber(there_since) < AGAIN and 'ok' or 'taken', id} end

local sequence = redis.call('INCR', key('sequence'))
redis.call('HSET', job_key(id), 'id', id, 'pool', pool, 'priority', priority, 'spec', spec,
  'state', 'queued', 'sequence', sequence, 'order', order_of(priority, sequence), 'attempt', 0,
  'submitted_at', stamp(NOW))
if once then
  redis.call('HSET', once, 'id', id, 'digest', digest)
  redis.call('EXPIRE', once, life)
  redis.call('HSET', job_key(id), 'idempotency', idempotency, 'digest', digest)
end
for field, value in pairs(fields) do redis.call('HSET', job_key(id), field, value) end
redis.call('ZADD', key('jobs:all'), sequence, id)
redis.call('ZADD', key('jobs:state:queued'), sequence, id)
redis.call('SADD', key('pools'), pool)
enqueue(id, NOW)
event(id, 'submitted', ARGV[10])
return {'ok', id}
