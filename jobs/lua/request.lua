-- Asks a running job to stop, or cancels one that is not running.
-- ARGV[2] id   ARGV[3] request   ARGV[4] the requests, weakest first (JSON)
-- A stronger request replaces a weaker one, the same one again does nothing.
-- Answers ok with the state, missing, or illegal with the state that forbids it.
local id, request = ARGV[2], ARGV[3]
local rank = {}
for position, name in ipairs(cjson.decode(ARGV[4])) do rank[name] = position end
local state = get(id, 'state')
if not state then return {'missing', ''} end
if state == 'running' then
  local pending = get(id, 'request') or ''
  if pending == request then return {'ok', state} end
  if (rank[pending] or 0) > rank[request] then return {'illegal', 'asked to ' .. pending} end
  redis.call('HSET', job_key(id), 'request', request)
  event(id, 'requested', cjson.encode({request = request}))
elseif request == 'cancel' and state == 'cancelled' then
  return {'ok', state}
elseif request == 'cancel' and legal(state, 'cancelled') then
  move(id, state, 'cancelled')
  redis.call('HSET', job_key(id), 'reason', 'cancelled', 'message', 'cancelled on request')
  event(id, 'cancelled', '{}')
else
  return {'illegal', state}
end
return {'ok', get(id, 'state')}
