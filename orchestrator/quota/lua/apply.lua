-- Adds an owner's lines, each of them once, however often it is sent.
-- KEYS: the number of the owner's last line, then counters.
-- ARGV: owner, lifetime of that number in ms, then for each change: number of its line, index of
-- its counter, used, held, lifetime in ms.
local owner = ARGV[1]
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local top = last
for i = 3, #ARGV, 5 do
  local line = tonumber(ARGV[i])
  if line > last then
    local key = KEYS[tonumber(ARGV[i + 1])]
    local used, held = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
    if used ~= 0 then redis.call('HINCRBY', key, 'used', used) end
    if held ~= 0 and redis.call('HINCRBY', key, owner, held) <= 0 then
      redis.call('HDEL', key, owner)
    end
    redis.call('PEXPIRE', key, ARGV[i + 4])
    top = math.max(top, line)
  end
end
redis.call('SET', KEYS[1], top, 'PX', ARGV[2])
return top
