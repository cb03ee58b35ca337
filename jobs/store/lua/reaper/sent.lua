-- Records that the message which was due at the time ARGV[3] was sent.
-- ARGV[2] id   ARGV[3] time at which the outbox was read, seconds
-- An entry with a later time belongs to a later turn of the job, whose message is not sent yet.
local due = redis.call('ZSCORE', key('outbox'), ARGV[2])
if due and tonumber(due) <= tonumber(ARGV[3]) then redis.call('ZREM', key('outbox'), ARGV[2]) end
return {'ok', ''}
