-- Lists the jobs of a pool in the order in which they would be claimed now, if none ended meanwhile.
-- ARGV[2] pool   ARGV[3] seconds of aging, 0 for none   ARGV[4] largest number of jobs, -1 for all
-- Jobs that the limits of their owners hold are left out. Answers ok with the ids (JSON).
local pool, aging, most = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
admit_delayed(pool)
local found, ids = shares(pool, aging), {}
local share = next_share(found)
while share and #ids ~= most do
  local first, left = share.first, share.left
  table.insert(ids, first.id)
  share.running, share.turns, left.jobs = share.running + 1, share.turns + 1, left.jobs - 1
  if left.gpus < math.huge then left.gpus = left.gpus - gpus_of(first.id) end
  local id, order = first_in_line(share.queue, first.priority, first.order)
  share.heads[first.priority] = id and turn_of(id, order, aging) or nil
  share.first = first_of(share.heads)
  share = next_share(found)
end
return {'ok', #ids > 0 and cjson.encode(ids) or '[]'}
