-- Stores the limits of owners, which claims follow.
-- ARGV[2] {owner: "running gpus"}, -1 for no limit; the owner '*' stands for all others (JSON)
redis.call('DEL', key('limits'))
for owner, limit in pairs(cjson.decode(ARGV[2])) do
  redis.call('HSET', key('limits'), owner, limit)
end
-- Whom limits hold is not ranked.
for _, pool in ipairs(redis.call('SMEMBERS', key('pools'))) do
  redis.call('DEL', pool_key(pool, 'ranked:aging'))
end
return {'ok', ''}
