-- Puts a paused job back into the queue.
-- ARGV[2] id
-- Answers ok, missing, or illegal with the state that forbids it.
local id = ARGV[2]
local state = get(id, 'state')
if not state then return {'missing', ''} end
if state ~= 'paused' then return {'illegal', state} end
move(id, state, 'queued')
enqueue(id, NOW)
event(id, 'resumed', '{}')
return {'ok', 'queued'}
