-- The beginning of every script. Python puts two lines before it, from jobs.model.states:
--   local MOVES = {queued = {'running', …}, …}
--   local FINAL = {succeeded = true, …}
--
-- ARGV[1]  prefix of every key
-- The last two of ARGV are who calls and from which address, '' for changes that no call caused.
--
-- The keys are listed in jobs/store/keys.py, which spells the same ones for Python. Scripts build
-- them from the prefix, since which indexes a change touches depends on the record it finds: this
-- is one key space on one primary, never a Redis Cluster.
--
-- A script answers {status, detail}; status is ok, missing, stale, illegal or changed. A script
-- checks everything before its first write, because Redis has no rollback.

local PREFIX = ARGV[1]
local BY, ADDRESS = ARGV[#ARGV - 1], ARGV[#ARGV]
local TIME = redis.call('TIME')
local NOW = tonumber(TIME[1]) + tonumber(TIME[2]) / 1000000
local MAX_EVENTS = 1000
local MAX_ALL_EVENTS = 10000
local MAX_AUDIT = 10000
local MAX_NOTICES = 100000

-- `order` is (9 - priority) * LINE + sequence: each priority of an owner is a line of its own, first
-- in, first out. A job keeps its order until its priority changes, so a preempted job returns to the
-- head of its line.
local LINE = 2 ^ 40

local function key(name) return PREFIX .. name end
local function job_key(id) return PREFIX .. 'job:' .. id end
local function pool_key(pool, index) return PREFIX .. 'jobs:pool:' .. pool .. ':' .. index end
-- An owner has no colon; nobody is ''.
local function once_key(owner, text) return PREFIX .. 'idempotency:' .. (owner or '') .. ':' .. text end
local function stamp(seconds) return string.format('%.6f', seconds) end
local function whole(number) return string.format('%.0f', number) end

local function order_of(priority, sequence) return whole((9 - priority) * LINE + sequence) end

local function get(id, field) return redis.call('HGET', job_key(id), field) end

local function legal(from, to)
  for _, state in ipairs(from and MOVES[from] or {}) do
    if state == to then return true end
  end
  return false
end

-- The state for an error message: a running job with its pending request.
local function doing(id, state)
  local pending = get(id, 'request') or ''
  return state == 'running' and pending ~= '' and 'running, asked to ' .. pending or state
end

-- Appends to a stream what happened, with who caused it and from where, if a call did.
local function append(stream, most, kind, data, ...)
  local fields = {'at', stamp(NOW), 'type', kind, 'data', data, ...}
  if BY ~= '' then
    table.insert(fields, 'by')
    table.insert(fields, BY)
  end
  if ADDRESS ~= '' then
    table.insert(fields, 'address')
    table.insert(fields, ADDRESS)
  end
  redis.call('XADD', stream, 'MAXLEN', '~', most, '*', unpack(fields))
end

-- Adds an event to those of all jobs.
local function announce(id, kind, data)
  append(key('events'), MAX_ALL_EVENTS, kind, data, 'job', id)
end

-- Adds an event to those of a job.
local function record(id, kind, data)
  append(job_key(id) .. ':events', MAX_EVENTS, kind, data)
  redis.call('ZADD', key('dirty'), stamp(NOW), id)
end

-- What a webhook calls an event (jobs/notify.py); nil for one that it is not told of.
local function notice_of(kind, data)
  local names = {submitted = 'submitted', started = 'started', succeeded = 'finished',
    failed = 'failed', cancelled = 'cancelled', paused = 'paused'}
  if kind ~= 'requeued' then return names[kind] end
  local reason = cjson.decode(data).reason
  local requeued = {preempted = 'preempted', evicted = 'preempted', lost = 'lost'}
  return requeued[reason] or 'retried'
end

-- Puts a notice for each webhook of the job that is to be told of an event into their outbox.
local function notify(id, kind, data)
  local name = notice_of(kind, data)
  if not name or redis.call('ZCARD', key('notices')) >= MAX_NOTICES then return end
  for number, hook in ipairs(cjson.decode(get(id, 'spec')).notify or {}) do
    for _, on in ipairs(hook.on) do
      if on == name then
        local notice = id .. ':' .. stamp(NOW) .. ':' .. name .. ':' .. number
        redis.call('ZADD', key('notices'), stamp(NOW), notice)
        redis.call('HSET', key('notices:content'), notice, cjson.encode({url = hook.url,
          format = hook.format, event = name, job = id, at = stamp(NOW), data = data}))
        break
      end
    end
  end
end

local function event(id, kind, data)
  record(id, kind, data)
  announce(id, kind, data)
  if get(id, 'notify') == '1' then notify(id, kind, data) end
end

-- Notes a change that belongs to no job.
local function audit(kind, data) append(key('audit'), MAX_AUDIT, kind, data) end

-- The state of a worker; '' for one that is not registered.
local function worker_state(name)
  local found = redis.call('HMGET', key('worker:' .. name), 'name', 'unhealthy', 'drained', 'leaving')
  if not found[1] then return '' end
  if found[2] ~= '' then return 'unhealthy' end
  if found[3] ~= '' or found[4] ~= '' then return 'draining' end
  return redis.call('HEXISTS', key('claims'), name) == 1 and 'busy' or 'idle'
end

-- Wakes a worker to check for requests.
local function wake_worker(name, what) redis.call('PUBLISH', key('requests:' .. name), what) end

-- Updates the registration of a worker; `since` is when it entered its present state.
local function note_worker(name)
  local state = worker_state(name)
  if state == '' then return state end
  local job = redis.call('HGET', key('claims'), name) or ''
  local before = redis.call('HMGET', key('worker:' .. name), 'state', 'job')
  if state ~= before[1] or job ~= before[2] then
    redis.call('HSET', key('worker:' .. name), 'state', state, 'job', job, 'since', stamp(NOW))
  end
  return state
end
