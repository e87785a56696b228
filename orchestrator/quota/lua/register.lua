-- Makes a worker known, with what its requests hold, in the place of its earlier selves.
-- KEYS: the workers, then one counter for each holding.
-- ARGV: me, time to live in ms, my earlier names with spaces between them, then for each holding: held, lifetime in ms.
-- Returns the time of Redis in ms.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for name in string.gmatch(ARGV[3], '%S+') do redis.call('HDEL', KEYS[1], name) end
local workers = redis.call('HGETALL', KEYS[1])
for i = 1, #workers, 2 do
  if tonumber(workers[i + 1]) < now then redis.call('HDEL', KEYS[1], workers[i]) end
end
redis.call('HSET', KEYS[1], ARGV[1], now + tonumber(ARGV[2]))
for i = 2, #KEYS do
  redis.call('HSET', KEYS[i], ARGV[1], ARGV[4 + (i - 2) * 2])
  redis.call('PEXPIRE', KEYS[i], ARGV[5 + (i - 2) * 2])
end
return now
