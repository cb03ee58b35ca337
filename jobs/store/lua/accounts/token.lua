-- Stores or removes a token, and notes that in the audit.
-- ARGV[2] id   ARGV[3] the token (JSON), or '' to remove it
-- ARGV[4] kind of the change, or '' to note none   ARGV[5] data of the change (JSON)
-- ARGV[6] ids of tokens that are over, to forget (JSON)
-- Answers ok, or missing when there is none to remove. Each change has a new version: by it the
-- API processes see that they have to read the tokens again. It is a time, so that it never comes
-- again after a loss of Redis.
local id, token = ARGV[2], ARGV[3]
if token == '' and redis.call('HEXISTS', key('tokens'), id) == 0 then return {'missing', ''} end
if token == '' then
  redis.call('HDEL', key('tokens'), id)
  redis.call('HDEL', key('tokens:used'), id)
else
  redis.call('HSET', key('tokens'), id, token)
end
for _, over in ipairs(cjson.decode(ARGV[6])) do
  redis.call('HDEL', key('tokens'), over)
  redis.call('HDEL', key('tokens:used'), over)
end
redis.call('SET', key('tokens:version'), stamp(NOW))
if ARGV[4] ~= '' then audit(ARGV[4], ARGV[5]) end
return {'ok', ''}
