-- Ends an attempt and moves the job, unless something changed since the decision.
-- ARGV[2] id   ARGV[3] attempt   ARGV[4] state to go to   ARGV[5] pending request at the decision
-- ARGV[6] expiry of the lease at the decision, '' when the worker of the attempt ends it
-- ARGV[7] delay before the job may run again, seconds   ARGV[8] fields of the record (JSON)
-- ARGV[9] the attempt's receipt (JSON)   ARGV[10] event (JSON)
-- ARGV[11] what it adds to the counters (JSON)
-- Answers ok (also for the same end twice: the answer was lost, and the message may differ), stale,
-- illegal, or changed when a request arrived or the lease was renewed meanwhile: decide again.
local id, attempt, to, request, expiry = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local found = redis.call('HMGET', job_key(id), 'state', 'attempt', 'request', 'attempt:' .. attempt)
local from = found[1]
if not from then return {'missing', ''} end
local before, now = found[4] and cjson.decode(found[4]), cjson.decode(ARGV[9])
if before and before.reason == now.reason and before.ended_at == now.ended_at then
  return {'ok', from}
end
if from ~= 'running' or found[2] ~= attempt then return {'stale', found[2]} end
if not legal(from, to) then return {'illegal', from} end
if (found[3] or '') ~= request then return {'changed', 'request'} end
if expiry ~= '' and tonumber(redis.call('ZSCORE', key('leases'), id)) ~= tonumber(expiry) then
  return {'changed', 'lease'}
end
move(id, from, to)
for field, value in pairs(cjson.decode(ARGV[8])) do
  redis.call('HSET', job_key(id), field, value)
end
redis.call('HSET', job_key(id), 'attempt:' .. attempt, ARGV[9])
for name, amount in pairs(cjson.decode(ARGV[11])) do
  redis.call('HINCRBYFLOAT', key('counters'), name, amount)
end
if to == 'queued' then enqueue(id, NOW + tonumber(ARGV[7])) end
event(id, to == 'queued' and 'requeued' or to, ARGV[10])
return {'ok', to}
