-- Requests a running job to stop, or cancels one that does not run.
-- ARGV[2] id   ARGV[3] request   ARGV[4] the requests, weakest first (JSON)
-- ARGV[5] attempt it was decided for, or ''   ARGV[6] the job that is to have its place, or ''
-- ARGV[7] mark of this call, which the client may send twice
-- A stronger request replaces a weaker one, the same one again does nothing. A pause may be taken
-- back (jobs/resume.lua): what a person had asked for before it is kept for that.
-- Answers ok with the state, missing, illegal with the state that forbids it, or changed when the
-- attempt is over, or the other job does not wait with a higher priority any more.
local id, request, attempt, other, mark = ARGV[2], ARGV[3], ARGV[5], ARGV[6], ARGV[7]
local rank = {}
for position, name in ipairs(cjson.decode(ARGV[4])) do rank[name] = position end
local state = get(id, 'state')
if not state then return {'missing', ''} end
if get(id, 'call') == mark then return {'ok', state} end
if attempt ~= '' and get(id, 'attempt') ~= attempt then return {'changed', 'attempt'} end
if other ~= '' and (get(other, 'state') ~= 'queued'
    or tonumber(get(other, 'priority')) <= tonumber(get(id, 'priority'))) then
  return {'changed', other}
end
if state == 'running' then
  local pending = get(id, 'request') or ''
  if pending == request then return {'ok', state} end
  if (rank[pending] or 0) > rank[request] then return {'illegal', doing(id, state)} end
  local before = request == 'pause' and pending == 'preempt' and pending or ''
  redis.call('HSET', job_key(id), 'request', request, 'evicted_for', other, 'request_before', before)
  wake_worker(get(id, 'worker'), id)
  event(id, 'requested', cjson.encode({request = request, ['for'] = other ~= '' and other or nil}))
elseif (request == 'cancel' and state == 'cancelled') or (request == 'pause' and state == 'paused') then
  return {'ok', state}
elseif request == 'cancel' and legal(state, 'cancelled') then
  move(id, state, 'cancelled')
  redis.call('HSET', job_key(id), 'reason', 'cancelled', 'message', 'cancelled on request')
  redis.call('HINCRBYFLOAT', key('counters'), 'jobs:cancelled:cancelled', 1)
  event(id, 'cancelled', '{}')
else
  return {'illegal', state}
end
redis.call('HSET', job_key(id), 'call', mark)
return {'ok', get(id, 'state')}
