-- Lets the job be claimed from `due` on, when a message wakes a worker of its pool.
local function enqueue(id, due)
  local pool = get(id, 'pool')
  if due > NOW then
    redis.call('ZADD', pool_key(pool, 'delayed'), stamp(due), id)
  else
    into_line(id, NOW)
  end
  redis.call('ZADD', key('outbox'), stamp(due), id)
  redis.call('HSET', job_key(id), 'queued_at', stamp(NOW), 'not_before', stamp(due))
end

-- Limits count the running jobs of all pools.
local function mark_everywhere(owner)
  for _, pool in ipairs(redis.call('SMEMBERS', key('pools'))) do mark_changed(pool, owner) end
end

local function add_running(pool, id, sequence)
  redis.call('ZADD', pool_key(pool, 'running'), sequence, id)
  redis.call('ZADD', busy_key(pool, owner_of(id)), gpus_of(id), id)
  mark_everywhere(owner_of(id))
end

-- Performs a move that `legal` allows, in the record and in every index.
local function move(id, from, to)
  local pool, sequence = get(id, 'pool'), get(id, 'sequence')
  redis.call('HSET', job_key(id), 'state', to)
  redis.call('ZREM', key('jobs:state:' .. from), id)
  redis.call('ZADD', key('jobs:state:' .. to), sequence, id)
  if from == 'queued' then
    drop_queued(pool, id)
    redis.call('ZREM', pool_key(pool, 'delayed'), id)
    redis.call('ZREM', key('outbox'), id)
  elseif from == 'running' then
    redis.call('ZREM', pool_key(pool, 'running'), id)
    redis.call('ZREM', busy_key(pool, owner_of(id)), id)
    mark_everywhere(owner_of(id))
    redis.call('ZREM', key('leases'), id)
    local worker = get(id, 'worker')
    if redis.call('HGET', key('claims'), worker) == id then
      redis.call('HDEL', key('claims'), worker)
      note_worker(worker)
    end
    local asked = redis.call('HMGET', job_key(id), 'request', 'evicted_for')
    if asked[1] == 'evict' and (asked[2] or '') ~= '' then
      redis.call('SET', key('reserved:' .. worker), asked[2], 'EX', 60)
    end
    redis.call('HSET', job_key(id), 'worker', '', 'request', '', 'evicted_for', '',
      'request_before', '')
  end
  if to == 'running' then
    add_running(pool, id, sequence)
  end
  if FINAL[to] then
    redis.call('HSET', job_key(id), 'finished_at', stamp(NOW))
  end
end
