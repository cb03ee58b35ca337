-- Records that storage has a copy of a job's record, unless the record changed since.
-- ARGV[2] id   ARGV[3] the time of its change, as it was read from `dirty`
-- Answers ok, missing when there is no such job, or changed when the record needs another copy: it
-- changed, or another process copied it meanwhile and storage may have the older copy now.
local id = ARGV[2]
if redis.call('EXISTS', job_key(id)) == 0 then
  redis.call('ZREM', key('dirty'), id)
  return {'missing', ''}
end
if tonumber(redis.call('ZSCORE', key('dirty'), id)) == tonumber(ARGV[3]) then
  redis.call('ZREM', key('dirty'), id)
  return {'ok', ''}
end
redis.call('ZADD', key('dirty'), stamp(NOW), id)
return {'changed', ''}
