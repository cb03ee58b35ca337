-- The ranking of the owners who wait in a pool: a claim looks at the first alone, however many there
-- are. `ranked` holds them by aged priority, running jobs and turns; of equal ones the first came
-- first, since its member begins with that time. Whom limits hold is left out. `ranked:turns` holds
-- the same members by turns, and `ranked:due` by when an aged priority of theirs rises next.
--
-- Whatever changes the rank of an owner marks them (`mark_changed` in queue.lua), and the next claim
-- ranks those again. The ranking is made anew where `ranked:aging`, the aging it was made for, differs.

local CAME = 17  -- characters of a time in a member

-- The order of `is_next`, but for when an owner came, as one number below 2^53.
local function rank_of(share)
  return (9 - share.first.counts) * 2 ^ 48 + math.min(share.running, 65535) * 2 ^ 32
    + math.min(share.turns, 2 ^ 32 - 1)
end

-- When the aged priority of one of the heads rises next; nil for never.
local function rises_at(heads, aging)
  local due
  for _, head in pairs(heads) do
    if aging > 0 and head.counts < 9 then
      local at = head.since + (math.max(0, math.floor((NOW - head.since) / aging)) + 1) * aging
      due = math.min(due or at, at)
    end
  end
  return due
end

local function rank(pool, owner, aging)
  local came = tonumber(redis.call('ZSCORE', pool_key(pool, 'owners'), owner))
  if not came then return end
  local share = share_of(pool, owner, came, aging)
  forget_rank(pool, owner, came)
  if not share.first or held_by(left_for(owner), share.first.id) then return end
  local due = rises_at(share.heads, aging)
  redis.call('ZADD', pool_key(pool, 'ranked'), whole(rank_of(share)), stamp(came) .. owner)
  redis.call('ZADD', pool_key(pool, 'ranked:turns'), whole(share.turns), stamp(came) .. owner)
  if due then redis.call('ZADD', pool_key(pool, 'ranked:due'), stamp(due), stamp(came) .. owner) end
end

local function bring_up_to_date(pool, aging)
  local changed = redis.call('SMEMBERS', pool_key(pool, 'ranked:changed'))
  if redis.call('GET', pool_key(pool, 'ranked:aging')) ~= tostring(aging) then
    for _, index in ipairs(RANKED) do redis.call('DEL', pool_key(pool, index)) end
    redis.call('SET', pool_key(pool, 'ranked:aging'), tostring(aging))
    changed = redis.call('ZRANGE', pool_key(pool, 'owners'), 0, -1)
  else
    local due = redis.call('ZRANGEBYSCORE', pool_key(pool, 'ranked:due'), '-inf', stamp(NOW))
    for _, member in ipairs(due) do table.insert(changed, member:sub(CAME + 1)) end
  end
  for _, owner in ipairs(changed) do rank(pool, owner, aging) end
  redis.call('DEL', pool_key(pool, 'ranked:changed'))
end

-- The id of the job that is claimed next, and the fewest turns of those who wait; nil for none.
local function first_of_pool(pool, aging)
  bring_up_to_date(pool, aging)
  local member = redis.call('ZRANGE', pool_key(pool, 'ranked'), 0, 0)[1]
  if not member then return nil end
  local fewest = redis.call('ZRANGE', pool_key(pool, 'ranked:turns'), 0, 0, 'WITHSCORES')[2]
  return first_of(line_heads(line_key(pool, member:sub(CAME + 1)), aging)).id, tonumber(fewest)
end

-- Counts a claim as a turn of an owner. `fewest` are the turns of those who waited, if there was a
-- choice.
local function take_turn(pool, owner, fewest)
  if fewest then redis.call('HSET', pool_key(pool, 'turns'), '*', whole(fewest)) end
  redis.call('HINCRBY', pool_key(pool, 'turns'), owner, 1)
  mark_changed(pool, owner)
end
