-- The queue of a pool: whose job is next. Beside the index of all its queued jobs (`queued`) each
-- owner has one (`queued:OWNER`), which gives the order; jobs without an owner have the
-- owner ''. `owners` holds those with a queued job by the time when they came. `turns` holds how
-- many claims each has had, as far as that counts: who comes back starts with no fewer than the
-- fewest of those who waited at the last claim ('*'), so nobody saves up turns while away.

local function owner_of(id) return get(id, 'owner') or '' end
local function line_key(pool, owner) return pool_key(pool, 'queued:' .. owner) end
local function busy_key(pool, owner) return pool_key(pool, 'running:' .. owner) end
local function turns_of(pool, owner)
  return tonumber(redis.call('HGET', pool_key(pool, 'turns'), owner) or 0)
end
local function gpus_of(id)
  local spec = cjson.decode(get(id, 'spec') or '{}')
  return spec.resources and tonumber(spec.resources.gpus) or 0
end

-- When a queued job began to wait, for aging.
local function waits_since(id) return tonumber(get(id, 'waits_since') or get(id, 'queued_at') or NOW) end

-- The indexes of the ranking (ranking.lua), whose members are an owner behind the time they came.
local RANKED = {'ranked', 'ranked:turns', 'ranked:due'}
local function forget_rank(pool, owner, came)
  for _, index in ipairs(RANKED) do redis.call('ZREM', pool_key(pool, index), stamp(came) .. owner) end
end

-- Marks an owner whose rank may have changed.
local function mark_changed(pool, owner)
  redis.call('SADD', pool_key(pool, 'ranked:changed'), owner)
end

local function add_queued(pool, id, order)
  local owner = owner_of(id)
  redis.call('ZADD', pool_key(pool, 'queued'), whole(order), id)
  redis.call('ZADD', line_key(pool, owner), whole(order), id)
  if redis.call('ZADD', pool_key(pool, 'owners'), 'NX', stamp(NOW), owner) == 1 then
    local turns = math.max(turns_of(pool, owner), turns_of(pool, '*'))
    redis.call('HSET', pool_key(pool, 'turns'), owner, whole(turns))
  end
  mark_changed(pool, owner)
end

-- Takes a job out of the queue; answers whether it was there.
local function drop_queued(pool, id)
  local owner = owner_of(id)
  local found = redis.call('ZREM', pool_key(pool, 'queued'), id)
  redis.call('ZREM', line_key(pool, owner), id)
  if redis.call('EXISTS', line_key(pool, owner)) == 0 then
    local came = tonumber(redis.call('ZSCORE', pool_key(pool, 'owners'), owner))
    if came then forget_rank(pool, owner, came) end
    redis.call('ZREM', pool_key(pool, 'owners'), owner)
  end
  mark_changed(pool, owner)
  return found == 1
end

-- The first id in the line of a priority and its order; with `after` the first behind that order.
local function first_in_line(queue, priority, after)
  local start = (9 - priority) * LINE
  local found = redis.call('ZRANGEBYSCORE', queue,
    after and '(' .. whole(after) or whole(start), '(' .. whole(start + LINE),
    'WITHSCORES', 'LIMIT', 0, 1)
  return found[1], tonumber(found[2])
end

-- Inserts a job that waits since `at` into its line. Its wait is cut to be no longer than that of
-- the job before it and no shorter than that of the job behind it. So the head of a line is always
-- the first of that line to go.
local function into_line(id, at)
  local pool, order = get(id, 'pool'), tonumber(get(id, 'order'))
  local priority, queue = 9 - math.floor(order / LINE), line_key(pool, owner_of(id))
  local before = redis.call('ZREVRANGEBYSCORE', queue, '(' .. whole(order),
    whole((9 - priority) * LINE), 'LIMIT', 0, 1)[1]
  local behind = first_in_line(queue, priority, order)
  if before then at = math.max(at, waits_since(before)) end
  if behind then at = math.min(at, waits_since(behind)) end
  redis.call('HSET', job_key(id), 'waits_since', stamp(at))
  add_queued(pool, id, order)
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

-- A queued job in the order of its owner's: by aged priority, then by submission.
local function turn_of(id, order, aging)
  local priority, since = 9 - math.floor(order / LINE), waits_since(id)
  return {
    id = id,
    order = order,
    priority = priority,
    since = since,
    counts = aged(priority, since, aging),
    sequence = order % LINE,
  }
