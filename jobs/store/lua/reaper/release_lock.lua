-- Releases the lock of the reaper, if the caller holds it.
-- ARGV[2] token of the caller
-- Answers ok, or changed when somebody else or nobody holds it.
if redis.call('GET', key('reaper')) ~= ARGV[2] then return {'changed', ''} end
redis.call('DEL', key('reaper'))
return {'ok', ''}
