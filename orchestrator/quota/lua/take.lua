-- Takes every claim or none, in one step for all workers.
-- KEYS: the workers, then one counter for each claim.
-- ARGV: me, dry (0 or 1), the latest time of Redis in ms or 0, then for each claim: limit, cost,
-- field (`used`, or me), lifetime in ms, whether it must be seeded (0 or 1).
-- Returns a code and what is taken of each counter: 0 taken, n the nth claim has no room;
-- -1 the worker is not known (any more), -2 the listed claims are not seeded, -3 too late.
local me, dry, latest = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local lives = {}

local function is_alive(name)
  if lives[name] == nil then
    local ends = redis.call('HGET', KEYS[1], name)
    lives[name] = ends ~= false and tonumber(ends) > now
  end
  return lives[name]
end

if not dry then
  if latest > 0 and now > latest then return {-3} end
  if not is_alive(me) then return {-1} end
end

local counts, unseeded, code = {}, {-2}, 0
for i = 2, #KEYS do
  local at = 4 + (i - 2) * 5
  local limit, cost = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local fields = redis.call('HGETALL', KEYS[i])
  local sum, seeded = 0, false
  for j = 1, #fields, 2 do
    local name = fields[j]
    if name == 'seeded' then
      seeded = true
    elseif name == 'used' or is_alive(name) then
      sum = sum + tonumber(fields[j + 1])
    elseif not dry then
      redis.call('HDEL', KEYS[i], name)
    end
  end
  if ARGV[at + 4] == '1' and not seeded then unseeded[#unseeded + 1] = i - 1 end
  counts[i - 1] = sum
  if code == 0 and cost > 0 and sum + cost > limit then code = i - 1 end
end
if #unseeded > 1 then return unseeded end

if code == 0 and not dry then
  for i = 2, #KEYS do
    local at = 4 + (i - 2) * 5
    local cost = tonumber(ARGV[at + 1])
    if cost > 0 then
      redis.call('HINCRBY', KEYS[i], ARGV[at + 2], cost)
      redis.call('PEXPIRE', KEYS[i], ARGV[at + 3])
      counts[i - 1] = counts[i - 1] + cost
    end
  end
end
return {code, unpack(counts)}
