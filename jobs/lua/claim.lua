-- Gives a worker the next job of its pool: a new attempt, its fencing number and its lease.
-- ARGV[2] pool   ARGV[3] worker   ARGV[4] lease, seconds
-- Answers ok with the id, or missing when nothing waits.
local pool, worker, lease = ARGV[2], ARGV[3], tonumber(ARGV[4])

-- A worker runs one job. One that already has a job lost the answer to its last claim.
local held = redis.call('HGET', key('claims'), worker)
if held then return {'ok', held} end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', pool_key(pool, 'delayed'), '-inf', stamp(NOW))) do
  redis.call('ZREM', pool_key(pool, 'delayed'), id)
  redis.call('ZADD', pool_key(pool, 'queued'), get(id, 'order'), id)
end
local id, from
repeat
  id = redis.call('ZRANGE', pool_key(pool, 'queued'), 0, 0)[1]
  if not id then return {'missing', ''} end
  from = get(id, 'state')
  -- An entry without a queued job behind it must not hold up those after it.
  if not legal(from, 'running') then redis.call('ZREM', pool_key(pool, 'queued'), id) end
until legal(from, 'running')
move(id, from, 'running')
local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
redis.call('HSETNX', job_key(id), 'started_at', stamp(NOW))
local due = math.max(tonumber(get(id, 'queued_at')), tonumber(get(id, 'not_before')))
redis.call('HSET', job_key(id), 'worker', worker, 'progress', '', 'attempt:' .. attempt,
  cjson.encode({number = attempt, worker = worker, started_at = NOW, queue_seconds = NOW - due}))
redis.call('ZADD', key('leases'), stamp(NOW + lease), id)
redis.call('HSET', key('claims'), worker, id)
event(id, 'started', cjson.encode({attempt = attempt, worker = worker}))
return {'ok', id}
