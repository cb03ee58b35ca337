-- What every script below starts with. Python puts two lines before it, from jobs.states:
--   local MOVES = cjson.decode('{"queued": ["running", …], …}')
--   local FINAL = cjson.decode('{"succeeded": true, …}')
--
-- ARGV[1]  prefix of every key
--
-- Keys are built from the prefix, since which indexes a change touches depends on the record it
-- finds: this is one key space on one primary, never a Redis Cluster.
--
--   job:{id}                    hash: the record (jobs.record.job_from_hash)
--   job:{id}:events             stream: what happened to it
--   jobs:all                    sorted set: id by sequence
--   jobs:state:{state}          sorted set: id by sequence
--   jobs:pool:{pool}:queued     sorted set: id by order, the lowest is the next to run
--   jobs:pool:{pool}:delayed    sorted set: id by the time it may run again
--   jobs:pool:{pool}:running    sorted set: id by sequence
--   pools                       set: every pool that ever had a job
--   leases                      sorted set: id by the time its attempt's lease expires
--   outbox                      sorted set: id by the time a message for it is due
--   claims                      hash: worker -> id of the job it runs
--
-- A script answers {status, detail}; status is ok, missing, stale, illegal or changed. Everything
-- is checked before the first write, for Redis rolls nothing back.

local PREFIX = ARGV[1]
local TIME = redis.call('TIME')
local NOW = tonumber(TIME[1]) + tonumber(TIME[2]) / 1000000
local MAX_EVENTS = 1000

local function key(name) return PREFIX .. name end
local function job_key(id) return PREFIX .. 'job:' .. id end
local function pool_key(pool, index) return PREFIX .. 'jobs:pool:' .. pool .. ':' .. index end
local function stamp(seconds) return string.format('%.6f', seconds) end

-- Priority first, then first in, first out. It stays with the job for as long as its priority does,
-- which puts one that was preempted at its head. 2^40 submissions fit below the next priority.
local function order_of(priority, sequence)
  return string.format('%.0f', (9 - priority) * 2 ^ 40 + sequence)
end

local function get(id, field) return redis.call('HGET', job_key(id), field) end

local function legal(from, to)
  for _, state in ipairs(from and MOVES[from] or {}) do
    if state == to then return true end
  end
  return false
end

local function event(id, kind, data)
  redis.call('XADD', job_key(id) .. ':events', 'MAXLEN', '~', MAX_EVENTS, '*',
    'at', stamp(NOW), 'type', kind, 'data', data)
end

-- The job may be claimed from `due` on, and a worker of its pool is to be woken then.
local function enqueue(id, due)
  local pool = get(id, 'pool')
  if due > NOW then
    redis.call('ZADD', pool_key(pool, 'delayed'), stamp(due), id)
  else
    redis.call('ZADD', pool_key(pool, 'queued'), get(id, 'order'), id)
  end
  redis.call('ZADD', key('outbox'), stamp(due), id)
  redis.call('HSET', job_key(id), 'queued_at', stamp(NOW), 'not_before', stamp(due))
end

-- Performs a move that `legal` has allowed, in the record and in every index of states.
local function move(id, from, to)
  local pool, sequence = get(id, 'pool'), get(id, 'sequence')
  redis.call('HSET', job_key(id), 'state', to)
  redis.call('ZREM', key('jobs:state:' .. from), id)
  redis.call('ZADD', key('jobs:state:' .. to), sequence, id)
  if from == 'queued' then
    redis.call('ZREM', pool_key(pool, 'queued'), id)
    redis.call('ZREM', pool_key(pool, 'delayed'), id)
    redis.call('ZREM', key('outbox'), id)
  elseif from == 'running' then
    redis.call('ZREM', pool_key(pool, 'running'), id)
    redis.call('ZREM', key('leases'), id)
    local worker = get(id, 'worker')
    if redis.call('HGET', key('claims'), worker) == id then
      redis.call('HDEL', key('claims'), worker)
    end
    redis.call('HSET', job_key(id), 'worker', '', 'request', '')
  end
  if to == 'running' then
    redis.call('ZADD', pool_key(pool, 'running'), sequence, id)
  end
  if FINAL[to] then
    redis.call('HSET', job_key(id), 'finished_at', stamp(NOW))
  end
end
