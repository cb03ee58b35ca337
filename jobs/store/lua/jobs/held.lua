-- Counts the queued jobs of pools that the limits of their owners hold, whatever workers are free.
-- ARGV[2] names of pools (JSON)
-- Answers ok with {pool: number} (JSON); a pool without such jobs is left out. The jobs of an owner
-- in a pool are taken to ask for as many GPUs as the first one.
local held = {}
for _, pool in ipairs(redis.call('EXISTS', key('limits')) == 1 and cjson.decode(ARGV[2]) or {}) do
  admit_delayed(pool)
  local sum = 0
  for _, share in ipairs(shares(pool, 0)) do
    sum = sum + math.max(0, redis.call('ZCARD', share.queue) - allowed(share.left, share.first.id))
  end
  if sum > 0 then held[pool] = sum end
end
return {'ok', next(held) and cjson.encode(held) or '{}'}
