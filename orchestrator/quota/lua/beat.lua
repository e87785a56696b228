-- Keeps a worker alive. KEYS: the workers. ARGV: me, time to live in ms.
-- Returns the time of Redis in ms, or 0 when the worker is not known any more.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local ends = redis.call('HGET', KEYS[1], ARGV[1])
if not ends or tonumber(ends) <= now then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], now + tonumber(ARGV[2]))
return now
