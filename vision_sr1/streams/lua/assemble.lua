-- Adds one member to a group and hands the input over; whoever adds the last member emits the whole group.
-- KEYS: input stream, the group's partial hash, output stream, the output's "written" mark.
-- ARGV: consumer group, input entry, seconds that marks live, group id, member field, member payload, group size.
-- The group's message is the concatenation of its members' messages, ordered by their fields, which are numbers.
-- Returns 1 where it was emitted, else 0.
local emitted = 0
if redis.call('EXISTS', KEYS[4]) == 0 then
  redis.call('HSETNX', KEYS[2], ARGV[5], ARGV[6])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
  if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[7]) then
    local fields = redis.call('HKEYS', KEYS[2])
    table.sort(fields, function(one, other) return tonumber(one) < tonumber(other) end)
    redis.call('SET', KEYS[4], '1', 'EX', ARGV[3])
    redis.call('XADD', KEYS[3], '*', 'id', ARGV[4], 'message', table.concat(redis.call('HMGET', KEYS[2], unpack(fields))))
    redis.call('DEL', KEYS[2])
    emitted = 1
  end
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
return emitted
