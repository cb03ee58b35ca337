-- Takes the lock of the reaper, or extends it for its holder.
-- ARGV[2] token of the caller   ARGV[3] time after which the lock expires, milliseconds
-- Answers ok, or changed with the token of the holder.
local holder = redis.call('GET', key('reaper'))
if holder and holder ~= ARGV[2] then return {'changed', holder} end
redis.call('SET', key('reaper'), ARGV[2], 'PX', ARGV[3])
return {'ok', ''}
