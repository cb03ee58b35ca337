-- Takes notices that are due. Each comes again after a while, unless it is settled: a process may
-- die after it took some.
-- ARGV[2] the largest number   ARGV[3] seconds until a notice that is not settled comes again
-- Answers ok with a list of {id, notice (JSON), earlier tries} (JSON).
local most, again = tonumber(ARGV[2]), tonumber(ARGV[3])
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('notices'), '-inf', stamp(NOW), 'LIMIT', 0, most)) do
  local notice = redis.call('HGET', key('notices:content'), id)
  if notice then
    redis.call('ZADD', key('notices'), stamp(NOW + again), id)
    table.insert(found, {id, notice, tonumber(redis.call('HGET', key('notices:tries'), id) or 0)})
  else
    redis.call('ZREM', key('notices'), id)
  end
end
return {'ok', #found > 0 and cjson.encode(found) or '[]'}
