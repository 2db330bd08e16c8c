-- Keeps a message that could not be handled, once, with what is known of its failure.
-- KEYS: the stream of dead letters, the letter's "written" mark.
-- ARGV: seconds that marks live, then field, value, field, value ...
-- Returns 1 where it was written, else 0.
if not redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[1]) then
  return 0
end
redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
return 1
