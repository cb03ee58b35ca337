-- Settles a notice that was taken: it was sent, or is tried again later, or is given up.
-- ARGV[2] id of the notice   ARGV[3] seconds until it is tried again, '' to remove it
-- ARGV[4] tries so far   ARGV[5] its job   ARGV[6] why it is given up (JSON), '' if it is not
-- Answers ok.
local id, delay, tries, job, why = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if delay == '' then
  redis.call('ZREM', key('notices'), id)
  redis.call('HDEL', key('notices:content'), id)
  redis.call('HDEL', key('notices:tries'), id)
elseif redis.call('HEXISTS', key('notices:content'), id) == 1 then
  redis.call('ZADD', key('notices'), stamp(NOW + tonumber(delay)), id)
  redis.call('HSET', key('notices:tries'), id, tries)
end
if why ~= '' and get(job, 'state') then event(job, 'webhook_failed', why) end
return {'ok', ''}
