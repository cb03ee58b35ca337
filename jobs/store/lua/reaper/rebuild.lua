-- Restores the record of a job from storage, in every index, if Redis has none.
-- ARGV[2] id   ARGV[3] number of the newest attempt that storage knows   ARGV[4] lease, seconds
-- ARGV[5] fields of the record (JSON)   ARGV[6] its events: a list of {id, fields} (JSON)
-- ARGV[7] lifetime of an Idempotency-Key, seconds   ARGV[8] data of the event `reindexed` (JSON)
-- A record in Redis stays as it is. But where storage has a newer attempt, Redis is the older one of
-- the two, and attempts continue above that number.
-- Answers ok with 'rebuilt' or 'known', or changed with the attempt that Redis had.
local id, newest, lease = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local has = get(id, 'attempt')
if has then
  if tonumber(has) >= newest then return {'ok', 'known'} end
  redis.call('HSET', job_key(id), 'attempt', newest)
  event(id, 'reindexed', ARGV[8])
  return {'changed', has}
end

local fields = cjson.decode(ARGV[5])
for field, value in pairs(fields) do redis.call('HSET', job_key(id), field, value) end
local sequence = tonumber(fields.sequence)
if redis.call('ZCOUNT', key('jobs:all'), sequence, sequence) > 0 then
  sequence = redis.call('INCR', key('sequence'))
elseif sequence > tonumber(redis.call('GET', key('sequence')) or 0) then
  redis.call('SET', key('sequence'), whole(sequence))
end
redis.call('HSET', job_key(id), 'sequence', whole(sequence),
  'order', order_of(tonumber(fields.priority), sequence))
redis.call('ZADD', key('jobs:all'), whole(sequence), id)
redis.call('ZADD', key('jobs:state:' .. fields.state), whole(sequence), id)
redis.call('SADD', key('pools'), fields.pool)

if fields.state == 'queued' then
  local due = tonumber(fields.not_before)
  if due > NOW then
    redis.call('ZADD', pool_key(fields.pool, 'delayed'), stamp(due), id)
  else
    into_line(id, waits_since(id))
  end
  redis.call('ZADD', key('outbox'), stamp(math.max(due, NOW)), id)
elseif fields.state == 'running' then
  add_running(fields.pool, id, whole(sequence))
  redis.call('HSETNX', pool_key(fields.pool, 'turns'), owner_of(id), 0)
  redis.call('ZADD', key('leases'), stamp(NOW + lease), id)
  redis.call('SET', key('epoch'), id, 'NX')
  if (fields.worker or '') ~= '' then
    redis.call('HSETNX', key('claims'), fields.worker, id)
    note_worker(fields.worker)
  end
end

local life = tonumber(fields.submitted_at) + tonumber(ARGV[7]) - NOW
local once = once_key(fields.owner, fields.idempotency or '')
if (fields.idempotency or '') ~= '' and life >= 1 and redis.call('EXISTS', once) == 0 then
  redis.call('HSET', once, 'id', id, 'digest', fields.digest)
  redis.call('EXPIRE', once, math.floor(life))
end

redis.call('DEL', job_key(id) .. ':events')
for _, past in ipairs(cjson.decode(ARGV[6])) do
  redis.call('XADD', job_key(id) .. ':events', past.id, unpack(past.fields))
end
event(id, 'reindexed', ARGV[8])
return {'ok', 'rebuilt'}
