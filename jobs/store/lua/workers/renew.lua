-- Renews the registration of a worker, with what the worker knows of itself.
-- ARGV[2] worker   ARGV[3] pool   ARGV[4] host   ARGV[5] names of its GPUs (JSON)
-- ARGV[6] lifetime of the registration, seconds   ARGV[7] why it is unhealthy, or ''
-- ARGV[8] why it leaves, or ''
-- ARGV[9] 'yes' if it was drained as far as it knows, or '': counts only for a new registration
-- ARGV[10] what its GPUs do (JSON)
-- Answers ok with its state.
local name, life = ARGV[2], tonumber(ARGV[6])
local entry = key('worker:' .. name)
if redis.call('EXISTS', entry) == 0 then
  redis.call('HSET', entry, 'name', name, 'started_at', stamp(NOW), 'drained', ARGV[9])
end
redis.call('HSET', entry, 'pool', ARGV[3], 'host', ARGV[4], 'gpus', ARGV[5],
  'unhealthy', ARGV[7], 'leaving', ARGV[8], 'gpu_states', ARGV[10])
redis.call('ZADD', key('workers'), stamp(NOW + life), name)

-- Workers that never came back, a few at a time.
local gone = redis.call('ZRANGEBYSCORE', key('workers'), '-inf', stamp(NOW - 3600), 'LIMIT', 0, 10)
for _, other in ipairs(gone) do
  redis.call('ZREM', key('workers'), other)
  redis.call('DEL', key('worker:' .. other))
end
return {'ok', note_worker(name)}