end

local function goes_before(a, b)
  if a.counts ~= b.counts then return a.counts > b.counts end
  return a.sequence < b.sequence
end

-- The heads of the lines of an owner, by priority.
local function line_heads(queue, aging)
  local heads, start = {}, '-inf'
  repeat
    local found = redis.call('ZRANGEBYSCORE', queue, start, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if found[1] then
      local head = turn_of(found[1], tonumber(found[2]), aging)
      heads[head.priority] = head
      start = whole((10 - head.priority) * LINE)
    end
  until not found[1]
  return heads
end

-- The head that its owner would have first.
local function first_of(heads)
  local first
  for priority = 0, 9 do
    local head = heads[priority]
    if head and (not first or goes_before(head, first)) then first = head end
  end
  return first
end

-- What an owner may still start: a number of jobs and of GPUs, and what is in use of how many.
local has_limits
local function left_for(owner)
  if has_limits == nil then has_limits = redis.call('EXISTS', key('limits')) == 1 end
  local limit = has_limits and owner ~= '' and
    (redis.call('HGET', key('limits'), owner) or redis.call('HGET', key('limits'), '*'))
  if not limit then return {jobs = math.huge, gpus = math.huge} end
  local jobs, gpus = limit:match('^(%S+) (%S+)$')
  jobs, gpus = tonumber(jobs), tonumber(gpus)
  local running, used = 0, 0
  for _, pool in ipairs(redis.call('SMEMBERS', key('pools'))) do
    local found = redis.call('ZRANGE', busy_key(pool, owner), 0, -1, 'WITHSCORES')
    for position = 2, #found, 2 do
      running, used = running + 1, used + tonumber(found[position])
    end
  end
  return {
    jobs = jobs < 0 and math.huge or jobs - running, running = running, most_running = jobs,
    gpus = gpus < 0 and math.huge or gpus - used, used = used, most_gpus = gpus,
  }
end

-- Why the limits of its owner hold a job: 'running', 'gpus', or nil if they do not.
local function held_by(left, id)
  if left.jobs < 1 then return 'running' end
  if left.gpus < math.huge and gpus_of(id) > left.gpus then return 'gpus' end
end

-- How many jobs an owner may start before limits hold the next one, if all of them ask for as
-- many GPUs as the first.
local function allowed(left, first)
  local most = left.jobs
  if left.gpus < math.huge then
    local each = gpus_of(first)
    if each > left.gpus then return 0 end
    if each > 0 then most = math.min(most, math.floor(left.gpus / each)) end
  end
  return math.max(0, most)
end

-- The share of an owner in a pool: the jobs that run there, the turns, and the first job.
local function share_of(pool, owner, came, aging)
  local queue = line_key(pool, owner)
  local heads = line_heads(queue, aging)
  return {
    owner = owner, queue = queue, came = tonumber(came), heads = heads, first = first_of(heads),
    running = redis.call('ZCARD', busy_key(pool, owner)), turns = turns_of(pool, owner),
  }
end

-- The shares of all owners who wait.
local function shares(pool, aging)
  local found, owners = {}, redis.call('ZRANGE', pool_key(pool, 'owners'), 0, -1, 'WITHSCORES')
  for position = 1, #owners, 2 do
    local share = share_of(pool, owners[position], owners[position + 1], aging)
    share.left = left_for(share.owner)
    if share.first then table.insert(found, share) end
  end
  return found
end

-- Whether the first job of one share is claimed before that of another: by aged priority; then who
-- runs fewer jobs; then who has had fewer turns; then who came first.
local function is_next(a, b)
  if a.first.counts ~= b.first.counts then return a.first.counts > b.first.counts end
  if a.running ~= b.running then return a.running < b.running end
  if a.turns ~= b.turns then return a.turns < b.turns end
  if a.came ~= b.came then return a.came < b.came end
  return a.owner < b.owner
end

-- The share whose first job is claimed next, nil when there is none that limits do not hold.
local function next_share(found)
  local best
  for _, share in ipairs(found) do
    if share.first and (not best or is_next(share, best)) and not held_by(share.left, share.first.id) then
      best = share
    end
  end
  return best
end
