-- Finds among the next jobs of an index, newest first, those that may match a filter.
-- ARGV[2] index, a key without prefix   ARGV[3] sequence number behind which to look, '' for all
-- ARGV[4] how many jobs to look at   ARGV[5] pool   ARGV[6] owner   ARGV[7] id of the job that they
-- are forks of, each '' for any   ARGV[8] {key: value} of strings that the specification contains, a
-- value '' for any (JSON)
-- Answers ok with {found: ids and sequence numbers in turn, looked: number of jobs, last: sequence
-- number of the last one} (JSON).
local pool, owner, source = ARGV[5], ARGV[6], ARGV[7]
local patterns = {}
for name, value in pairs(cjson.decode(ARGV[8])) do
  -- As JSON writes it, with spaces or without.
  local pattern = ('"%s"%%s*:'):format(name:gsub('%p', '%%%0'))
  if value ~= '' then pattern = pattern .. ('%%s*"%s"'):format(value:gsub('%p', '%%%0')) end
  table.insert(patterns, pattern)
end
local bound = ARGV[3] == '' and '+inf' or '(' .. ARGV[3]
local jobs = redis.call('ZREVRANGEBYSCORE', key(ARGV[2]), bound, '-inf', 'WITHSCORES', 'LIMIT', 0,
  tonumber(ARGV[4]))

local function may_match(id)
  local job = redis.call('HMGET', job_key(id), 'pool', 'owner', 'forked_from', 'spec')
  if pool ~= '' and job[1] ~= pool or owner ~= '' and job[2] ~= owner then return false end
  if source ~= '' and not (job[3] or ''):find(source, 1, true) then return false end
  for _, pattern in ipairs(patterns) do
    if not (job[4] or ''):find(pattern) then return false end
  end
  return true
end

local found = {}
for position = 1, #jobs, 2 do
  if may_match(jobs[position]) then
    table.insert(found, jobs[position])
    table.insert(found, jobs[position + 1])
  end
end
return {'ok', cjson.encode({
  found = #found > 0 and found or nil, looked = #jobs / 2, last = jobs[#jobs] or '',
})}
