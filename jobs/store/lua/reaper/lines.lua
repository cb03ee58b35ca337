-- Brings the lines of the owners of a pool in line with the indexes of all its jobs, which processes
-- of an earlier version change alone.
-- ARGV[2] pool
-- Answers ok, or changed where they differed.
local pool = ARGV[2]
local owners = {}
for _, owner in ipairs(redis.call('HKEYS', pool_key(pool, 'turns'))) do owners[owner] = true end
for _, owner in ipairs(redis.call('ZRANGE', pool_key(pool, 'owners'), 0, -1)) do owners[owner] = true end
local queued, running = 0, 0
for owner in pairs(owners) do
  queued = queued + redis.call('ZCARD', line_key(pool, owner))
  running = running + redis.call('ZCARD', busy_key(pool, owner))
end
if queued == redis.call('ZCARD', pool_key(pool, 'queued'))
    and running == redis.call('ZCARD', pool_key(pool, 'running')) then
  return {'ok', ''}
end
for owner in pairs(owners) do redis.call('DEL', line_key(pool, owner), busy_key(pool, owner)) end
redis.call('DEL', pool_key(pool, 'owners'), pool_key(pool, 'ranked:aging'))
local found = redis.call('ZRANGE', pool_key(pool, 'queued'), 0, -1, 'WITHSCORES')
for position = 1, #found, 2 do add_queued(pool, found[position], tonumber(found[position + 1])) end
found = redis.call('ZRANGE', pool_key(pool, 'running'), 0, -1, 'WITHSCORES')
for position = 1, #found, 2 do
  -- Its owner has a turn from now on, or the next look would not find the line.
  redis.call('HSETNX', pool_key(pool, 'turns'), owner_of(found[position]), 0)
  add_running(pool, found[position], found[position + 1])
end
return {'changed', ''}
