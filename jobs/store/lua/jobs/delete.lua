-- Deletes the record of a job in a final state.
-- ARGV[2] id   ARGV[3] mark: no retry can revive it any more; remove: deletes it now
-- Answers ok (also for one that was removed before: the answer may have been lost), missing, or
-- illegal with the state that forbids it.
local id, step = ARGV[2], ARGV[3]
local state = get(id, 'state')
if not state then return {step == 'remove' and 'ok' or 'missing', ''} end
if not FINAL[state] then return {'illegal', doing(id, state)} end
if step == 'mark' then
  -- Of a job whose files stay, the copy of the record in storage says who deleted it.
  if redis.call('HSET', job_key(id), 'deleting', '1') == 1 then record(id, 'deleted', '{}') end
else
  redis.call('ZREM', key('jobs:all'), id)
  redis.call('ZREM', key('jobs:state:' .. state), id)
  redis.call('ZREM', key('dirty'), id)
  redis.call('DEL', job_key(id), job_key(id) .. ':events')
  announce(id, 'deleted', '{}')
end
return {'ok', state}
