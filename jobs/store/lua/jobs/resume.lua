-- Queues a paused job again, or withdraws the pause of one that still runs.
-- ARGV[2] id   ARGV[3] mark of this call, which the client may send twice
-- An attempt that stops for the withdrawn pause is queued again at once (jobs.model.rules.decide).
-- Answers ok with the state, missing, or illegal with the state that forbids it.
local id = ARGV[2]
local state = get(id, 'state')
if not state then return {'missing', ''} end
if get(id, 'call') == ARGV[3] then return {'ok', state} end
if state == 'running' and get(id, 'request') == 'pause' then
  redis.call('HSET', job_key(id), 'request', get(id, 'request_before') or '', 'request_before', '')
  wake_worker(get(id, 'worker'), id)
elseif state == 'paused' then
  move(id, state, 'queued')
  enqueue(id, NOW)
else
  return {'illegal', doing(id, state)}
end
redis.call('HSET', job_key(id), 'call', ARGV[3])
event(id, 'resumed', '{}')
return {'ok', get(id, 'state')}
