-- Gives a day that Redis knows nothing of what the store knows. Both know at most what is true, so
-- the larger of the two is nearer to it.
-- KEYS: the counter. ARGV: used, lifetime in ms.
if redis.call('HGET', KEYS[1], 'seeded') then return 0 end
local used = tonumber(redis.call('HGET', KEYS[1], 'used') or '0')
redis.call('HSET', KEYS[1], 'used', math.max(used, tonumber(ARGV[1])), 'seeded', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
