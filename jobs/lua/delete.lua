-- Forgets a job that is in a final state.
-- ARGV[2] id
-- Answers ok, missing, or illegal with the state that forbids it.
local id = ARGV[2]
local state = get(id, 'state')
if not state then return {'missing', ''} end
if #MOVES[state] > 0 then return {'illegal', state} end
redis.call('ZREM', key('jobs:all'), id)
redis.call('ZREM', key('jobs:state:' .. state), id)
redis.call('DEL', job_key(id), job_key(id) .. ':events')
return {'ok', state}
