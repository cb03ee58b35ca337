-- Lists the jobs of a pool in the order in which they would be claimed now.
-- ARGV[2] pool   ARGV[3] seconds of aging, 0 for none   ARGV[4] largest number of jobs, -1 for all
-- Answers ok with their ids (JSON).
local pool, aging, most = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
admit_delayed(pool)
local heads, ids = line_heads(pool, aging), {}
local first = first_of(heads)
while first and #ids ~= most do
  table.insert(ids, first.id)
  local id, order = first_in_line(pool, first.priority, first.order)
  heads[first.priority] = id and turn_of(id, order, aging) or nil
  first = first_of(heads)
end
return {'ok', #ids > 0 and cjson.encode(ids) or '[]'}
