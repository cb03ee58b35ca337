-- Replaces the specification of a job that has not ended, unless it changed since it was read.
-- ARGV[2] id   ARGV[3] its specification (JSON)   ARGV[4] the new one   ARGV[5] its priority
-- ARGV[6] the change, as data of the event (JSON)
-- Answers ok, missing, illegal with the final state, or changed when the specification differs.
local id, before, spec, priority = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local state = get(id, 'state')
if not state then return {'missing', ''} end
if FINAL[state] then return {'illegal', state} end
if get(id, 'spec') == spec then return {'ok', state} end
if get(id, 'spec') ~= before then return {'changed', state} end
local order = order_of(priority, tonumber(get(id, 'sequence')))
redis.call('HSET', job_key(id), 'spec', spec, 'priority', priority, 'order', order)
-- It keeps the time that it has waited, as far as its new place allows.
if drop_queued(get(id, 'pool'), id) then
  into_line(id, waits_since(id))
end
if state == 'running' then wake_worker(get(id, 'worker'), id) end
event(id, 'changed', ARGV[6])
return {'ok', state}
