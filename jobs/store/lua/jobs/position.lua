-- Counts the jobs of the pool that would be claimed before a job.
-- ARGV[2] id, or '' for a job that would be submitted now: to the pool ARGV[4] with the priority
-- ARGV[5]   ARGV[3] seconds of aging, 0 for none
-- Answers ok with the number, or missing when the job does not wait for a worker.
local id, aging = ARGV[2], tonumber(ARGV[3])
local pool = id == '' and ARGV[4] or get(id, 'pool')
if not pool then return {'missing', ''} end
admit_delayed(pool)
local queue = pool_key(pool, 'queued')
local mine, count = nil, 0
if id == '' then
  mine = {counts = tonumber(ARGV[5]), sequence = LINE}
else
  local order = tonumber(redis.call('ZSCORE', queue, id))
  if not order then return {'missing', ''} end
  mine = turn_of(id, order, aging)
end
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
