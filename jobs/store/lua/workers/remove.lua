-- Removes a worker that ends from the registry.
-- ARGV[2] worker
redis.call('ZREM', key('workers'), ARGV[2])
redis.call('DEL', key('worker:' .. ARGV[2]))
return {'ok', ''}
