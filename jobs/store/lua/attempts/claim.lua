-- Claims the next job of a pool for a worker: a new attempt, its fencing number and its lease.
-- ARGV[2] pool   ARGV[3] worker   ARGV[4] lease, seconds   ARGV[5] seconds of aging, 0 for none
-- Answers ok with the id, missing when no job waits, or illegal with the state of a worker that is
-- draining or unhealthy. A worker that is not registered may claim.
local pool, worker, lease, aging = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

-- A worker runs one job. If it already has one, the answer to its last claim was lost.
local held = redis.call('HGET', key('claims'), worker)
if held then return {'ok', held} end
local doing = worker_state(worker)
if doing == 'draining' or doing == 'unhealthy' then return {'illegal', doing} end

admit_delayed(pool)
local id, from, fewest
-- A reservation counts once: if its job is gone, or its owner's limits hold it, any job may have the
-- place.
local reserved = redis.call('GETDEL', key('reserved:' .. worker))
if reserved and redis.call('ZSCORE', pool_key(pool, 'queued'), reserved)
    and not held_by(left_for(owner_of(reserved)), reserved) then
  id = reserved
end
repeat
  if not id then
    id, fewest = first_of_pool(pool, aging)
    if not id then return {'missing', ''} end
  end
  from = get(id, 'state')
  -- A stale entry must not block the jobs behind it.
  if not legal(from, 'running') then
    drop_queued(pool, id)
    id = nil
  end
until id
take_turn(pool, owner_of(id), fewest)
move(id, from, 'running')
local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
redis.call('HSETNX', job_key(id), 'started_at', stamp(NOW))
local due = math.max(tonumber(get(id, 'queued_at')), tonumber(get(id, 'not_before')))
local waited = math.max(0, NOW - due)
-- The reason of the previous end is in the receipt of that attempt.
redis.call('HSET', job_key(id), 'worker', worker, 'progress', '', 'reason', '', 'message', '',
  'attempt:' .. attempt,
  cjson.encode({number = attempt, worker = worker, started_at = NOW, queue_seconds = waited}))
redis.call('ZADD', key('leases'), stamp(NOW + lease), id)
redis.call('HSET', key('claims'), worker, id)
redis.call('SET', key('epoch'), id, 'NX')
note_worker(worker)
event(id, 'started', cjson.encode({attempt = attempt, worker = worker}))
return {'ok', id}
