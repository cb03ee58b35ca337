-- Notes a change that belongs to no job.
-- ARGV[2] kind of the change   ARGV[3] data of the change (JSON)
audit(ARGV[2], ARGV[3])
return {'ok', ''}
