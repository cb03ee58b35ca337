-- Notes that storage has a copy of a job's record, if that has not changed since it was read.
-- ARGV[2] id   ARGV[3] the time of its change, as it was read from `dirty`
-- Answers ok, changed when it is to be copied again (by this process or, where another one copied
-- it meanwhile, because the older copy may lie there now), or missing when there is no such job.
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
