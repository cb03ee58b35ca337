-- Counts the jobs of the pool that would be claimed before a job.
-- ARGV[2] id   ARGV[3] seconds of aging, 0 for none
-- Answers ok with the number, or missing when the job does not wait for a worker.
local id, aging = ARGV[2], tonumber(ARGV[3])
local pool = get(id, 'pool')
if not pool then return {'missing', ''} end
admit_delayed(pool)
local queue = pool_key(pool, 'queued')
local order = tonumber(redis.call('ZSCORE', queue, id))
if not order then return {'missing', ''} end

local mine, count = turn_of(id, order, aging), 0
for priority = 0, 9 do
  local start = (9 - priority) * LINE
  local rank = redis.call('ZCOUNT', queue, '-inf', '(' .. whole(start))
  -- The jobs of a line that go before it are the first of that line: a binary search counts them.
  local low, high = 0, redis.call('ZCOUNT', queue, whole(start), '(' .. whole(start + LINE))
  while low < high do
    local middle = math.floor((low + high) / 2)
    local other = redis.call('ZRANGE', queue, rank + middle, rank + middle, 'WITHSCORES')
    if goes_before(turn_of(other[1], tonumber(other[2]), aging), mine) then
      low = middle + 1
    else
      high = middle
    end
  end
  count = count + low
end
return {'ok', tostring(count)}
