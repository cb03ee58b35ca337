-- Counts the jobs of the pool that would be claimed before a job, if none ended meanwhile.
-- ARGV[2] id, or '' for one that would be submitted now: to the pool ARGV[4] with the priority
-- ARGV[5] by the owner ARGV[6]   ARGV[3] seconds of aging, 0 for none
-- Answers ok with {ahead, held, used, most} (JSON), or missing when the job does not wait for a
-- worker. `held` is the limit of its owner that holds them now, '' for none: `used` of `most`.
local id, aging = ARGV[2], tonumber(ARGV[3])
local pool = id == '' and ARGV[4] or get(id, 'pool')
if not pool then return {'missing', ''} end
admit_delayed(pool)
local owner = id == '' and ARGV[6] or owner_of(id)
local mine = {counts = tonumber(ARGV[5]), sequence = LINE}
if id ~= '' then
  local order = tonumber(redis.call('ZSCORE', line_key(pool, owner), id))
  if not order then return {'missing', ''} end
  mine = turn_of(id, order, aging)
end

-- The job at a place of a line, counted from 0; the line's size and where it begins are looked up
-- when they are needed first.
local function at(queue, line, place)
  local found = redis.call('ZRANGE', queue, line.rank + place, line.rank + place, 'WITHSCORES')
  return turn_of(found[1], tonumber(found[2]), aging)
end

local function measured(queue, head)
  local start = (9 - head.priority) * LINE
  local line = {
    size = redis.call('ZCOUNT', queue, whole(start), '(' .. whole(start + LINE)),
    rank = redis.call('ZCOUNT', queue, '-inf', '(' .. whole(start)),
  }
  line.last = line.size == 1 and head or at(queue, line, line.size - 1)
  return line
end

-- Counts the jobs of a share that pass a test which those of each line pass up to some place.
local function count(share, passes)
  local sum = 0
  share.lines = share.lines or {}
  for priority, head in pairs(share.heads) do
    if passes(head) then
      local line = share.lines[priority] or measured(share.queue, head)
      share.lines[priority] = line
      local low, high = 1, line.size
      if passes(line.last) then low = high end
      while low < high do
        local middle = math.floor((low + high) / 2)
        if passes(at(share.queue, line, middle)) then low = middle + 1 else high = middle end
      end
      sum = sum + low
    end
  end
  return sum
end

local found, my = shares(pool, aging), nil
for _, share in ipairs(found) do
  if share.owner == owner then my = share end
end
if not my then  -- nothing of the owner of a new job waits yet
  my = share_of(pool, owner, NOW, aging)
  my.left = left_for(owner)
  my.turns = math.max(my.turns, turns_of(pool, '*'))
end
local ahead = count(my, function(job) return goes_before(job, mine) end)
local held = held_by(my.left, my.first and my.first.id or '')
-- The share as it will be when it is this job's turn.
my.running, my.turns, my.first = my.running + ahead, my.turns + ahead, mine

for _, share in ipairs(found) do
  if share ~= my then
    local most = allowed(share.left, share.first.id)
    local higher = count(share, function(job) return job.counts > mine.counts end)
    local equal = count(share, function(job) return job.counts >= mine.counts end) - higher
    -- With each claim the owner runs one job more: the first of the equal ones go before this job.
    local fewer = math.max(0, math.min(equal, my.running - share.running - higher))
    local running = share.running + higher + fewer
    if fewer < equal and running == my.running then
      local level = {first = mine, running = running, turns = share.turns + higher + fewer,
        came = share.came, owner = share.owner}
      if is_next(level, my) then fewer = fewer + 1 end
    end
    ahead = ahead + math.min(most, higher + fewer)
  end
end
local left = my.left
return {'ok', cjson.encode({
  ahead = ahead, held = held or '',
  used = held == 'gpus' and left.used or left.running or 0,
  most = held == 'gpus' and left.most_gpus or left.most_running or 0,
})}
