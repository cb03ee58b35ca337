-- Notes that the message which was due at the time ARGV[3] is on its way.
-- ARGV[2] id   ARGV[3] time at which the outbox was read, seconds
-- An entry of a later time belongs to a later turn of the job: its message is still to be sent.
local due = redis.call('ZSCORE', key('outbox'), ARGV[2])
if due and tonumber(due) <= tonumber(ARGV[3]) then redis.call('ZREM', key('outbox'), ARGV[2]) end
return {'ok', ''}
