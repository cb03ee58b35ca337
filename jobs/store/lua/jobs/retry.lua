-- Queues a failed or cancelled job again: its run continues, with full budgets.
-- ARGV[2] id   ARGV[3] mark of this call, which the client may send twice
-- Answers ok, missing, or illegal with the state that forbids it.
local id = ARGV[2]
local state = get(id, 'state')
if not state then return {'missing', ''} end
if get(id, 'call') == ARGV[3] then return {'ok', state} end
if not FINAL[state] or not legal(state, 'queued') then return {'illegal', doing(id, state)} end
if get(id, 'deleting') == '1' then return {'illegal', 'being deleted'} end
move(id, state, 'queued')
redis.call('HSET', job_key(id), 'call', ARGV[3], 'finished_at', '', 'reason', '', 'message', '',
  'failures', 0, 'no_progress', 0, 'run_seconds', 0)
enqueue(id, NOW)
event(id, 'retried', '{}')
return {'ok', 'queued'}
