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

-- `order` is (9 - priority) * LINE + sequence: each priority is a line of its own, first in, first
-- out. A job keeps its order until its priority changes, so a preempted job returns to the head of
-- its line.
local LINE = 2 ^ 40

local function key(name) return PREFIX .. name end
local function job_key(id) return PREFIX .. 'job:' .. id end
local function pool_key(pool, index) return PREFIX .. 'jobs:pool:' .. pool .. ':' .. index end
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

-- When a queued job began to wait, for aging.
local function waits_since(id) return tonumber(get(id, 'waits_since') or get(id, 'queued_at') or NOW) end

-- The first id in the line of a priority and its order; with `after` the first behind that order.
local function first_in_line(pool, priority, after)
  local start = (9 - priority) * LINE
  local found = redis.call('ZRANGEBYSCORE', pool_key(pool, 'queued'),
    after and '(' .. whole(after) or whole(start), '(' .. whole(start + LINE),
    'WITHSCORES', 'LIMIT', 0, 1)
  return found[1], tonumber(found[2])
end

-- Inserts a job that waits since `at` into its line. Its wait is cut to be no longer than that of
-- the job before it and no shorter than that of the job behind it. So the head of a line is always
-- the first of that line to go.
local function into_line(id, at)
  local pool, order = get(id, 'pool'), tonumber(get(id, 'order'))
  local priority = 9 - math.floor(order / LINE)
  local before = redis.call('ZREVRANGEBYSCORE', pool_key(pool, 'queued'), '(' .. whole(order),
    whole((9 - priority) * LINE), 'LIMIT', 0, 1)[1]
  local behind = first_in_line(pool, priority, order)
  if before then at = math.max(at, waits_since(before)) end
  if behind then at = math.min(at, waits_since(behind)) end
  redis.call('HSET', job_key(id), 'waits_since', stamp(at))
  redis.call('ZADD', pool_key(pool, 'queued'), whole(order), id)
end

-- Inserts the jobs whose backoff is over into their lines.
local function admit_delayed(pool)
  local due = redis.call('ZRANGEBYSCORE', pool_key(pool, 'delayed'), '-inf', stamp(NOW), 'WITHSCORES')
  for position = 1, #due, 2 do
    redis.call('ZREM', pool_key(pool, 'delayed'), due[position])
    into_line(due[position], tonumber(due[position + 1]))
  end
end

-- The aged priority: one more for every `aging` seconds of waiting (0: never), up to 9.
local function aged(priority, since, aging)
  if aging <= 0 then return priority end
  return math.min(9, priority + math.max(0, math.floor((NOW - since) / aging)))
end

-- A queued job in the order of claims: by aged priority, then by submission.
local function turn_of(id, order, aging)
  return {
    id = id,
    order = order,
    priority = 9 - math.floor(order / LINE),
    counts = aged(9 - math.floor(order / LINE), waits_since(id), aging),
    sequence = order % LINE,
  }
end

local function goes_before(a, b)
  if a.counts ~= b.counts then return a.counts > b.counts end
  return a.sequence < b.sequence
end

-- The heads of the ten lines of a pool, by priority.
local function line_heads(pool, aging)
  local heads = {}
  for priority = 0, 9 do
    local id, order = first_in_line(pool, priority)
    if id then heads[priority] = turn_of(id, order, aging) end
  end
  return heads
end

-- The head that is claimed next, nil when all lines are empty.
local function first_of(heads)
  local first
  for priority = 0, 9 do
    local head = heads[priority]
    if head and (not first or goes_before(head, first)) then first = head end
  end
  return first
end

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

-- Performs a move that `legal` allows, in the record and in every index.
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
    redis.call('ZADD', pool_key(pool, 'running'), sequence, id)
  end
  if FINAL[to] then
    redis.call('HSET', job_key(id), 'finished_at', stamp(NOW))
  end
end
