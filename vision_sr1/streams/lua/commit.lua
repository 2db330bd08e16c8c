-- Writes outputs whose ids are new, then acknowledges and deletes the input: one atomic step.
-- KEYS: input stream (or the first output's, without input), then per output its stream and its "written" mark.
-- ARGV: consumer group, input entry ("" without input), seconds that marks live, then per output its id and payload.
-- Returns the number of outputs written.
local written = 0
for i = 0, (#KEYS - 1) / 2 - 1 do
  local stream, mark = KEYS[2 + 2 * i], KEYS[3 + 2 * i]
  if redis.call('SET', mark, '1', 'NX', 'EX', ARGV[3]) then
    redis.call('XADD', stream, '*', 'id', ARGV[4 + 2 * i], 'message', ARGV[5 + 2 * i])
    written = written + 1
  end
end
if ARGV[2] ~= '' then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
  redis.call('XDEL', KEYS[1], ARGV[2])
end
return written
